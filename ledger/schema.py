"""The schema: which version this release knows, and how a database gets there.

The SQL itself is `schema.sql`, at the top of a checkout and inside this package once installed.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from ledger.connections import Connection
from ledger.refusals import NotDurable, SchemaTooNew

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2

MIGRATION_S_MAX = 300.0  # whoever waits for another process's migration waits as long
_ADVISORY_LOCK = 0x7472_6974_6F6E_71  # "tritonq": one number for everybody who migrates

_WEEK = timedelta(weeks=1)
# Partitions are made for last week (tickets accepted before midnight on Sunday end on Monday), this
# week and the next four: long enough to be noticed when nobody makes them any more.
WEEKS_BEFORE = 1
WEEKS_AHEAD = 4

_ADD_WEEKS = "SELECT monday FROM unnest($1::date[]) AS monday WHERE predictions_add_week(monday)"


def schema_sql() -> str:
    package = Path(__file__).parent
    installed = package / "schema.sql"
    return (installed if installed.exists() else package.parent / "schema.sql").read_text("utf-8")


async def migrate(connection: Connection) -> None:
    """Bring the database to SCHEMA_VERSION; does nothing if it is there.

    Any number of processes may do this at once: one works, the others wait and find it done.

    Raises:
        SchemaTooNew: a newer release was here.
        NotDurable: commits are reported before they are on the disk.
    """
    if await connection.fetchval("SHOW synchronous_commit") == "off":
        raise NotDurable(
            "Postgres has synchronous_commit off, and may forget outcomes whose tickets are gone:"
            " switch it on, at least for our role (ALTER ROLE … SET synchronous_commit = on)"
        )
    async with connection.transaction():
        # Let go at the end of the transaction, however that comes about.
        await connection.execute(
            "SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK, timeout=MIGRATION_S_MAX
        )
        found = await version(connection)
        if found > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"the ledger has schema version {found}, this release knows {SCHEMA_VERSION}:"
                " start the newer release, or restore an older backup"
            )
        if found < SCHEMA_VERSION:
            await connection.execute(schema_sql(), timeout=MIGRATION_S_MAX)
            await connection.execute(
                "INSERT INTO schema_version (version) VALUES ($1)", SCHEMA_VERSION
            )
            log.info("ledger.migrated", extra={"from": found, "to": SCHEMA_VERSION})


async def version(connection: Connection) -> int:
    """The version the database has; 0 if it has none."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version"))


async def add_partitions(connection: Connection, now: datetime) -> None:
    """Make the partitions that rows recorded around `now` need, where they are missing."""
    await add_weeks(connection, weeks_around(now))


async def add_weeks(connection: Connection, weeks: Sequence[date]) -> None:
    """Make the partitions of these weeks, each named by its Monday, where they are missing."""
    made = await connection.fetch(_ADD_WEEKS, weeks)
    if made:
        log.info("ledger.partitions_added", extra={"weeks": [str(each["monday"]) for each in made]})


def weeks_around(now: datetime) -> list[date]:
    """The Mondays (UTC) of the weeks that need a partition at `now`."""
    return [monday_of(now) + _WEEK * number for number in range(-WEEKS_BEFORE, WEEKS_AHEAD + 1)]


def monday_of(moment: datetime) -> date:
    """The Monday (UTC) of the week that `moment` lies in."""
    day = moment.astimezone(UTC).date()
    return day - timedelta(days=day.weekday())
