"""What ended long ago is removed by the week, and nothing else ever is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from contract.errors import LedgerUnavailable
from contract.ids import PredictionId
from contract.prediction import Prediction
from ledger import Ledger
from tests.ended import new_id, succeeded, until_blocked

MONDAY = datetime(2026, 8, 3, tzinfo=UTC)
WEEK = timedelta(weeks=1)
MS = timedelta(milliseconds=1)
DAY = timedelta(days=1)


def at(moment: datetime) -> PredictionId:
    return new_id(int(moment.timestamp() * 1000))


def ended(accepted: datetime, completed: datetime | None = None) -> Prediction:
    """A prediction accepted at one moment that ended at another."""
    prediction = succeeded(at(accepted))
    if completed is None:
        return prediction
    assert prediction.outcome is not None
    completed_ms = int(completed.timestamp() * 1000)
    outcome = msgspec.structs.replace(prediction.outcome, completed_at_ms=completed_ms)
    return Prediction(prediction.ticket, outcome)


async def kept(ledger: Ledger, *predictions: Prediction) -> list[bool]:
    found = await ledger.get_many(each.id for each in predictions)
    return [each.id in found for each in predictions]


@pytest.fixture
async def connection(ledger_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own to the ledger's database."""
    connection = await asyncpg.connect(ledger_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def weekly(ledger: Ledger) -> Ledger:
    """The ledger with partitions from the week before MONDAY to four weeks after."""
    await ledger.ensure_partitions(MONDAY)
    return ledger


async def test_a_week_goes_when_everything_in_it_ended_before(
    weekly: Ledger, connection: asyncpg.Connection
) -> None:
    first, last = ended(MONDAY), ended(MONDAY + WEEK - DAY)
    next_week = ended(MONDAY + WEEK)
    await weekly.record([first, last, next_week])

    assert await weekly.expire(MONDAY + WEEK - MS) == 0  # the week is not over
    assert await kept(weekly, first, last, next_week) == [True, True, True]
    assert await weekly.horizon() == MONDAY

    assert await weekly.expire(MONDAY + WEEK) == 2
    assert await kept(weekly, first, last, next_week) == [False, False, True]
    assert await weekly.horizon() == MONDAY + WEEK
    gone = "SELECT to_regclass('predictions_2026_08_03') IS NULL"
    assert await connection.fetchval(gone)
    assert await weekly.oldest() == next_week.id

    assert await weekly.expire(MONDAY + WEEK) == 0
    assert await weekly.expire(MONDAY) == 0  # somebody whose clock is behind
    assert await weekly.horizon() == MONDAY + WEEK


async def test_a_late_outcome_keeps_its_week_and_those_after_it(weekly: Ledger) -> None:
    """The horizon says that everything before it is gone, so weeks go in order."""
    before = MONDAY + 3 * WEEK
    early, late, after = ended(MONDAY), ended(MONDAY, before), ended(MONDAY + WEEK)
    await weekly.record([early, late, after])

    assert await weekly.expire(before) == 0
    assert await kept(weekly, early, late, after) == [True, True, True]
    assert await weekly.horizon() == MONDAY

    assert await weekly.expire(before + MS) == 3
    assert await kept(weekly, early, late, after) == [False, False, False]
    assert await weekly.horizon() == before


async def test_an_outcome_recorded_after_its_week_has_gone_is_kept_as_long_as_any_other(
    weekly: Ledger, connection: asyncpg.Connection
) -> None:
    await weekly.expire(MONDAY + 2 * WEEK)
    late = ended(MONDAY, MONDAY + 2 * WEEK + DAY)

    assert await weekly.record([late]) == {late.id}
    assert await weekly.record([late]) == set()

    where = await connection.fetchval("SELECT tableoid::regclass::text FROM predictions")
    assert where == "predictions_default"
    await weekly.expire(MONDAY + 2 * WEEK + DAY)
    assert await weekly.get(late.id) == late
    assert await weekly.oldest() == late.id
    assert await weekly.expire(MONDAY + 2 * WEEK + DAY + MS) == 1
    assert await weekly.get(late.id) is None


async def test_rows_outside_every_week_go_once_the_horizon_is_past_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody made partitions: no outcome is removed that would then be answered as unknown."""
    monkeypatch.setattr("ledger.retention.CHUNK_ROWS_MAX", 3)
    old = [ended(MONDAY + number * MS) for number in range(8)]
    this_week = ended(MONDAY + WEEK)
    future = ended(datetime(2100, 1, 1, tzinfo=UTC), datetime(2100, 1, 2, tzinfo=UTC))
    await ledger.record([*old, this_week, future])

    assert await ledger.expire(MONDAY + WEEK + DAY) == len(old)

    assert await kept(ledger, *old, this_week, future) == [False] * 8 + [True, True]
    assert await ledger.horizon() == MONDAY + WEEK


async def test_an_id_from_the_future_goes_by_the_time_of_its_outcome(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    wrong_clock = ended(datetime(2100, 1, 1, tzinfo=UTC), datetime(2100, 1, 2, tzinfo=UTC))
    await ledger.record([wrong_clock])

    assert await ledger.expire(datetime(2100, 1, 3, tzinfo=UTC)) == 1
    assert await ledger.get(wrong_clock.id) is None


async def test_beginnings_are_forgotten_in_time(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    old, young = new_id(), new_id()
    await ledger.begin([old])
    await connection.execute("UPDATE begun SET last_at = now() - interval '2 days'")
    await ledger.begin([young])

    assert await ledger.expire(datetime.now(UTC) - DAY) == 0

    assert await ledger.begin([old, young]) == {old: 1, young: 2}


async def test_several_may_expire_at_once(weekly: Ledger, ledger_dsn: str) -> None:
    old = [ended(MONDAY + number * DAY) for number in range(14)]
    young = ended(MONDAY + 2 * WEEK)
    await weekly.record([*old, young])
    others = [await Ledger.connect(ledger_dsn) for _ in range(3)]

    async def expire(ledger: Ledger) -> int:
        try:
            return await ledger.expire(MONDAY + 2 * WEEK)
        except LedgerUnavailable:  # the other one holds what it needs: it tries the next time
            return 0

    removed = await asyncio.gather(*[expire(each) for each in (weekly, *others)])
    removed.append(await weekly.expire(MONDAY + 2 * WEEK))

    assert sum(removed) == len(old)
    assert await kept(weekly, young) == [True]
    assert await weekly.horizon() == MONDAY + 2 * WEEK
    for each in others:
        await each.close()


async def test_a_row_that_arrives_while_its_week_is_looked_through_is_not_lost(
    weekly: Ledger, ledger_dsn: str, connection: asyncpg.Connection
) -> None:
    """Its transaction is open when the week is about to go: it is waited for, and counted."""
    early = ended(MONDAY)
    await weekly.record([early])
    await weekly.expire(MONDAY)  # the week before, so that only one is left to wait for
    columns = "model, version, priority, owner, input, files, status, output, attempts"
    inserter = await asyncpg.connect(ledger_dsn)
    inserting = inserter.transaction()
    await inserting.start()
    await inserter.execute(
        f"INSERT INTO predictions (id, {columns}, started_at, completed_at, queue_ms, compute_ms)"
        f" SELECT first_id_at($1), {columns}, started_at, $1 + interval '5 weeks', 1, 1"
        " FROM predictions",
        MONDAY,
    )

    expiring = asyncio.create_task(weekly.expire(MONDAY + WEEK))
    await until_blocked(connection, 1)
    await inserting.commit()
    await inserter.close()
    with suppress(LedgerUnavailable):  # where the commit took more than a second
        assert await expiring == 0

    assert await weekly.expire(MONDAY + WEEK) == 0
    assert await kept(weekly, early) == [True]
    assert await weekly.horizon() == MONDAY


async def test_whoever_reads_a_week_for_long_is_not_disturbed_and_holds_up_nobody_for_long(
    weekly: Ledger, connection: asyncpg.Connection
) -> None:
    old = ended(MONDAY)
    await weekly.record([old])
    async with connection.transaction():
        assert await connection.fetchval("SELECT count(*) FROM predictions") == 1
        with pytest.raises(LedgerUnavailable):
            await weekly.expire(MONDAY + WEEK)
        assert await weekly.get(old.id) == old
        assert await weekly.record([ended(MONDAY + WEEK)])
        assert await connection.fetchval("SELECT count(*) FROM predictions") == 2

    assert await weekly.expire(MONDAY + WEEK) == 1


@pytest.mark.parametrize("statement", ["EXPIRE_WEEK", "MOVE_HORIZON", "DELETE_ROWS"])
async def test_cut_off_at_any_step_it_is_finished_the_next_time(
    weekly: Ledger, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """At no moment is a row gone whose age is on this side of the horizon."""
    rows = [ended(MONDAY + number * WEEK) for number in (-5, -1, 0, 1)]
    await weekly.record(rows)
    before = MONDAY + 2 * WEEK
    arguments = {"EXPIRE_WEEK": "$1::date, $2::timestamptz", "MOVE_HORIZON": "$1::timestamptz",
                 "DELETE_ROWS": "$1::timestamptz, $2::int"}  # fmt: skip
    with monkeypatch.context() as broken:
        broken.setattr(f"ledger.retention._{statement}", f"SELECT {arguments[statement]}, 1 / 0")
        with pytest.raises((asyncpg.DivisionByZeroError, LedgerUnavailable)):
            await weekly.expire(before)
    horizon = await weekly.horizon()
    for each, is_kept in zip(rows, await kept(weekly, *rows), strict=True):
        assert is_kept or (horizon is not None and each.ticket.created_at_ms < _ms(horizon))

    await weekly.expire(before)

    assert await kept(weekly, *rows) == [False] * 4
    assert await weekly.horizon() == before


def _ms(moment: datetime) -> float:
    return moment.timestamp() * 1000


async def test_only_a_week_that_is_over_can_be_dropped(
    weekly: Ledger, connection: asyncpg.Connection
) -> None:
    with pytest.raises(asyncpg.DataError, match="not over"):
        await connection.fetchval(
            "SELECT predictions_expire_week($1, $2)", MONDAY.date(), MONDAY + 6 * DAY
        )
