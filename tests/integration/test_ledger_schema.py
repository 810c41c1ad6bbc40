"""The schema applies itself once, whoever starts first; partitions are made ahead."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from contract.errors import LedgerUnavailable
from contract.ids import accepted_at_ms, from_uuid, to_uuid
from ledger import Ledger, NotDurable, SchemaTooNew
from ledger.schema import SCHEMA_VERSION
from tests.ended import new_id, succeeded

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
WEEK = timedelta(weeks=1)
VERSION_1 = (Path(__file__).parent / "schemas" / "version_1.sql").read_text("utf-8")


def unix_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@pytest.fixture
async def empty_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it."""
    name = f"empty_{uuid4().hex}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield f"{postgres_dsn.rpartition('/')[0]}/{name}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def connection(ledger_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own to the ledger's database."""
    connection = await asyncpg.connect(ledger_dsn)
    yield connection
    await connection.close()


async def partitions(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'predictions'::regclass ORDER BY name"
    )
    return [row["name"] for row in rows]


async def test_before_the_schema_is_there_the_ledger_is_unavailable(empty_dsn: str) -> None:
    ledger = await Ledger.connect(empty_dsn)

    for call in (ledger.ping(), ledger.get(new_id()), ledger.record([succeeded()])):
        with pytest.raises(LedgerUnavailable, match="no schema"):
            await call

    await ledger.migrate()
    await ledger.ping()
    await ledger.close()


async def test_migrating_again_changes_nothing(ledger: Ledger, ledger_dsn: str) -> None:
    prediction = succeeded()
    await ledger.record([prediction])

    await ledger.migrate()

    assert await ledger.get(prediction.id) == prediction


async def test_many_may_migrate_at_once_and_one_does(empty_dsn: str) -> None:
    ledgers = [await Ledger.connect(empty_dsn) for _ in range(6)]

    await asyncio.gather(*[each.migrate() for each in ledgers])

    await asyncio.gather(*[each.ping() for each in ledgers])
    await asyncio.gather(*[each.close() for each in ledgers])
    connection = await asyncpg.connect(empty_dsn)
    versions = await connection.fetch("SELECT version FROM schema_version")
    await connection.close()
    assert [row["version"] for row in versions] == [SCHEMA_VERSION]


async def test_the_schema_applies_again_over_itself(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """As it must when a newer version of it comes to an older database."""
    await ledger.ensure_partitions(MONDAY)
    prediction = succeeded()
    await ledger.record([prediction])
    await connection.execute("DELETE FROM schema_version")

    await ledger.migrate()

    assert await connection.fetchval("SELECT max(version) FROM schema_version") == SCHEMA_VERSION
    assert await ledger.get(prediction.id) == prediction


@pytest.fixture
async def version_1_dsn(empty_dsn: str) -> str:
    """A database as the first version made it, with rows in a week and outside all of them."""
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute(VERSION_1)
    await connection.execute("INSERT INTO schema_version (version) VALUES (1)")
    await connection.execute("SELECT predictions_add_week($1)", MONDAY.date())
    for accepted_ms in (unix_ms(MONDAY), 0):
        await connection.execute(
            "INSERT INTO predictions VALUES ($1, 'classifier', 1, 'normal', 'alice', '{}', '{}',"
            " 'failed', NULL, 'invalid_input', 'not an image', 1, now(), now(), 1, 1)",
            to_uuid(new_id(accepted_ms)),
        )
    await connection.close()
    return empty_dsn


async def test_a_database_of_the_first_version_is_migrated_once_whoever_starts(
    version_1_dsn: str,
) -> None:
    ledgers = [await Ledger.connect(version_1_dsn) for _ in range(2)]
    before = await ledgers[0]._connections._pool.fetch("SELECT id FROM predictions")

    await asyncio.gather(*[each.migrate() for each in ledgers])

    found = await ledgers[0].get_many(from_uuid(row["id"]) for row in before)
    assert len(found) == len(before) == 2
    assert {(each.ticket.deadline_ms, each.ticket.retry_of) for each in found.values()} == {
        (None, None)
    }
    # Old weeks, new weeks and what lies outside of them take the new columns.
    await ledgers[1].ensure_partitions(MONDAY)
    new = [
        succeeded(new_id(accepted), deadline_ms=unix_ms(MONDAY), retry_of=new_id())
        for accepted in (1, unix_ms(MONDAY), unix_ms(MONDAY + WEEK))
    ]
    assert await ledgers[0].record(new) == {each.id for each in new}
    assert await ledgers[1].get_many(each.id for each in new) == {each.id: each for each in new}
    # A week that is made later takes rows of either version out of the default partition.
    await ledgers[0].ensure_partitions(datetime(1970, 1, 12, tzinfo=UTC))
    assert len(await ledgers[0].get_many([*found, *(each.id for each in new)])) == 5
    assert await ledgers[0].horizon() is None
    assert await ledgers[0].begin([new_id()])
    await asyncio.gather(*[each.close() for each in ledgers])


async def test_a_migrated_database_is_what_a_new_one_is(
    version_1_dsn: str, ledger_dsn: str
) -> None:
    ledger = await Ledger.connect(version_1_dsn)
    await ledger.migrate()
    await ledger.close()

    assert await shape(version_1_dsn) == await shape(ledger_dsn)


async def shape(dsn: str) -> list[tuple[object, ...]]:
    """Columns, constraints, indexes, triggers and functions of the parts every database has."""
    connection = await asyncpg.connect(dsn)
    tables = "('predictions', 'predictions_default', 'begun', 'horizon', 'schema_version')"
    rows = await connection.fetch(
        "SELECT table_name || '', column_name || '', data_type || is_nullable, ordinal_position"
        f" FROM information_schema.columns WHERE table_name IN {tables}"
        " UNION ALL SELECT conrelid::regclass::text, conname || '', pg_get_constraintdef(oid), 0"
        f" FROM pg_constraint WHERE conrelid::regclass::text IN {tables}"
        " UNION ALL SELECT tablename || '', '', indexdef, 0"
        f" FROM pg_indexes WHERE tablename IN {tables}"
        " UNION ALL SELECT tgrelid::regclass::text, tgname || '', pg_get_triggerdef(oid), 0"
        f" FROM pg_trigger WHERE tgrelid::regclass::text IN {tables}"
        " UNION ALL SELECT '', proname || '', prosrc, 0 FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace ORDER BY 1, 2, 3"
    )
    await connection.close()
    return [tuple(row) for row in rows]


async def test_a_release_of_the_first_version_refuses_a_migrated_database(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.schema.SCHEMA_VERSION", 1)

    with pytest.raises(SchemaTooNew, match="this release knows 1"):
        await ledger.migrate()


async def test_a_newer_schema_is_left_alone(ledger: Ledger, connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", SCHEMA_VERSION + 1)

    with pytest.raises(SchemaTooNew, match=f"version {SCHEMA_VERSION + 1}"):
        await ledger.migrate()


async def test_a_database_that_commits_before_it_writes_is_refused(
    ledger_dsn: str, connection: asyncpg.Connection
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    unfit = await Ledger.connect(ledger_dsn)

    with pytest.raises(NotDurable, match="synchronous_commit"):
        await unfit.migrate()

    await unfit.close()


async def test_a_row_goes_to_the_partition_of_the_week_its_prediction_was_accepted_in(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    await ledger.ensure_partitions(MONDAY)
    first_ms, after_ms = unix_ms(MONDAY), unix_ms(MONDAY + WEEK)
    expected = {
        new_id(first_ms - 1): "predictions_2026_11_09",
        new_id(first_ms): "predictions_2026_11_16",
        new_id(after_ms - 1): "predictions_2026_11_16",
        new_id(after_ms): "predictions_2026_11_23",
        new_id(0): "predictions_default",
        new_id(2**48 - 1): "predictions_default",
    }

    await ledger.record([succeeded(each) for each in expected])

    rows = await connection.fetch("SELECT id, tableoid::regclass::text AS name FROM predictions")
    assert {from_uuid(row["id"]): row["name"] for row in rows} == expected


async def test_partitions_are_made_once_however_many_ask(
    ledger: Ledger, ledger_dsn: str, connection: asyncpg.Connection
) -> None:
    other = await Ledger.connect(ledger_dsn)

    await asyncio.gather(
        *[each.ensure_partitions(MONDAY) for each in (ledger, other, ledger, other)]
    )
    await other.close()

    names = [f"predictions_{MONDAY + WEEK * number:%Y_%m_%d}" for number in range(-1, 5)]
    assert await partitions(connection) == [*names, "predictions_default"]
    await ledger.ensure_partitions(MONDAY + WEEK)
    assert len(await partitions(connection)) == len(names) + 2


async def test_rows_that_had_no_partition_move_when_it_is_made(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    inside = [succeeded(new_id(unix_ms(MONDAY) + number)) for number in range(3)]
    outside = succeeded(new_id(0))
    await ledger.record([*inside, outside])

    await ledger.ensure_partitions(MONDAY)

    rows = await connection.fetch("SELECT id FROM predictions_default")
    assert [from_uuid(row["id"]) for row in rows] == [outside.id]
    everything = [*inside, outside]
    assert await ledger.get_many(each.id for each in everything) == {
        each.id: each for each in everything
    }
    # The moved rows are what they were before: recorded, once and for all.
    assert await ledger.record(everything) == set()


async def test_a_partition_made_while_a_row_is_on_its_way_loses_nothing(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """The row was on its way to the default partition, which no longer takes it."""
    prediction = succeeded(new_id(unix_ms(MONDAY)))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with connection.transaction():
        await connection.execute("SELECT predictions_add_week($1)", MONDAY.date())
        recording = asyncio.create_task(ledger.record([prediction]))
        while await connection.fetchval(waiting) == 0:
            assert not recording.done()
            await connection.execute("SELECT pg_stat_clear_snapshot()")

    with pytest.raises(LedgerUnavailable, match="partition"):
        await recording
    assert await ledger.record([prediction]) == {prediction.id}


async def test_whoever_reads_the_default_partition_for_long_is_not_in_the_way(
    ledger: Ledger, connection: asyncpg.Connection
) -> None:
    """Making a partition gives up rather than stop everybody who would queue up behind it."""
    async with connection.transaction():
        await connection.fetch("SELECT * FROM predictions_default")
        with pytest.raises(LedgerUnavailable) as raised:
            await ledger.ensure_partitions(MONDAY)
        assert isinstance(raised.value.__cause__, asyncpg.LockNotAvailableError)
        await ledger.record([succeeded()])

    await ledger.ensure_partitions(MONDAY)


async def test_sql_and_python_agree_on_when_a_prediction_was_accepted(
    connection: asyncpg.Connection,
) -> None:
    for accepted_ms in (0, 1, unix_ms(MONDAY) + 123, 9_007_199_254_740):
        prediction_id = new_id(accepted_ms)

        moment = await connection.fetchval("SELECT accepted_at($1)", to_uuid(prediction_id))
        assert moment == datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=accepted_ms)

        first: UUID = await connection.fetchval("SELECT first_id_at($1)", moment)
        assert first < to_uuid(prediction_id)
        assert accepted_at_ms(from_uuid(first)) == accepted_ms


async def test_a_week_begins_on_a_monday(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.DataError, match="not a Monday"):
        await connection.execute("SELECT predictions_add_week($1)", MONDAY.date() + timedelta(1))
