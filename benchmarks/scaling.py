"""Whether a prediction costs the same under load, with a backlog, and with more processes.

    python -m benchmarks.scaling --rounds 1 --scale 0.2                     # a minute
    python -m benchmarks.scaling --rounds 3 --json benchmarks/scaling.json  # some five minutes

Predictions of the model identity, which saturates no core, so that it is our own processes that
are measured. CPU-ms are of all servers together, for each prediction. Cells are interleaved, and
each figure is the median of the rounds.

* load: submit and wait, by 1 to 256 callers at once;
* backlog: what a submit costs with 0 to 100,000 predictions queued, while no dispatcher runs; and
  what each costs to be run after that;
* processes: one gateway against two, one dispatcher against two.
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from benchmarks import processes
from benchmarks.load import Connection, Work, closed_loop, connections
from benchmarks.pieces import Pieces, pieces
from benchmarks.product import submit, submit_and_wait
from benchmarks.results import finish, parser_of, table, tell
from broker import Broker

MODEL = "identity"
SIZE = 1_000  # bytes of an input
AT_ONCE = (1, 8, 64, 256)
BACKLOGS = (0, 10_000, 100_000)
SUBMITTERS, WAITERS = 64, 128
WAITED, SUBMITTED = 8_000, 8_000  # predictions of one cell, at scale 1
# Of these, so many are run and measured. They leave the queue by the batch, a thousand at a time.
DRAINED = 40_000
SETTLE_S = 0.05
EMPTY_S_MAX = 300.0
FIRST_SHARE = 10  # of what is drained, the first tenth warms the dispatcher

Figures = dict[str, float]


class Meter:
    """CPU and wall time from one moment to another."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._spent = processes.cpu_s()

    def figures(self, count: int) -> Figures:
        """What each of `count` predictions took, and how many a second there were."""
        wall_s = time.perf_counter() - self._began_s
        now = processes.cpu_s()
        each = {kind: 1000 * (s - self._spent.get(kind, 0.0)) / count for kind, s in now.items()}
        return {"per_s": count / wall_s, "cpu_ms": sum(each.values()), **each}


async def load(ports: Sequence[int], at_once: int, count: int, work: Work) -> Figures:
    """Spread a load over gateways; the cost of each prediction."""
    async with AsyncExitStack() as opened:
        links: list[Connection] = []
        for number, port in enumerate(ports):
            share = at_once // len(ports) + (number < at_once % len(ports))
            links += await opened.enter_async_context(connections(port, share))
        await closed_loop(links, max(at_once, count // 20), work)  # warm
        meter = Meter()
        loaded = await closed_loop(links, count, work)
        figures = meter.figures(count)
    return {**figures, "p50_ms": loaded.quantile_ms(0.5), "p99_ms": loaded.quantile_ms(0.99)}


async def until_at_most(broker: Broker, tickets: int) -> int:
    """Wait until the queue holds no more than that; what it holds then."""
    async with asyncio.timeout(EMPTY_S_MAX):
        while (left := (await broker.depth()).tickets) > tickets:  # noqa: ASYNC110 - no event
            await asyncio.sleep(SETTLE_S)
        return left


async def drain(broker: Broker, count: int) -> Figures:
    """What it costs to run `count` of those that are queued, the first tenth left out."""
    queued = (await broker.depth()).tickets
    first = await until_at_most(broker, queued - count // FIRST_SHARE)
    meter = Meter()
    last = await until_at_most(broker, max(0, queued - count))
    return meter.figures(first - last)


async def with_backlog(site: Pieces, broker: Broker, backlog: int, scale: float) -> list[Figures]:
    """The cost of a submit on top of a backlog, and of running what is queued."""
    await site.stop("dispatcher")
    send = submit(MODEL, SIZE)
    await filled(site, broker, backlog)
    submitting = await load([site.port], SUBMITTERS, int(SUBMITTED * scale), send)
    await filled(site, broker, int(DRAINED * scale))
    await site.start("dispatcher")
    running = await drain(broker, int(0.8 * DRAINED * scale))
    return [submitting, running]


async def filled(site: Pieces, broker: Broker, tickets: int) -> None:
    """Submit until so many are queued; no dispatcher runs."""
    missing = tickets - (await broker.depth()).tickets
    if missing > 0:
        async with connections(site.port, SUBMITTERS) as links:
            await closed_loop(links, missing, submit(MODEL, SIZE))


async def dispatchers(site: Pieces, broker: Broker, names: Sequence[str], count: int) -> Figures:
    """How fast so many dispatchers run what is queued."""
    await site.stop("dispatcher")
    await filled(site, broker, count)
    await asyncio.gather(*(site.start(name) for name in names))
    figures = await drain(broker, int(0.8 * count))
    await until_at_most(broker, 0)
    for name in names:
        if name != "dispatcher":
            await site.stop(name)
    if "dispatcher" not in site.processes:
        await site.start("dispatcher")
    return figures


async def one_round(site: Pieces, broker: Broker, scale: float) -> dict[tuple[str, str], Figures]:
    measured: dict[tuple[str, str], Figures] = {}
    wait, send = submit_and_wait(MODEL, SIZE), submit(MODEL, SIZE)
    for at_once in AT_ONCE:
        count = int((WAITED if at_once > 1 else WAITED / 8) * scale)
        measured["load", f"{at_once} at once"] = await load([site.port], at_once, count, wait)
    tell("load")
    both = [site.port, site.port_of("gateway-2")]
    for ports, name in ((both[:1], "one gateway"), (both, "two gateways")):
        cell = await load(ports, WAITERS, int(WAITED * scale), wait)
        measured["processes", f"{name}, submit and wait"] = cell
        cell = await load(ports, SUBMITTERS, int(SUBMITTED * scale), send)
        measured["processes", f"{name}, submit alone"] = cell
        await until_at_most(broker, 0)
    tell("gateways")
    for names in (("dispatcher",), ("dispatcher", "dispatcher-2")):
        name = f"{('one dispatcher', 'two dispatchers')[len(names) - 1]}, draining"
        cell = await dispatchers(site, broker, names, int(DRAINED * scale))
        measured["processes", name] = cell
    tell("dispatchers")
    for backlog in BACKLOGS:
        wanted = int(backlog * scale)
        submitting, running = await with_backlog(site, broker, wanted, scale)
        measured["backlog", f"{wanted:,} queued, submit"] = submitting
        queued = max(wanted + int(SUBMITTED * scale), int(DRAINED * scale))
        measured["backlog", f"{queued:,} queued, run"] = running
        tell(f"{wanted:,} queued")
    await until_at_most(broker, 0)
    return measured


async def run(given: argparse.Namespace) -> dict[str, Any]:
    environment = {"GATEWAY_LOG_LEVEL": "error", "DISPATCHER_LOG_LEVEL": "error"}
    layout = pieces(
        given.folder, (MODEL,), sync_interval=given.sync_interval, environment=environment
    )
    seen: defaultdict[tuple[str, str], list[Figures]] = defaultdict(list)
    async with layout as site:
        await site.start("postgres", "nats", "triton", "dispatcher", "gateway", "gateway-2")
        await site.ready()
        async with site.broker() as broker:
            for number in range(given.rounds):
                for cell, figures in (await one_round(site, broker, given.scale)).items():
                    seen[cell].append(figures)
                tell(f"round {number + 1} of {given.rounds}")
    cells = [
        {"what": what, "cell": cell, **_medians(figures)} for (what, cell), figures in seen.items()
    ]
    return {"cells": cells}


def _medians(rounds: list[Figures]) -> dict[str, Any]:
    names = {name for figures in rounds for name in figures}
    middle = {
        name: round(statistics.median(it.get(name, 0.0) for it in rounds), 3) for name in names
    }
    costs = [it["cpu_ms"] for it in rounds]
    return {
        **dict(sorted(middle.items())),
        "cpu_ms_range": [round(min(costs), 3), round(max(costs), 3)],
    }


SHOWN = ("gateway", "dispatcher", "nats-server", "postgres")


def tables(figures: dict[str, Any]) -> list[str]:
    heads = ["", "per s", "p50 ms", "p99 ms", "CPU-ms each", "from to", *SHOWN]
    made = []
    for what in ("load", "backlog", "processes"):
        rows = [
            [
                cell["cell"],
                f"{cell['per_s']:,.0f}",
                *(f"{cell[name]:.1f}" if name in cell else "" for name in ("p50_ms", "p99_ms")),
                f"{cell['cpu_ms']:.2f}",
                "{:.2f} to {:.2f}".format(*cell["cpu_ms_range"]),
                *(f"{cell.get(kind, 0.0):.2f}" for kind in SHOWN),
            ]
            for cell in figures["cells"]
            if cell["what"] == what
        ]
        made.append(table([what, *heads[1:]], rows))
    return made


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual counts")
    parser.add_argument("--sync-interval", default="always", help="of nats-server")
    given = parser.parse_args()
    figures = uvloop.run(run(given))
    finish(given, figures, tables(figures))


if __name__ == "__main__":
    main()
