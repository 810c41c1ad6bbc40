"""A burst of 20,000 images: how fast they are accepted and drained, and what memory that takes.

    python -m benchmarks.burst --images 1000                                # a minute
    python -m benchmarks.burst --json benchmarks/burst.json                 # some four minutes

Each image is a different JPEG of 500 x 375 and 100,000 bytes (padded inside, as by metadata), sent
by POST over 64 connections, as fast as they are taken. Before that, the same kind of images are
sent and fetched in a steady load; the burst must be drained at that rate. In the end every id that
was given out is looked for in the ledger, and a sample is fetched by REST.
"""

import argparse
import asyncio
import random
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uvloop

from benchmarks import processes
from benchmarks.load import Connection, closed_loop, connections, get, post, read_answer
from benchmarks.photographs import photographs
from benchmarks.pieces import Pieces, pieces
from benchmarks.results import files_mib, finish, parser_of, quantiles_ms, table, tell
from broker import Broker
from contract.ids import PredictionId

AT_ONCE = 64
DIFFERENT = 64  # photographs; each is made unique by what is inserted
COMMENT_BYTES_MAX = 65_000  # with its head; JPEG allows 65,537
LOOK_EVERY_S = 1.0
TELL_EVERY_LOOKS = 10
SAMPLE = 500  # of all, fetched by REST
STALLED_S_MAX = 60.0
WATCHED = ("gateway", "dispatcher", "nats-server", "postgres")


class Images:
    """Any number of different images of one size, made as they are sent."""

    def __init__(self, size: int) -> None:
        self._photographs = photographs(DIFFERENT)
        self._size = size

    def image(self, number: int) -> bytes:
        """A photograph with comments after its first marker, unlike any other, of `size` bytes."""
        photograph = self._photographs[number % DIFFERENT]
        room = self._size - len(photograph)
        assert room >= 12, "the photograph alone is larger"
        comments = b""
        while room:
            # Never so much that less than a comment's head would remain.
            taken = room if room <= COMMENT_BYTES_MAX else min(room - 12, COMMENT_BYTES_MAX)
            content = struct.pack(">Q", number).ljust(taken - 4, b"\xa5")
            comments += b"\xff\xfe" + struct.pack(">H", taken - 2) + content
            room -= taken
        return photograph[:2] + comments + photograph[2:]

    def request(self, model: str, number: int) -> bytes:
        return post(f"/v1/models/triton/{model}/predictions", self.image(number), "image/jpeg")


async def steady(port: int, model: str, images: Images, count: int) -> float:
    """Send and fetch, AT_ONCE at a time, as `benchmarks.product` does; returns images a second."""

    async def work(link: Connection, number: int) -> None:
        status, body = await link.ask(images.request(model, number))
        assert status == 202, body
        status, body = await link.ask(get(f"/v1/predictions/{read_answer(body).id}?wait=55"))
        assert read_answer(body).status == "succeeded", body

    async with connections(port, AT_ONCE) as links:
        loaded = await closed_loop(links, count, work)
    return count / loaded.wall_s


async def accepted(
    port: int, model: str, images: Images, count: int
) -> tuple[list[PredictionId], dict[str, Any]]:
    """Send `count` images as fast as they are taken; the ids, and how it went."""
    ids: list[PredictionId] = []
    refused = 0

    async def work(link: Connection, number: int) -> None:
        nonlocal refused
        request = images.request(model, DIFFERENT * 1000 + number)
        while True:
            status, body = await link.ask(request)
            if status == 202:
                ids.append(PredictionId(read_answer(body).id))
                return
            assert status == 429, (status, body)  # full: told so, and nothing is stored
            refused += 1
            await asyncio.sleep(1)

    async with connections(port, AT_ONCE) as links:
        loaded = await closed_loop(links, count, work)
    figures = {
        "s": round(loaded.wall_s, 1),
        "per_s": round(count / loaded.wall_s),
        "refused_429": refused,
        "client_cpu_ms": round(1000 * loaded.client_cpu_s / count, 3),
        **quantiles_ms(loaded.latencies_s),
    }
    return ids, figures


@asynccontextmanager
async def watched() -> AsyncIterator[list[tuple[float, dict[str, int]]]]:
    """Look at the memory of all processes every second: (seconds since the start, MiB)."""
    seen: list[tuple[float, dict[str, int]]] = []
    began_s = time.perf_counter()

    async def watch() -> None:
        while True:
            held = await asyncio.to_thread(processes.rss_mib)
            seen.append((round(time.perf_counter() - began_s, 1), held))
            await asyncio.sleep(LOOK_EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def drained(broker: Broker) -> list[tuple[float, int]]:
    """Wait until the queue is empty; what it held, second by second."""
    began_s = moved_s = time.perf_counter()
    held: list[tuple[float, int]] = []
    while True:
        now_s = time.perf_counter()
        tickets = (await broker.depth()).tickets
        if not held or tickets < held[-1][1]:
            moved_s = now_s
        assert now_s - moved_s < STALLED_S_MAX, "nothing has left the queue for a minute"
        held.append((round(now_s - began_s, 2), tickets))
        if len(held) % TELL_EVERY_LOOKS == 0:
            tell(f"{tickets:,} to do")
        if not tickets:
            return held
        await asyncio.sleep(LOOK_EVERY_S)


async def checked(site: Pieces, ids: list[PredictionId]) -> dict[str, int]:
    """Look for every id in the ledger, and fetch some by REST."""
    found: set[PredictionId] = set()
    async with site.ledger() as ledger:
        for start in range(0, len(ids), 1000):
            found |= await ledger.ended(ids[start : start + 1000])
    connection = await asyncpg.connect(site.dsn)
    failed = await connection.fetchval(
        "SELECT count(*) FROM predictions WHERE status <> 'succeeded'"
    )
    again = await connection.fetchval("SELECT count(*) FROM predictions WHERE attempts > 1")
    await connection.close()
    some = random.sample(ids, min(SAMPLE, len(ids)))
    async with connections(site.port, AT_ONCE) as links:

        async def fetch(link: Connection, number: int) -> None:
            status, body = await link.ask(get(f"/v1/predictions/{some[number]}"))
            assert (status, read_answer(body).status) == (200, "succeeded"), body

        await closed_loop(links, len(some), fetch)
    return {
        "accepted": len(ids),
        "missing": len(set(ids) - found),
        "not_succeeded": failed,
        "begun_again": again,
        "fetched_by_rest": len(some),
    }


def middle_rate(held: list[tuple[float, int]]) -> float:
    """How fast the queue emptied, the first and the last tenth left out."""
    total = held[0][1]
    inner = [(at_s, left) for at_s, left in held if 0.1 * total <= left <= 0.9 * total]
    if len(inner) < 2:
        return total / max(held[-1][0], 0.001)
    (from_s, most), (to_s, least) = inner[0], inner[-1]
    return (most - least) / (to_s - from_s)


async def run(given: argparse.Namespace) -> dict[str, Any]:
    environment = {"GATEWAY_LOG_LEVEL": "error", "DISPATCHER_LOG_LEVEL": "error"}
    images = Images(given.bytes)
    layout = pieces(
        given.folder, (given.model,), sync_interval=given.sync_interval, environment=environment
    )
    figures: dict[str, Any] = {}
    async with layout as site:
        await site.start("postgres", "nats", "triton", "dispatcher", "gateway")
        await site.ready()
        rates = []
        await steady(site.port, given.model, images, 2 * AT_ONCE)  # warm
        rates.append(await steady(site.port, given.model, images, given.steady))
        figures["before_mib"] = _of_watched(processes.rss_mib())
        tell(f"steady: {rates[0]:.0f}/s; now the burst")
        async with site.broker() as broker, watched() as memory:
            before = processes.cpu_s()
            ids, figures["accepted"] = await accepted(site.port, given.model, images, given.images)
            tell(f"accepted at {figures['accepted']['per_s']}/s")
            figures["disk_mib"] = files_mib(site.nats.store)
            began_s = time.perf_counter()
            held = await drained(broker)
            after = processes.cpu_s()
            figures["drained"] = {
                "left_when_all_were_accepted": held[0][1],
                "s": round(time.perf_counter() - began_s, 1),
                "per_s": round(middle_rate(held), 1),
                "cpu_ms_each": {
                    kind: round(1000 * (s - before.get(kind, 0.0)) / given.images, 3)
                    for kind, s in after.items()
                },
            }
        rates.append(await steady(site.port, given.model, images, given.steady))
        figures["steady_per_s"] = [round(each, 1) for each in rates]
        figures["after_mib"] = _of_watched(processes.rss_mib())
        figures["peak_mib"] = {kind: max(mib.get(kind, 0) for _, mib in memory) for kind in WATCHED}
        figures["mib_by_second"] = [
            {"s": at_s, **_of_watched(mib)} for at_s, mib in memory[:: max(1, len(memory) // 50)]
        ]
        figures["checked"] = await checked(site, ids)
    assert not figures["checked"]["missing"], figures["checked"]
    assert not figures["checked"]["not_succeeded"], figures["checked"]
    return figures


def _of_watched(mib: dict[str, int]) -> dict[str, int]:
    return {kind: mib.get(kind, 0) for kind in WATCHED}


def tables(figures: dict[str, Any]) -> list[str]:
    accepted_, drained_, check = figures["accepted"], figures["drained"], figures["checked"]
    first, last = figures["steady_per_s"]
    went = [
        ["accepted", f"{accepted_['per_s']:,}/s, in {accepted_['s']} s"],
        [
            "answer to a submit, p50 / p99",
            f"{accepted_['p50_ms']:.0f} / {accepted_['p99_ms']:.0f} ms",
        ],
        ["refused with 429", accepted_["refused_429"]],
        ["drained", f"{drained_['per_s']:.0f}/s"],
        ["steady load, before / after", f"{first:.0f} / {last:.0f} per s"],
        ["CPU-ms for each, all processes", f"{sum(drained_['cpu_ms_each'].values()):.2f}"],
        ["disk of the queue", f"{figures['disk_mib']:,} MiB"],
        [
            "accepted / missing / not succeeded",
            f"{check['accepted']:,} / {check['missing']} / {check['not_succeeded']}",
        ],
        ["begun more than once", check["begun_again"]],
    ]
    memory = [
        [kind, *(figures[name][kind] for name in ("before_mib", "peak_mib", "after_mib"))]
        for kind in WATCHED
    ]
    return [table(["", ""], went), table(["MiB", "before", "most", "after"], memory)]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=100_000, help="of each image")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--steady", type=int, default=600, help="images of the steady load")
    parser.add_argument("--sync-interval", default="always", help="of nats-server")
    given = parser.parse_args()
    figures = uvloop.run(run(given))
    finish(given, figures, tables(figures))


if __name__ == "__main__":
    main()
