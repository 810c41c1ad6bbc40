"""Carries the ledger out of Postgres and into an empty one, for backup and restore.

In Postgres's text form, by COPY, so that no table is ever in memory.
"""

from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from datetime import date, datetime
from typing import Any, cast

from ledger import retention, schema, statements
from ledger.connections import Connection
from ledger.rows import COLUMNS

COPY_S_MAX = 24 * 3600.0
COPIED = {  # the tables that are carried, with their columns
    "predictions": tuple(COLUMNS),
    "begun": ("id", "times", "last_at"),
}
# Text is read as it was written only where both sides agree on how times and numbers look.
_FORMS = "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; SET LOCAL extra_float_digits = 3"

Write = Callable[[bytes], Coroutine[Any, Any, None]]


class Snapshot:
    """The ledger at one moment, however long it is read. Made by `Ledger.snapshot`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def schema_version(self) -> int:
        return await schema.version(self._connection)

    async def weeks(self) -> list[date]:
        """The weeks that have a partition, oldest first."""
        return await retention.weeks(self._connection)

    async def horizon(self) -> datetime | None:
        found = await self._connection.fetchval(statements.HORIZON)
        return cast(datetime | None, found)

    async def copy(self, table: str, write: Write) -> int:
        """Write a table of COPIED to `write`, in pieces; returns its rows."""
        done = await self._connection.copy_from_query(
            f"SELECT {', '.join(COPIED[table])} FROM {table}",  # noqa: S608 - names of our own
            output=write,
            timeout=COPY_S_MAX,
        )
        return _rows(done)


class Filling:
    """An empty ledger that is being filled, all or nothing. Made by `Ledger.filling`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_weeks(self, weeks: Sequence[date]) -> None:
        await schema.add_weeks(self._connection, weeks)

    async def move_horizon(self, moment: datetime) -> None:
        await retention.move_horizon(self._connection, moment)

    async def copy(self, table: str, columns: Sequence[str], source: AsyncIterable[bytes]) -> int:
        """Read a table as `Snapshot.copy` wrote it; returns its rows."""
        done = await self._connection.copy_to_table(
            table, source=source, columns=list(columns), timeout=COPY_S_MAX
        )
        return _rows(done)


async def settle_forms(connection: Connection) -> None:
    """For the rest of the transaction: times and numbers in the form in which they are carried."""
    await connection.execute(_FORMS)


async def is_empty(connection: Connection) -> bool:
    """Whether nothing has ever ended here, as far as anybody can still see."""
    return not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM predictions) OR EXISTS (SELECT FROM begun)"
    )


def _rows(done: str) -> int:
    return int(done.rpartition(" ")[2])  # "COPY 12"
