"""A million predictions in the queue and nobody who runs them: what that takes, and how it ends.

    python -m benchmarks.backlog --tickets 30000                         # a minute
    python -m benchmarks.backlog --json benchmarks/backlog.json          # a million, five minutes

Publishes small predictions (identity) while no dispatcher runs: through the product's own Broker,
as a gateway does it, or by `--through rest` through a gateway. Then it measures what a gateway
answers with all of them in the queue; kills nats-server and stops it, and waits for the first
answer afterwards; and starts a dispatcher for a while. In the end, queue and ledger are counted:
nothing may be missing.

The queue holds 200,000 predictions as installed; this sets GATEWAY_QUEUE_TICKETS_MAX.
"""

import argparse
import asyncio
import os
import random
import time
from typing import Any

import asyncpg
import uvloop

from benchmarks import processes
from benchmarks.load import Connection, closed_loop, connections, get, post, read_answer
from benchmarks.pieces import Pieces, fetched, pieces
from benchmarks.results import files_mib, finish, parser_of, quantiles_ms, table, tell
from broker import Broker
from contract.errors import AcceptanceUnknown, AlreadyAccepted, Overloaded, QueueUnavailable
from contract.ids import PredictionId, new_prediction_id
from contract.prediction import Ticket

PUBLISHERS = 256
PATH = "/v1/models/triton/identity/predictions"
GETS, PACED, PAGES, SUBMITS = 2000, 200, 100, 1000
# A gateway asks each consumer 100 times a second at most how far it has come, and a GET that
# follows another at once waits for its turn.
PAUSE_S = 0.02
FIRST_ANSWER_S_MAX = 300.0
DRAIN_S = 30.0
TELL_EVERY = 100_000


async def publish_by_broker(broker: Broker, text: str, count: int) -> list[PredictionId]:
    """Publish as a gateway does, many at once."""
    ids: list[PredictionId] = []
    numbers = iter(range(count))

    async def one() -> None:
        for _ in numbers:
            own = new_prediction_id(time.time_ns() // 1_000_000, os.urandom(10))
            while True:
                try:
                    await broker.publish(Ticket(own, "identity", 1, {"INPUT0": text}))
                    break
                except AlreadyAccepted:
                    break  # by the try whose answer did not come
                except Overloaded as error:
                    await asyncio.sleep(error.retry_after_s or 1)
                except (AcceptanceUnknown, QueueUnavailable):
                    await asyncio.sleep(1)  # the same id again: it is stored once
            ids.append(own)
            if len(ids) % TELL_EVERY == 0:
                tell(f"{len(ids):,} published")

    await asyncio.gather(*(one() for _ in range(PUBLISHERS)))
    return ids


async def publish_by_rest(port: int, text: str, count: int) -> list[PredictionId]:
    ids: list[PredictionId] = []
    request = _submission(text)

    async def work(link: Connection, _: int) -> None:
        status, body = await link.ask(request)
        assert status == 202, body
        ids.append(PredictionId(read_answer(body).id))
        if len(ids) % TELL_EVERY == 0:
            tell(f"{len(ids):,} accepted")

    async with connections(port, PUBLISHERS) as links:
        await closed_loop(links, count, work)
    return ids


def _submission(text: str) -> bytes:
    body = b'{"input":{"INPUT0":"%s"}}' % text.encode()
    return post(PATH, body, "application/json")


async def answers(port: int, ids: list[PredictionId], text: str) -> dict[str, Any]:
    """What a gateway answers while they are queued."""
    some = [f"/v1/predictions/{each}" for each in random.choices(ids, k=GETS)]
    figures: dict[str, Any] = {}
    took_s = await fetched(port, some[:PACED], 1, pause_s=PAUSE_S)
    figures["GET of a queued one, now and then"] = quantiles_ms(took_s)
    for at_once in (1, 16):
        took_s = await fetched(port, some, at_once)
        figures[f"GET of a queued one, {at_once} at a time"] = quantiles_ms(took_s)
    for limit in (10, 100):
        took_s = await fetched(port, [f"/v1/predictions?limit={limit}"] * PAGES, 1)
        figures[f"GET of a page of {limit}"] = quantiles_ms(took_s)
    request = _submission(text)

    async def submit(link: Connection, _: int) -> None:
        status, body = await link.ask(request)
        assert status == 202, body
        ids.append(PredictionId(read_answer(body).id))

    for at_once in (1, 16):
        async with connections(port, at_once) as links:
            loaded = await closed_loop(links, SUBMITS, submit)
        figures[f"submit on top, {at_once} at a time"] = quantiles_ms(loaded.latencies_s)
    return figures


async def restarted(site: Pieces, some: PredictionId, *, by_kill: bool) -> dict[str, float]:
    """End nats-server and start it; seconds until a queued prediction is shown again."""
    began_s = time.perf_counter()
    await (site.kill("nats") if by_kill else site.stop("nats"))
    ended_s = time.perf_counter()
    await site.start("nats")
    listens_s = time.perf_counter()
    request = get(f"/v1/predictions/{some}")
    async with asyncio.timeout(FIRST_ANSWER_S_MAX), connections(site.port, 1) as (link,):
        while (await link.ask(request))[0] != 200:  # noqa: ASYNC110 - it is asked for an answer
            await asyncio.sleep(0.01)
    return {
        "end_s": round(ended_s - began_s, 2),
        "until_it_answers_s": round(listens_s - ended_s, 2),
        "until_the_first_get_s": round(time.perf_counter() - ended_s, 2),
        "nats_mib": processes.rss_mib()["nats-server"],
    }


async def drained(site: Pieces, broker: Broker, ids: list[PredictionId]) -> dict[str, Any]:
    """Start a dispatcher and watch the first DRAIN_S of its work."""
    await site.start("triton")
    began_s = time.perf_counter()
    await site.start("dispatcher")
    started_s = time.perf_counter() - began_s
    async with site.ledger() as ledger:
        while await ledger.oldest() is None:  # noqa: ASYNC110 - nobody announces a first row
            await asyncio.sleep(0.01)
        first_s = time.perf_counter() - began_s
        tell("the first outcome is there")
        before, from_s = (await broker.depth()).tickets, time.perf_counter()
        cpu_before = processes.cpu_s()
        async with processes.peaks() as peaks:
            while time.perf_counter() - from_s < DRAIN_S and (await broker.depth()).tickets:
                some = [f"/v1/predictions/{each}" for each in random.choices(ids, k=20)]
                await fetched(site.port, some, 1)
                await asyncio.sleep(0.5)
            done, took_s = (
                before - (await broker.depth()).tickets,
                time.perf_counter() - from_s,
            )
            spent = processes.cpu_s()
    return {
        "dispatcher_answers_s": round(started_s, 2),
        "first_outcome_s": round(first_s, 2),
        "per_s": round(done / took_s),
        "seconds": round(took_s, 1),
        "cpu_ms_each": {
            kind: round(1000 * (s - cpu_before.get(kind, 0.0)) / max(1, done), 3)
            for kind, s in spent.items()
        },
        "peak_mib": dict(peaks.mib),
    }


async def counted(site: Pieces, broker: Broker) -> dict[str, int]:
    """Stop the dispatcher and count what is where."""
    await site.stop("dispatcher")
    await broker.flush()
    connection = await asyncpg.connect(site.dsn)
    rows = await connection.fetchval("SELECT count(*) FROM predictions", timeout=300)
    others = await connection.fetchval(
        "SELECT count(*) FROM predictions WHERE status <> 'succeeded'", timeout=300
    )
    await connection.close()
    return {"queued": (await broker.depth()).tickets, "ended": rows, "not_succeeded": others}


async def run(given: argparse.Namespace) -> dict[str, Any]:
    text = "x" * given.bytes
    settings = {
        "GATEWAY_QUEUE_TICKETS_MAX": str(given.tickets + 100_000),
        "GATEWAY_LOG_LEVEL": "error",
        "DISPATCHER_LOG_LEVEL": "error",
    }
    figures: dict[str, Any] = {}
    layout = pieces(
        given.folder, ("identity",), sync_interval=given.sync_interval, environment=settings
    )
    async with layout as site:
        await site.start("postgres", "nats", "gateway")
        async with site.broker() as broker, processes.peaks() as peaks:
            figures["before_mib"] = processes.rss_mib()
            began_s = time.perf_counter()
            if given.through == "rest":
                ids = await publish_by_rest(site.port, text, given.tickets)
            else:
                ids = await publish_by_broker(broker, text, given.tickets)
            took_s = time.perf_counter() - began_s
            figures["published"] = {"per_s": round(given.tickets / took_s), "s": round(took_s, 1)}
            figures["queued_mib"] = processes.rss_mib()
            figures["disk_mib"] = files_mib(site.nats.store)
            tell("all are queued")
            figures["answers"] = await answers(site.port, ids, text)
            figures["read_mib"] = processes.rss_mib()
            tell("answered")
            figures["killed"] = await restarted(site, ids[0], by_kill=True)
            figures["stopped"] = await restarted(site, ids[-1], by_kill=False)
            figures["after_restart"] = await answers(site.port, ids, text)
            figures["answered_mib"] = processes.rss_mib()
            figures["drain"] = await drained(site, broker, ids)
            figures["counted"] = {"accepted": len(ids), **await counted(site, broker)}
            figures["peak_mib"] = dict(peaks.mib)
    counts = figures["counted"]
    assert counts["queued"] + counts["ended"] == counts["accepted"], f"not all are there: {counts}"
    return figures


def tables(figures: dict[str, Any]) -> list[str]:
    killed, stopped, drain = figures["killed"], figures["stopped"], figures["drain"]
    answered = [
        [name, *(f"{it['p50_ms']:.2f} / {it['p99_ms']:.1f}" for it in (first, again))]
        for (name, first), again in zip(
            figures["answers"].items(), figures["after_restart"].values(), strict=True
        )
    ]
    memory = [
        [when, *(figures[name].get(kind, "") for kind in ("nats-server", "gateway"))]
        for when, name in (
            ("before", "before_mib"),
            ("all are queued", "queued_mib"),
            ("they have been read", "read_mib"),
            ("restarted twice, and read", "answered_mib"),
            ("most ever", "peak_mib"),
        )
    ]
    rest = [
        ["published", f"{figures['published']['per_s']:,}/s"],
        ["disk", f"{figures['disk_mib']:,} MiB"],
        ["killed: until the first GET is answered", f"{killed['until_the_first_get_s']} s"],
        ["stopped: how long that took", f"{stopped['end_s']} s"],
        ["then, until the first GET is answered", f"{stopped['until_the_first_get_s']} s"],
        ["dispatcher started: first outcome", f"{drain['first_outcome_s']} s"],
        [f"drained, for {drain['seconds']} s", f"{drain['per_s']:,}/s"],
        ["CPU-ms for each, all processes", f"{sum(drain['cpu_ms_each'].values()):.2f}"],
        ["dispatcher, most memory", f"{drain['peak_mib']['dispatcher']} MiB"],
        ["accepted", f"{figures['counted']['accepted']:,}"],
        ["of these queued", f"{figures['counted']['queued']:,}"],
        ["ended", f"{figures['counted']['ended']:,}"],
    ]
    return [
        table(["p50 / p99 ms", "all queued", "after the restarts"], answered),
        table(["MiB", "nats-server", "gateway"], memory),
        table(["", ""], rest),
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tickets", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=100, help="of each input")
    parser.add_argument("--through", choices=("broker", "rest"), default="broker")
    parser.add_argument("--sync-interval", default="always", help="of nats-server")
    given = parser.parse_args()
    figures = uvloop.run(run(given))
    finish(given, figures, tables(figures))


if __name__ == "__main__":
    main()
