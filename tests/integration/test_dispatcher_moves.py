"""Deadlines, withdrawals, and tickets that nobody can read, on real servers."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from blobs import Blobs
from contract.errors import BlobsUnavailable
from contract.prediction import Outcome, Prediction, Status
from contract.queue import QueueNames
from standalone import server
from telemetry import metrics
from tests import services
from tests.dispatching import House, dispatching, image_ticket, text_ticket
from tests.tickets import fresh_id

pytestmark = pytest.mark.triton

CAT = (services.ROOT / "samples" / "cat.jpg").read_bytes()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(fulfilled: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fulfilled():
            await asyncio.sleep(0.01)


async def test_an_overdue_ticket_ends_without_being_run_and_the_others_run(house: House) -> None:
    late = msgspec.structs.replace(text_ticket("late"), deadline_ms=now_ms() - 1)
    in_time = msgspec.structs.replace(text_ticket("in time"), deadline_ms=now_ms() + 60_000)
    ids = await house.accept([late, in_time])
    async with dispatching(house):
        first, second = await house.outcomes(ids)
        await house.emptied()
    assert first.error is not None
    assert first.error.code == "deadline_exceeded"
    assert first.compute_ms == 0
    assert second.status is Status.SUCCEEDED


async def test_what_is_held_and_withdrawn_is_not_run(house: House, tmp_path: Path) -> None:
    """As a gateway does it: the row, then the queue, then whoever holds the ticket."""
    triton = services.triton(tmp_path / "triton", models=("identity",))
    alone = replace(house, triton_address=triton.grpc_address, models=("identity",))
    dropped = metrics.DROPPED.labels("identity")._value
    process = await server.start(triton)
    try:
        async with dispatching(alone) as dispatcher:
            await process.stop()
            tickets = [text_ticket(str(number)) for number in range(20)]
            ids = await house.accept(tickets)
            await until(lambda: dispatcher.health()[1].get("inflight") == 20)
            before = dropped.get()
            canceled = Outcome(tickets[0].id, Status.CANCELED, now_ms(), now_ms(), 0)
            await house.ledger.record([Prediction(tickets[0], canceled)])
            await house.broker.withdraw(tickets[0].id)
            await house.broker.flush()
            process = await server.start(triton)
            outcomes = await house.outcomes(ids)
            await house.emptied()
            await until(lambda: dropped.get() == before + 1)
    finally:
        await process.stop()
    assert [it.status for it in outcomes] == [Status.CANCELED, *[Status.SUCCEEDED] * 19]


async def test_a_ticket_that_cannot_be_read_ends_as_failed(house: House) -> None:
    prediction_id = fresh_id()
    client = Client()
    await client.connect(house.nats.url, token=house.nats.token)
    stand_in = text_ticket()
    subject = QueueNames(house.namespace).ticket(stand_in).replace(stand_in.id, prediction_id)
    await client.jetstream().publish(subject, b"rubbish")
    await client.close()
    async with dispatching(house):
        (outcome,) = await house.outcomes([prediction_id])
        await house.emptied()
    assert outcome.error is not None
    assert outcome.error.code == "unreadable_ticket"
    kept = await house.ledger.get(prediction_id)
    assert kept is not None
    assert (kept.ticket.model, kept.ticket.version, kept.ticket.input) == ("identity", 1, {})


async def test_models_that_need_no_blob_go_on_while_the_blobs_are_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs.open(house.blobs_url)
    needing = image_ticket(CAT, inline=False)
    await blobs.put(needing.id, CAT, sha256(CAT).hexdigest())
    get, is_back = Blobs.get, asyncio.Event()

    async def away_at_first(*given: Any) -> bytes:
        if not is_back.is_set():
            raise BlobsUnavailable("the blob store does not answer")
        return await get(*given)

    async with dispatching(house) as dispatcher:
        monkeypatch.setattr(Blobs, "get", away_at_first)
        await house.accept([needing])
        await until(lambda: dispatcher.health()[1].get("inflight") == 1)
        ids = await house.accept(text_ticket(str(number)) for number in range(50))
        outcomes = await house.outcomes(ids, deadline_s=10)
        assert await house.ledger.ended([needing.id]) == set()
        is_back.set()
        (last,) = await house.outcomes([needing.id])
    assert {it.status for it in [*outcomes, last]} == {Status.SUCCEEDED}
