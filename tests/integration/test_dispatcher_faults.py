"""Whatever dies in between: every prediction gets exactly one outcome, and an outage fails none."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from contract.announcements import Announced
from contract.ids import PredictionId
from contract.prediction import Failure, Outcome, Prediction, Priority, Status
from ledger import Ledger
from standalone import server
from standalone.postgres import Postgres
from standalone.triton import Triton
from tests import services
from tests.dispatching import (
    House,
    dispatcher_process,
    dispatching,
    image_ticket,
    is_well,
    text_ticket,
)
from tests.tickets import Arrivals

pytestmark = pytest.mark.triton

CAT = (services.ROOT / "samples" / "cat.jpg").read_bytes()


class Announcements:
    """How often each outcome was announced."""

    def __init__(self) -> None:
        self.heard: list[Announced] = []

    async def listen(self, house: House) -> "Announcements":
        await house.broker.subscribe_outcomes(self.heard.extend)
        return self


async def rows_in(house: House) -> int:
    connection = await asyncpg.connect(house.dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM predictions"))
    finally:
        await connection.close()


async def some_have_ended(house: House, ids: Sequence[PredictionId], count: int) -> None:
    async with asyncio.timeout(30):
        while len(await house.ledger.ended(ids)) < count:
            await asyncio.sleep(0.01)


async def test_two_dispatchers_on_one_model_give_each_prediction_one_outcome(house: House) -> None:
    told = await Announcements().listen(house)
    ids = await house.accept(text_ticket(str(number)) for number in range(1000))
    async with dispatching(house, name="d1"), dispatching(house, name="d2"):
        outcomes = await house.outcomes(ids)
        await house.emptied()
    assert [it.output for it in outcomes] == [
        json.dumps({"OUTPUT0": [str(n)]}, separators=(",", ":")).encode() for n in range(1000)
    ]
    assert await rows_in(house) == 1000
    assert len(told.heard) == len({it.id for it in told.heard})


async def test_a_stop_finishes_what_is_held(house: House) -> None:
    """And what it leaves is on nobody's loan: the next dispatcher has it at once."""
    ids = await house.accept(image_ticket(CAT) for _ in range(60))
    async with dispatcher_process(house, wait_until_well=False) as first:
        await some_have_ended(house, ids, 1)
        first.terminate()
        assert await first.wait() == 0
        assert await first.log() == ""
    async with dispatching(house):
        outcomes = await house.outcomes(ids, deadline_s=20)  # less than a lease
        await house.emptied(deadline_s=5)
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}


async def test_a_stop_that_may_not_drain_gives_everything_back(house: House) -> None:
    ids = await house.accept(image_ticket(CAT) for _ in range(60))
    async with dispatcher_process(house, wait_until_well=False, drain_s_max=0) as first:
        await some_have_ended(house, ids, 1)
        first.terminate()
        assert await first.wait() == 0
    async with dispatching(house):
        await house.outcomes(ids, deadline_s=20)  # less than a lease
        await house.emptied(deadline_s=5)
    assert await rows_in(house) == 60


async def test_a_killed_dispatcher_loses_nothing_and_doubles_nothing(house: House) -> None:
    """SIGKILL runs no cleanup: the leases end, the tickets return, another one finishes."""
    told = await Announcements().listen(house)
    ids = await house.accept(image_ticket(CAT) for _ in range(100))
    async with dispatcher_process(house, wait_until_well=False) as victim:
        await some_have_ended(house, ids, 1)
        victim.kill()
        await victim.wait()
    left = len(ids) - await rows_in(house)
    assert left > 0, "it was killed too late to prove anything"
    async with dispatching(house, name="heir"):
        outcomes = await house.outcomes(ids, deadline_s=30)
        await house.emptied(deadline_s=30)
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}
    assert await rows_in(house) == 100
    assert len(told.heard) == len({it.id for it in told.heard})


async def test_a_redelivered_ticket_that_has_ended_is_acked_without_being_run(
    house: House,
) -> None:
    """The dispatcher before us recorded it, and died before the ack."""
    ticket = text_ticket("never to be run")
    await house.accept([ticket])
    intake = house.broker.intake(Priority.NORMAL, "identity", room=1)
    arrivals = await Arrivals(intake).start()
    first = await arrivals.next()
    recorded = Outcome(ticket.id, Status.FAILED, 1, 2, 1, error=Failure("x", "the first outcome"))
    await house.ledger.record([Prediction(ticket, recorded)])
    await first.give_back()
    await intake.stop()
    told = await Announcements().listen(house)
    async with dispatching(house):
        await house.emptied()
    assert await house.outcomes([ticket.id]) == [recorded]
    assert told.heard == []


async def test_high_goes_before_low_and_low_is_not_starved(house: House) -> None:
    """With more of both than fits, high gets about six rows for each of low."""
    order = await Announcements().listen(house)
    low = await house.accept(text_ticket(priority=Priority.LOW) for _ in range(600))
    high = set(await house.accept(text_ticket(priority=Priority.HIGH) for _ in range(600)))
    limits = house.with_limits(batch_rows_max=7)
    async with dispatching(limits):
        await house.outcomes([*low, *high])
        async with asyncio.timeout(10):
            while len(order.heard) < 1200:
                await asyncio.sleep(0.01)
    first = [it.id in high for it in order.heard[:350]]
    assert 0.7 < sum(first) / len(first) < 0.95


@asynccontextmanager
async def own_triton(folder: Path) -> AsyncIterator[tuple[Triton, server.Process]]:
    triton = services.triton(folder, models=("identity",))
    process = await server.start(triton)
    try:
        yield triton, process
    finally:
        await process.stop()


async def test_a_killed_triton_fails_nothing_and_work_resumes_when_it_is_back(
    house: House, tmp_path: Path
) -> None:
    async with own_triton(tmp_path / "triton") as (triton, process):
        alone = replace(house, triton_address=triton.grpc_address, models=("identity",))
        async with dispatching(alone) as dispatcher:
            await house.outcomes(await house.accept([text_ticket("before")]))
            os.killpg(process.pid, 9)
            await process.stop()
            ids = await house.accept(text_ticket(str(number)) for number in range(500))
            async with asyncio.timeout(10):
                while not dispatcher.health()[1]["models"]["identity"]:
                    await asyncio.sleep(0.01)
            again = await server.start(triton)
            try:
                outcomes = await house.outcomes(ids)
                await house.emptied()
                assert dispatcher.health()[1]["models"] == {"identity": ""}
            finally:
                await again.stop()
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}
    assert {it.attempts for it in outcomes} == {1}


async def test_a_dispatcher_stops_in_time_while_triton_is_away(
    house: House, tmp_path: Path
) -> None:
    """What it holds goes back to the queue, where the next one finds it."""
    alone = replace(house, triton_address="127.0.0.1:1", models=("identity",))
    async with own_triton(tmp_path / "triton") as (triton, process):
        alone = replace(alone, triton_address=triton.grpc_address)
        async with dispatcher_process(alone) as first:
            os.killpg(process.pid, 9)
            await process.stop()
            ids = await house.accept(text_ticket(str(number)) for number in range(50))
            await first.statuses.until(lambda it: it.inflight == 50 and not is_well(it))
            first.terminate()
            assert await first.wait() == 0
    async with dispatching(replace(house, models=("identity",))):
        outcomes = await house.outcomes(ids, deadline_s=20)
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}


async def test_a_model_that_is_not_ready_does_not_keep_the_others_waiting(
    house: House, tmp_path: Path
) -> None:
    async with own_triton(tmp_path / "triton") as (triton, _):  # serves identity only
        half = replace(house, triton_address=triton.grpc_address)
        async with dispatching(half, wait_until_well=False) as dispatcher:
            (outcome,) = await house.outcomes(await house.accept([text_ticket("x")]))
            models = dispatcher.health()[1]["models"]
    assert outcome.status is Status.SUCCEEDED
    assert models["identity"] == ""
    assert models["efficientnet_lite0"]


async def test_a_restarted_postgres_loses_nothing(house: House, tmp_path: Path) -> None:
    (port,) = services.free_ports(1)
    postgres = Postgres(tmp_path / "postgres", port, uuid4().hex, ())
    first = await server.start(postgres)
    own = await Ledger.connect(postgres.dsn)
    alone = replace(house, dsn=postgres.dsn, ledger=own, models=("identity",))
    try:
        async with dispatching(alone) as dispatcher:
            await alone.outcomes(await house.accept([text_ticket("before")]))
            os.killpg(first.pid, 9)
            await first.stop()
            ids = await house.accept(text_ticket(str(number)) for number in range(500))
            async with asyncio.timeout(10):
                while not dispatcher.health()[1].get("ledger"):
                    await asyncio.sleep(0.01)
            first = await server.start(postgres)
            outcomes = await alone.outcomes(ids)
            await house.emptied()
            assert dispatcher.health()[1].get("ledger", "") == ""
    finally:
        await own.close()
        await first.stop()
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}
    assert {it.attempts for it in outcomes} == {1}
