"""What the ledger knows without asking Postgres."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from contract.errors import LedgerUnavailable
from ledger import Ledger
from ledger.schema import schema_sql, weeks_around
from tests.services import free_ports


def test_the_schema_is_found() -> None:
    assert "CREATE TABLE IF NOT EXISTS predictions" in schema_sql()


def test_partitions_are_wanted_from_last_week_to_four_weeks_ahead() -> None:
    sunday_night = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    mondays = [date(2026, 11, 9) + timedelta(weeks=number) for number in range(6)]

    assert weeks_around(sunday_night) == mondays
    assert weeks_around(sunday_night + timedelta(minutes=1))[0] == mondays[1]
    # The same moment, on a clock that shows Monday already.
    assert weeks_around(sunday_night.astimezone(timezone(timedelta(hours=9)))) == mondays


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "localhost/db",
        "mysql://user:very-secret@host/db",
        "postgresql://user:very-secret#1@host/db",
        "postgresql://user:1/very-secret@host/db",
        "postgresql://user:1?very-secret@host/db",
        "postgresql://user@host:very-secret/db",
        "postgresql://user@[very-secret]/db",
    ],
)
async def test_what_is_no_dsn_is_refused_and_not_repeated(dsn: str) -> None:
    with pytest.raises(ValueError, match="postgresql://") as refused:
        await Ledger.connect(dsn)

    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:1@one:5432,two:5433/db?target_session_attrs=primary",
        "postgresql://user:1@[::1]:5432/db",
        "postgres:///db?host=/run/postgresql",
        "postgresql://user:a%23b%2Fc@host",
    ],
)
async def test_every_form_of_dsn_that_asyncpg_reads_is_taken(dsn: str) -> None:
    await (await Ledger.connect(dsn)).close()


async def test_an_unreachable_postgres_is_unavailable_on_use_and_not_before() -> None:
    port = free_ports(1)[0]
    ledger = await Ledger.connect(f"postgresql://postgres:very-secret@127.0.0.1:{port}/postgres")

    for call in (ledger.ping(), ledger.migrate(), ledger.page(before=None, rows_max=1)):
        with pytest.raises(LedgerUnavailable, match="does not answer") as raised:
            await call
        assert "very-secret" not in f"{raised.value} {raised.value.__cause__}"
    await ledger.close()
