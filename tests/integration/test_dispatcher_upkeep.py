"""What is old is removed, and nothing that anybody still needs."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from blobs import Blobs
from broker import Broker
from contract.errors import BlobsUnavailable, LedgerUnavailable, QueueUnavailable
from contract.ids import PredictionId, week_of
from contract.prediction import File, Prediction, Priority, Status, Ticket
from dispatcher import upkeep
from dispatcher.upkeep import Upkeep
from ledger import Ledger
from tests.dispatching import House, dispatching
from tests.ended import new_id, succeeded
from tests.services import ROOT
from tests.tickets import Arrivals, until, until_left

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)  # a Wednesday
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)
RETENTION_DAYS = 30
OLD = NOW - 9 * WEEK
CONTENT = b"an input"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def at(moment: datetime) -> PredictionId:
    return new_id(int(moment.timestamp() * 1000))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs.open((tmp_path / "blobs").as_uri())


@pytest.fixture
async def keeper(ledger: Ledger, broker: Broker, blobs: Blobs) -> Upkeep:
    """Upkeep at NOW, in an installation that was there long before OLD."""
    for number in range(14):
        await ledger.ensure_partitions(NOW - number * WEEK)
    return Upkeep(ledger, broker, blobs, RETENTION_DAYS, now=lambda: NOW)


async def kept(blobs: Blobs, prediction_id: PredictionId) -> Prediction:
    """A prediction with an input in the blobs."""
    await blobs.put(prediction_id, CONTENT, SHA256)
    file = File("image/jpeg", len(CONTENT), SHA256)
    return succeeded(prediction_id, files={"image": file})


async def test_outcomes_and_inputs_go_when_they_have_been_kept_long_enough(
    keeper: Upkeep, ledger: Ledger, blobs: Blobs
) -> None:
    moments = [OLD - WEEK, OLD, NOW - RETENTION_DAYS * DAY, NOW - DAY]
    predictions = [await kept(blobs, at(each)) for each in moments]
    await ledger.record(predictions)
    orphan = at(OLD + DAY)  # its gateway died before the ticket was there
    await blobs.put(orphan, CONTENT, SHA256)

    await keeper.expire()

    found = await ledger.get_many(each.id for each in predictions)
    assert list(found) == [each.id for each in predictions[2:]]
    inputs = [await blobs.exists(each.id, SHA256) for each in predictions]
    assert inputs == [False, False, True, True]
    assert not await blobs.exists(orphan, SHA256)


async def test_for_ever_is_for_ever(
    keeper: Upkeep, ledger: Ledger, broker: Broker, blobs: Blobs
) -> None:
    prediction = await kept(blobs, at(OLD))
    await ledger.record([prediction])

    await Upkeep(ledger, broker, blobs, 0, now=lambda: NOW).expire()

    assert await ledger.get(prediction.id) == prediction
    assert await blobs.exists(prediction.id, SHA256)
    assert await ledger.horizon() is None


async def test_an_input_stays_while_its_prediction_waits_and_until_its_outcome_goes(
    keeper: Upkeep, ledger: Ledger, broker: Broker, blobs: Blobs
) -> None:
    monday = OLD - 2 * DAY  # at noon
    waiting = (await kept(blobs, at(monday))).ticket
    waiting = msgspec.structs.replace(waiting, model="identity")
    a_day_older = await kept(blobs, at(monday - DAY))  # a caller's own id: in the week before
    await broker.publish(waiting)

    await keeper.expire()

    horizon = await ledger.horizon()
    assert horizon is not None
    assert horizon > OLD  # its week has been dropped
    assert await blobs.get(waiting.id, SHA256) == CONTENT
    assert await blobs.get(a_day_older.id, SHA256) == CONTENT

    # It ends, today.
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, "identity", room=4)).start()
    (delivery,) = await arrivals.take(1)
    outcome = succeeded(waiting.id).outcome
    assert outcome is not None
    today = msgspec.structs.replace(outcome, completed_at_ms=int(NOW.timestamp() * 1000))
    assert await ledger.record([Prediction(waiting, today)])
    await delivery.ack()
    await arrivals.intake.stop()
    await until_left(broker, 0)
    await keeper.expire()
    assert await blobs.exists(waiting.id, SHA256)

    later = Upkeep(ledger, broker, blobs, RETENTION_DAYS, now=lambda: NOW + 5 * WEEK)
    await later.expire()
    assert await ledger.get(waiting.id) is None
    assert await blobs.weeks() == []


async def test_what_moves_from_the_queue_to_the_ledger_meanwhile_is_seen(
    keeper: Upkeep,
    ledger: Ledger,
    broker: Broker,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends just before the queue is asked: the ledger, asked afterwards, has it."""
    late = await kept(blobs, at(OLD))
    assert late.outcome is not None
    now_ms = int(NOW.timestamp() * 1000)
    outcome = msgspec.structs.replace(late.outcome, completed_at_ms=now_ms)

    async def it_has_just_left() -> None:
        await ledger.record([Prediction(late.ticket, outcome)])

    monkeypatch.setattr(broker, "oldest", it_has_just_left)

    await keeper.expire()

    assert await blobs.exists(late.id, SHA256)


@pytest.mark.parametrize("part", ["ledger.horizon", "ledger.oldest", "broker.oldest", "blobs"])
async def test_with_a_part_away_nothing_is_removed_that_it_could_have_kept(
    keeper: Upkeep,
    ledger: Ledger,
    broker: Broker,
    blobs: Blobs,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    prediction = await kept(blobs, at(OLD))
    await ledger.record([prediction])
    errors = {"ledger": LedgerUnavailable, "broker": QueueUnavailable, "blobs": BlobsUnavailable}
    name, _, method = part.partition(".")
    parts = {"ledger": ledger, "broker": broker, "blobs": blobs}

    async def away(*_: object) -> None:
        raise errors[name]("away")

    with monkeypatch.context() as patched:
        patched.setattr(parts[name], method or "remove_week", away)
        with pytest.raises(errors[name]):
            await keeper.expire()
    assert await blobs.exists(prediction.id, SHA256)

    await keeper.expire()
    assert await blobs.weeks() == []


async def test_two_dispatchers_do_it_at_once(
    keeper: Upkeep, ledger: Ledger, ledger_dsn: str, broker: Broker, blobs: Blobs
) -> None:
    old = [await kept(blobs, at(OLD + number * DAY)) for number in range(10)]
    young = await kept(blobs, at(NOW))
    await ledger.record([*old, young])
    other_ledger = await Ledger.connect(ledger_dsn)
    other = Upkeep(other_ledger, broker, blobs, RETENTION_DAYS, now=lambda: NOW)

    async def expire(keeper: Upkeep) -> None:
        with suppress(LedgerUnavailable):  # it tries again in five minutes
            await keeper.expire()

    await asyncio.gather(expire(keeper), expire(other), expire(keeper))
    await keeper.expire()
    await other_ledger.close()

    assert await ledger.oldest() == young.id
    assert await blobs.weeks() == [week_of(young.id)]


async def test_it_goes_on_after_a_part_was_away(
    ledger: Ledger, broker: Broker, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr(upkeep, "EXPIRY_AFTER_START_S", 0.0)
    failures = [LedgerUnavailable("away"), LedgerUnavailable("away")]

    def failing_at_first(work: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[None]]:
        async def attempt(argument: datetime) -> None:
            if failures:
                raise failures.pop()
            await work(argument)

        return attempt

    monkeypatch.setattr(ledger, "ensure_partitions", failing_at_first(ledger.ensure_partitions))
    monkeypatch.setattr(ledger, "expire", failing_at_first(ledger.expire))
    running = asyncio.create_task(Upkeep(ledger, broker, blobs, RETENTION_DAYS).run())

    async def expired() -> bool:
        return await ledger.horizon() is not None

    await until(expired)
    assert not failures
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.triton
async def test_a_prediction_that_waited_past_the_retention_still_has_its_input(
    house: House,
) -> None:
    long_ago = datetime.now(UTC) - 9 * WEEK
    content = (ROOT / "samples" / "cat.jpg").read_bytes()
    file = File("image/jpeg", len(content), hashlib.sha256(content).hexdigest())
    waited = Ticket(at(long_ago), "efficientnet_lite0", 1, {}, {"image": file})
    blobs = Blobs.open(house.blobs_url)
    await blobs.put(waited.id, content, file.sha256)
    orphan = at(long_ago - 4 * WEEK)
    await blobs.put(orphan, content, file.sha256)
    await house.broker.publish(waited)

    keeper = Upkeep(house.ledger, house.broker, blobs, RETENTION_DAYS)
    await keeper.expire()
    async with dispatching(house):
        (outcome,) = await house.outcomes([waited.id])
    await keeper.expire()

    assert outcome.status is Status.SUCCEEDED
    assert await house.ledger.get(waited.id) is not None
    assert await blobs.exists(waited.id, file.sha256)
    assert not await blobs.exists(orphan, file.sha256)
