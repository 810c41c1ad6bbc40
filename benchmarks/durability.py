"""What durability costs: publishing with and without a sync per message, on one server and three.

    python -m benchmarks.durability --rounds 5 --json benchmarks/durability.json

Publishes tickets through the product's own broker, and submits to its gateway, on nats-servers of
its own in a temporary folder (`--folder`: on another disk). The ways are interleaved, and each
figure is the median of all rounds. All servers, the publisher and the gateway share this machine.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.load import connections
from benchmarks.product import submit
from broker import Broker, QueueLimits
from contract.ids import new_prediction_id
from contract.prediction import File, Ticket
from contract.queue import QueueNames
from standalone.nats import Nats
from standalone.program import Program
from standalone.server import LOOPBACK, running
from tests.chaos.cluster import STORE_BYTES_MAX, TOKEN, cluster
from tests.services import MODEL_REPOSITORY, free_ports

SIZES = {"1 KB": 1_000, "100 KB": 100_000}
AT_ONCE = (1, 16, 64)
SYNCS = ("2m", "always")
CELL_S = 1.5
SUBMITTERS = 64
NAMES = QueueNames("benchmark")
FSYNC_TRIES = 300


@dataclass(frozen=True)
class Way:
    """One way to keep the queue, running."""

    name: str
    url: str
    replicas: int
    pids: tuple[int, ...]
    broker: Broker
    gateway_port: int


@dataclass(frozen=True)
class Figures:
    """What one cell came to."""

    per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float  # of all nats-servers together, for each ticket


@asynccontextmanager
async def one_server(folder: Path, sync: str) -> AsyncIterator[tuple[str, list[int]]]:
    port, monitor_port = free_ports(2)
    server = Nats(folder, port, monitor_port, TOKEN, sync, STORE_BYTES_MAX)
    async with running(server) as process:
        yield server.url, [process.pid]


@asynccontextmanager
async def three_servers(folder: Path, sync: str) -> AsyncIterator[tuple[str, list[int]]]:
    async with cluster(folder, sync_interval=sync, may_be_cut=False) as three:
        yield three.url, three.pids


@asynccontextmanager
async def all_ways(folder: Path) -> AsyncIterator[list[Way]]:
    async with AsyncExitStack() as opened:
        ways = []
        for replicas, servers in ((1, one_server), (3, three_servers)):
            for sync in SYNCS:
                name = f"R{replicas}, sync_interval {sync}"
                place = folder / f"r{replicas}-{sync}"
                url, pids = await opened.enter_async_context(servers(place, sync))
                broker = await Broker.connect(
                    url, names=NAMES, token=TOKEN, client_name="benchmark"
                )
                opened.push_async_callback(broker.close)
                limits = QueueLimits(tickets_max=10_000_000, replicas=replicas)
                await broker.declare(["identity"], limits)
                gateway = a_gateway(place, url, replicas)
                await opened.enter_async_context(running(gateway))
                ways.append(
                    Way(name, url, replicas, tuple(pids), broker, gateway.probe_port)
                )  # fmt: skip
        yield ways


def a_gateway(folder: Path, url: str, replicas: int) -> Program:
    """A gateway that only accepts: without dispatcher, and without the ledger it does not need."""
    (port,) = free_ports(1)
    settings = {
        "NATS_URL": url,
        "NATS_TOKEN": TOKEN,
        "NAMESPACE": NAMES.namespace,
        "QUEUE_REPLICAS": str(replicas),
        "QUEUE_TICKETS_MAX": "10000000",
        "POSTGRES_DSN": f"postgresql://nobody@{LOOPBACK}:1/nothing",
        "BLOBS_URL": (folder / "blobs").as_uri(),
        "MODEL_REPOSITORY": str(MODEL_REPOSITORY),
        "MODELS": "identity",
        "AUTH": "none",
        "PORT": str(port),
        "LOG_LEVEL": "error",
    }
    return Program("gateway", folder / "gateway", port, 10.0, settings)


def a_ticket(size: int) -> Ticket:
    own = new_prediction_id(time.time_ns() // 1_000_000, os.urandom(10))
    file = File("application/octet-stream", size, "0" * 64, os.urandom(size))
    return Ticket(own, "identity", 1, {}, {"INPUT0": file})


async def measured(way: Way, at_once: int, effect: Callable[[], Awaitable[None]]) -> Figures:
    """Repeat `effect`, so many at once, for CELL_S."""
    await asyncio.gather(*(effect() for _ in range(at_once)))  # warm
    took_s: list[float] = []
    clock = time.perf_counter
    cpu_before, began = cpu_s(way.pids), clock()

    async def repeat() -> None:
        while (at := clock()) - began < CELL_S:
            await effect()
            took_s.append(clock() - at)

    await asyncio.gather(*(repeat() for _ in range(at_once)))
    spent_s, wall_s = cpu_s(way.pids) - cpu_before, clock() - began
    ordered = sorted(took_s)
    return Figures(
        per_s=len(ordered) / wall_s,
        p50_ms=1000 * statistics.median(ordered),
        p99_ms=1000 * ordered[int(0.99 * (len(ordered) - 1))],
        server_cpu_ms=1000 * spent_s / len(ordered),
    )


def cpu_s(pids: tuple[int, ...]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


async def publish_cell(way: Way, size: int, at_once: int) -> Figures:
    async def publish() -> None:
        await way.broker.publish(a_ticket(size))

    figures = await measured(way, at_once, publish)
    await emptied(way)
    return figures


async def submit_cell(way: Way, size: int) -> Figures:
    """Submit to the gateway, over connections that stay open."""
    send = submit("identity", size)
    async with connections(way.gateway_port, SUBMITTERS) as links:
        free = list(links)

        async def effect() -> None:
            link = free.pop()
            await send(link, 0)
            free.append(link)

        figures = await measured(way, SUBMITTERS, effect)
    await emptied(way)
    return figures


async def emptied(way: Way) -> None:
    """Purge the queue, so that every cell begins alike."""
    client = way.broker._connection.client
    await client.jetstream().purge_stream(NAMES.stream)


def fsync_ms(folder: Path) -> float:
    """What the disk itself takes to write 1 KB and sync it: the median."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNC_TRIES):
            began = time.perf_counter()
            file.write(os.urandom(1000))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


async def run(rounds: int, folder: Path) -> dict[str, Any]:
    seen: defaultdict[tuple[str, str, int, str], list[Figures]] = defaultdict(list)
    syncs_ms = []
    async with all_ways(folder) as ways:
        for number in range(rounds):
            syncs_ms.append(fsync_ms(folder))
            for size_name, size in SIZES.items():
                for at_once in AT_ONCE:
                    for way in ways:
                        cell = ("publish", size_name, at_once, way.name)
                        seen[cell].append(await publish_cell(way, size, at_once))
            for way in ways:
                cell = ("submit", "1 KB", SUBMITTERS, way.name)
                seen[cell].append(await submit_cell(way, SIZES["1 KB"]))
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return {
        "rounds": rounds,
        "fdatasync_ms": round(statistics.median(syncs_ms), 3),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "cells": [
            {"what": what, "size": size, "at_once": at_once, "way": way, **medians(figures)}
            for (what, size, at_once, way), figures in seen.items()
        ],
    }


def medians(figures: list[Figures]) -> dict[str, float]:
    dicts = [asdict(each) for each in figures]
    return {name: round(statistics.median(it[name] for it in dicts), 3) for name in dicts[0]}


def table(result: dict[str, Any]) -> str:
    lines = [
        "| what | size | at once | queue | per s | p50 ms | p99 ms | nats-server CPU-ms each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cell['what']} | {cell['size']} | {cell['at_once']} | {cell['way']} |"
        f" {cell['per_s']:,.0f} | {cell['p50_ms']:.2f} | {cell['p99_ms']:.1f} |"
        f" {cell['server_cpu_ms']:.2f} |"
        for cell in result["cells"]
    ]
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--json", type=Path, help="write the figures there too")
    arguments.add_argument("--folder", type=Path, help="on the disk to measure")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        result = uvloop.run(run(given.rounds, Path(folder)))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"fdatasync of 1 KB: {result['fdatasync_ms']} ms; {result['cores']} cores")


if __name__ == "__main__":
    main()
