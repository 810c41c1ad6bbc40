"""What kills its dispatcher, or is failed on by its model, ends; and takes nobody with it."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from contract.prediction import Priority, Status
from tests.deadly_dispatcher import DEADLY
from tests.dispatching import House, dispatcher_process, dispatching, short_leases, text_ticket
from tests.tickets import Arrivals

pytestmark = pytest.mark.triton

ATTEMPTS_MAX = 2


async def test_an_input_that_kills_its_dispatcher_ends_alone_after_its_attempts(
    house: House,
) -> None:
    """With it die the batches in flight, three times: their rows come back and all succeed.

    Its first run is not counted, for nobody can tell which of those that were held it was.
    """
    house = replace(house, models=("identity",))
    await short_leases(house, 1.0)
    poison = text_ticket(DEADLY)
    innocent = [text_ticket(str(number)) for number in range(200)]
    ids = await house.accept([*innocent[:100], poison, *innocent[100:]])
    deaths = 0
    ended = asyncio.create_task(house.outcomes(ids, deadline_s=90))
    while not ended.done():
        async with dispatcher_process(
            house, module="tests.deadly_dispatcher", wait_until_well=False,
            attempts_max=ATTEMPTS_MAX,
        ) as process:  # fmt: skip
            died = asyncio.create_task(process.wait(deadline_s=90))
            await asyncio.wait({ended, died}, return_when=asyncio.FIRST_COMPLETED)
            deaths += died.done()
            died.cancel()
            await asyncio.wait({died})
    outcomes = {it.id: it for it in await ended}
    last = outcomes.pop(poison.id)
    assert last.error is not None
    assert (last.error.code, last.attempts) == ("attempts_exhausted", ATTEMPTS_MAX)
    assert deaths == ATTEMPTS_MAX + 1
    assert {it.status for it in outcomes.values()} == {Status.SUCCEEDED}
    attempts = Counter(it.attempts for it in outcomes.values())
    # Those begun together with it were begun once more, alone; nobody was begun a third time.
    assert attempts.keys() <= {1, 2}, attempts


async def test_tickets_that_were_only_held_or_given_back_have_lost_no_attempt(
    house: House,
) -> None:
    ids = await house.accept(text_ticket(str(number)) for number in range(20))
    intake = house.broker.intake(Priority.NORMAL, "identity", room=20)
    arrivals = await Arrivals(intake).start()
    for _ in range(5):
        for delivery in await arrivals.take(20):
            await delivery.give_back()
            intake.release(delivery)
    for delivery in await arrivals.take(20):
        await delivery.give_back()
    await intake.stop()
    execution = replace(house.limits.execution, attempts_max=1)
    async with dispatching(house.with_limits(execution=execution)):
        outcomes = await house.outcomes(ids)
        await house.emptied()
    assert {it.status for it in outcomes} == {Status.SUCCEEDED}
    assert {it.attempts for it in outcomes} == {1}


async def test_a_prediction_begun_as_often_as_it_may_be_fails_without_being_run(
    house: House,
) -> None:
    ticket = text_ticket()
    await house.accept([ticket])
    for _ in range(house.limits.execution.attempts_max):
        await house.ledger.begin([ticket.id])
    intake = house.broker.intake(Priority.NORMAL, "identity", room=1)
    await (await (await Arrivals(intake).start()).next()).give_back()
    await intake.stop()
    async with dispatching(house):
        (outcome,) = await house.outcomes([ticket.id])
        await house.emptied()
    assert outcome.error is not None
    assert outcome.error.code == "attempts_exhausted"
    assert (outcome.attempts, outcome.compute_ms) == (5, 0)


async def test_a_bug_in_a_callback_ends_the_dispatcher_with_status_1(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged and lived with, it would be half a dispatcher."""
    monkeypatch.setenv("DEADLY_CALLBACK", "1")
    async with dispatcher_process(
        house, module="tests.deadly_dispatcher", wait_until_well=False
    ) as process:
        assert await process.wait() == 1
        assert "a bug" in await process.log()
