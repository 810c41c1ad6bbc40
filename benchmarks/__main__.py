"""Everything that docs/performance.md compares, in one run: `make bench`.

    python -m benchmarks --rounds 5              # some twelve minutes; writes results and tables
    python -m benchmarks --quick --only 'fp32/*'  # half a minute; prints

All systems are up at once and take turns, cell by cell, so that a slow minute of the machine is
one for each of them. What a figure is made of: benchmarks/direct.py, product.py and peer/.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import direct, processes, product, report
from benchmarks.peer import load as peer
from benchmarks.product import Cell, Figures
from benchmarks.results import ROOT, circumstances, tell
from benchmarks.systems import System, Unavailable, system
from benchmarks.versions import versions

RESULTS = ROOT / "benchmarks" / "results.json"
QUICK = 8  # a quick run does so many times less
WARM = 20  # and warming is that much less
IDLE_S = 2.0
FP32, INT8 = "efficientnet_lite0", "efficientnet_lite0_int8"
# The first of these is the safe setting, and Triton is asked directly on that installation.
SYNC_INTERVALS = ("always", "2m")
SAFE = f"product, {SYNC_INTERVALS[0]}"

Systems = dict[str, System]


@dataclass(frozen=True)
class Trial:
    """One load of one system."""

    load: str
    name: str  # of the system, as it is shown
    needs: str  # the one that must be up
    count: int
    run: Callable[[System, int], Awaitable[Figures]]

    @property
    def title(self) -> str:
        return f"{self.load}/{self.name}"


def trials() -> list[Trial]:
    """In the order of a round: what is compared stands together."""
    made = []
    for load, model, count in (("fp32", FP32, 400), ("int8", INT8, 800)):
        made.append(Trial(load, "raw", f"raw {load}", count, direct.raw))
        made.append(_direct(load, direct.classify(model), count, 64))
        made += _products(load)
        if load == "fp32":
            made.append(_peer(load, Cell(300, 64, peer.submit_and_fetch())))
    made.append(_direct("noop", direct.echo(), 10_000, 128))
    made += _products("noop")
    made.append(_peer("noop", Cell(2_000, 128, peer.submit_and_wait_noop())))
    made += _products("submit") + _products("submit 100 KB")
    made.append(_direct("one fp32", direct.classify(FP32), 150, 1))
    made += _products("one fp32")
    made.append(_peer("one fp32", Cell(150, 1, peer.submit_and_wait_image())))
    made.append(_direct("one noop", direct.echo(), 400, 1))
    made += _products("one noop")
    made.append(_peer("one noop", Cell(200, 1, peer.submit_and_wait_noop())))
    return made


def _products(load: str) -> list[Trial]:
    return [_over_http(load, f"product, {sync}", product.CELLS[load]()) for sync in SYNC_INTERVALS]


def _peer(load: str, cell: Cell) -> Trial:
    return _over_http(load, "peer", cell)


def _over_http(load: str, name: str, cell: Cell) -> Trial:
    def run(it: System, count: int) -> Awaitable[Figures]:
        return product.measured(it.port, replace(cell, count=count), it.pid)

    return Trial(load, name, name, cell.count, run)


def _direct(load: str, ask: direct.Ask, count: int, at_once: int) -> Trial:
    def run(it: System, count: int) -> Awaitable[Figures]:
        return direct.measured(it, ask, count, at_once)

    return Trial(load, "direct Triton", SAFE, count, run)


async def start(needed: set[str], folder: Path, opened: AsyncExitStack) -> Systems:
    """Those systems that are needed. The peer is left out where it cannot run, and it is told why.

    Raises:
        Unavailable: another one cannot run.
    """
    how: dict[str, tuple[str, ...]] = {
        "raw fp32": ("benchmarks.raw", FP32),
        "raw int8": ("benchmarks.raw", INT8),
        "peer": ("benchmarks.peer", str(folder / "peer")),
    }
    for sync in SYNC_INTERVALS:
        how[f"product, {sync}"] = ("benchmarks.systems", str(folder / sync), sync)
    found: Systems = {}
    for name, words in how.items():
        if name in needed:
            try:
                found[name] = await opened.enter_async_context(system(name, *words))
                tell(f"{name} is ready")
            except Unavailable as error:
                if name != "peer":
                    raise
                tell(f"{name} is left out: {error}")
    return found


async def idle(systems: Systems) -> dict[str, dict[str, float]]:
    """The share of one core that each kind of process of each system takes while nobody asks."""
    before = {name: processes.cpu_s(it.pid) for name, it in systems.items()}
    await asyncio.sleep(IDLE_S)
    after = {name: processes.cpu_s(it.pid) for name, it in systems.items()}
    return {
        name: {
            kind: round((s - before[name].get(kind, 0.0)) / IDLE_S, 4) for kind, s in spent.items()
        }
        for name, spent in after.items()
    }


async def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    chosen = [it for it in trials() if fnmatch(it.title, given.only)]
    share = QUICK if given.quick else 1
    seen: dict[str, list[Figures]] = {it.title: [] for it in chosen}
    where = circumstances()  # with the load before ours
    async with AsyncExitStack() as opened:
        systems = await start({it.needs for it in chosen}, folder, opened)
        chosen = [it for it in chosen if it.needs in systems]
        for it in chosen:
            await it.run(systems[it.needs], max(it.count // WARM, 16))
        idling = await idle(systems)
        tell("all are warm")
        for number in range(given.rounds):
            for it in chosen:
                figures = await it.run(systems[it.needs], max(it.count // share, 16))
                seen[it.title].append(figures)
                tell(f"{it.title}: {figures.per_s:,.0f}/s, {figures.cpu_ms:.2f} CPU-ms")
            tell(f"round {number + 1} of {given.rounds}")
    cells = [
        {
            "load": it.load,
            "system": it.name,
            "count": max(it.count // share, 16),
            "rounds": [_rounded(asdict(each)) for each in seen[it.title]],
        }
        for it in chosen
    ]
    return {
        **where,
        "versions": versions(),
        "rounds": given.rounds,
        "idle_cores": idling,
        "cells": cells,
    }


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _rounded(it) if isinstance(it, dict) else round(it, 4)
        for name, it in figures.items()
        if isinstance(it, dict) or it != 0.0
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", help="LOAD/SYSTEM, as in 'fp32/*'; prints only")
    parser.add_argument("--quick", action="store_true", help="an eighth of the load; prints only")
    parser.add_argument("--json", type=Path, help="write the figures there; implied by a full run")
    parser.add_argument("--redraw", action="store_true", help="only show the last results again")
    given = parser.parse_args()
    if given.redraw:
        _publish(json.loads(RESULTS.read_text()))
        return 0
    with tempfile.TemporaryDirectory(prefix="tritonq-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres, run as nobody, passes through it
        results = uvloop.run(run(given, Path(folder)))
    whole = given.only == "*" and not given.quick
    if path := given.json or (RESULTS if whole else None):
        path.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write("\n".join(table(results) for table in report.TABLES.values()))
    if whole and given.json is None:
        _publish(results)
    return 0


def _publish(results: dict[str, Any]) -> None:
    """Draw the plots, and bring the tables of the documents up to date."""
    from benchmarks import plots
    from tests.house import tables

    plots.draw(results, ROOT / "docs")
    tables.main()


if __name__ == "__main__":
    sys.exit(main())
