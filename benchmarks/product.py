"""What a prediction costs by the whole product: predictions/s, CPU-ms each by process, latency.

    python -m benchmarks.product fp32 int8 noop --rounds 5

Starts everything in a new state folder and loads it through its REST API. The load generator
shares the machine; its own CPU time is shown apart.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import processes
from benchmarks.load import Connection, Loaded, closed_loop, connections, get, post, read_answer
from benchmarks.photographs import photographs
from standalone.installation import Options
from standalone.state import Running
from standalone.up import up

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 64  # different ones
JSON = "application/json"
SMALL, LARGE = 1_000, 100_000  # bytes


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    count: int
    at_once: int
    work: Callable[[Connection, int], Awaitable[None]]
    alone: bool = False  # submitted while no dispatcher runs; they run it before the next cell


@dataclass(frozen=True)
class Figures:
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of all servers, for each prediction
    by_process: dict[str, float]
    client_cpu_ms: float


def submit_and_fetch(model: str) -> Callable[[Connection, int], Awaitable[None]]:
    """POST a photograph, then GET its outcome."""
    path = f"/v1/models/triton/{model}/predictions"
    images, fresh = photographs(IMAGES), count()
    known: dict[int, bytes] = {}

    async def work(link: Connection, number: int) -> None:
        image = _unlike_others(images[number % IMAGES], fresh)
        status, body = await link.ask(post(path, image, "image/jpeg"))
        assert status == 202, body
        status, body = await link.ask(get(f"/v1/predictions/{read_answer(body).id}?wait=55"))
        answer = read_answer(body)
        assert (status, answer.status) == (200, "succeeded"), body
        label = bytes(answer.output).partition(b",")[0]
        assert known.setdefault(number % IMAGES, label) == label, "another label than before"

    return work


def submit_and_wait(model: str, size: int) -> Callable[[Connection, int], Awaitable[None]]:
    """POST a text with `Prefer: wait`."""
    text = "x" * size
    body = json.dumps({"input": {"INPUT0": text}}).encode()
    path = f"/v1/models/triton/{model}/predictions"
    request = post(path, body, JSON, "Prefer: wait=55")

    async def work(link: Connection, _: int) -> None:
        status, body = await link.ask(request)
        answer = read_answer(body)
        assert (status, answer.status) == (201, "succeeded"), body
        assert text.encode() in bytes(answer.output)

    return work


def wait_for_photograph(model: str) -> Callable[[Connection, int], Awaitable[None]]:
    path = f"/v1/models/triton/{model}/predictions"
    images, fresh = photographs(IMAGES), count()

    async def work(link: Connection, number: int) -> None:
        image = _unlike_others(images[number % IMAGES], fresh)
        status, body = await link.ask(post(path, image, "image/jpeg", "Prefer: wait=55"))
        assert (status, read_answer(body).status) == (201, "succeeded"), body

    return work


def _unlike_others(image: bytes, fresh: Iterator[int]) -> bytes:
    """The same photograph in other bytes, or its file would be kept already: more after its end."""
    return image + next(fresh).to_bytes(8)


def submit(model: str, size: int) -> Callable[[Connection, int], Awaitable[None]]:
    """POST a small text as JSON, a large one as a file of its own, as callers do."""
    path = f"/v1/models/triton/{model}/predictions"
    text, fresh = "x" * size, count()

    async def work(link: Connection, _: int) -> None:
        if size > SMALL:
            request = post(path, f"{next(fresh):x<{size}}".encode(), "application/octet-stream")
        else:
            request = post(path, json.dumps({"input": {"INPUT0": text}}).encode(), JSON)
        status, body = await link.ask(request)
        assert status == 202, body

    return work


CELLS: dict[str, Callable[[], Cell]] = {
    "fp32": lambda: Cell(400, 64, submit_and_fetch("efficientnet_lite0")),
    "int8": lambda: Cell(800, 64, submit_and_fetch("efficientnet_lite0_int8")),
    "noop": lambda: Cell(10_000, 128, submit_and_wait("identity", SMALL)),
    "noop 100 KB": lambda: Cell(3_000, 64, submit_and_wait("identity", LARGE)),
    "submit": lambda: Cell(12_000, 64, submit("identity", SMALL), alone=True),
    "submit 100 KB": lambda: Cell(4_000, 64, submit("identity", LARGE), alone=True),
    "one fp32": lambda: Cell(150, 1, wait_for_photograph("efficientnet_lite0")),
    "one noop": lambda: Cell(400, 1, submit_and_wait("identity", SMALL)),
}


async def measured(port: int, cell: Cell, root: int | None = None) -> Figures:
    """Load whatever answers at `port`; `root` as in `processes.cpu_s`."""
    async with connections(port, cell.at_once) as links:
        before = processes.cpu_s(root)
        with processes.frozen("dispatcher", root) if cell.alone else nullcontext():
            result = await closed_loop(links, cell.count, cell.work)
        if cell.alone:
            await _last(links[0])
        after = processes.cpu_s(root)
    return figures_of(result, before, after)


def figures_of(result: Loaded, before: Mapping[str, float], after: Mapping[str, float]) -> Figures:
    """The cost of each of what was done between two looks at the CPU seconds spent."""
    spent = {kind: 1000 * (s - before.get(kind, 0.0)) / result.count for kind, s in after.items()}
    return Figures(
        per_s=result.count / result.wall_s,
        p50_ms=result.quantile_ms(0.5),
        p99_ms=result.quantile_ms(0.99),
        cpu_ms=sum(spent.values()),
        by_process=spent,
        client_cpu_ms=1000 * result.client_cpu_s / result.count,
    )


async def _last(link: Connection) -> None:
    """Return when all that was submitted before has ended: a queue is served in order."""
    await submit_and_wait("identity", SMALL)(link, 0)


def median(rounds: list[Figures]) -> dict[str, object]:
    names = ("per_s", "p50_ms", "p99_ms", "cpu_ms", "client_cpu_ms")
    figures: dict[str, object] = {
        name: round(statistics.median(getattr(it, name) for it in rounds), 3) for name in names
    }
    kinds = {kind for it in rounds for kind in it.by_process}
    figures["by_process"] = {
        kind: round(statistics.median(it.by_process.get(kind, 0.0) for it in rounds), 3)
        for kind in sorted(kinds)
    }
    return figures


async def run(arguments: argparse.Namespace, running: Running) -> int:
    port = urlsplit(running.api_url).port
    assert port is not None
    seen: dict[str, list[Figures]] = {name: [] for name in arguments.cells}
    cells = {name: CELLS[name]() for name in arguments.cells}
    for cell in cells.values():  # warm
        async with connections(port, cell.at_once) as links:
            await closed_loop(links, max(2 * cell.at_once, cell.count // 10), cell.work)
    if arguments.hold:
        sys.stderr.write(f"{json.dumps({'port': port, 'pids': processes.pids()})}\n")
        await asyncio.get_running_loop().create_future()
    for _ in range(arguments.rounds):
        for name, cell in cells.items():
            seen[name].append(await measured(port, cell))
    result = {
        "sync_interval": arguments.sync_interval,
        "cores": os.cpu_count(),
        "rss_mib": processes.rss_mib(),
        "cells": {name: median(rounds) for name, rounds in seen.items()},
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="+", choices=list(CELLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync-interval", default="always", help="of nats-server")
    parser.add_argument("--hold", action="store_true", help="stay up, to be profiled")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tritonq-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres, run as nobody, passes through it
        options = Options(
            state=Path(folder) / "state",
            repository=ROOT / "model_repository",
            triton_environment=ROOT / ".venv-triton",
            sync_interval=arguments.sync_interval,
        )
        return uvloop.run(
            up(
                options,
                tell=lambda event: print(event, file=sys.stderr),
                at_work=lambda running: run(arguments, running),
            )
        )


if __name__ == "__main__":
    sys.exit(main())
