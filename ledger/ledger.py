"""The ledger: how every prediction ended.

Every method raises LedgerUnavailable while Postgres is away, and works again once it is back.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast
from uuid import UUID

import asyncpg

from contract.ids import PredictionId, from_uuid, to_uuid
from contract.prediction import Prediction, Status
from ledger import copying, retention, schema, statements
from ledger.connections import Connections
from ledger.copying import Filling, Snapshot
from ledger.refusals import NotEmpty, Unrecordable
from ledger.rows import COLUMNS, Row, from_row, size, to_row

log = logging.getLogger(__name__)

# Bounds of one statement. Postgres takes a gigabyte; we need not find out what that does to it.
STATEMENT_ROWS_MAX = 256
STATEMENT_CHARACTERS_MAX = 32 * 1024 * 1024
PAGE_ROWS_MAX = 1000

_ABOVE_ALL_IDS = UUID(int=(1 << 128) - 1)  # no UUIDv7 is as large

# A row is refused for what is in it: class 22 (asyncpg raises it too, for what it cannot encode),
# or too deeply nested.
_REFUSED = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)


class Ledger:
    """Insert-once: a prediction's first outcome is recorded, any later one changes nothing."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @classmethod
    async def connect(cls, dsn: str, *, connections_max: int = 4) -> "Ledger":
        """Prepare to use the ledger. Postgres may be down: connections are made when needed.

        Raises:
            ValueError: not a DSN of Postgres.
        """
        return cls(await Connections.open(dsn, connections_max))

    async def migrate(self) -> None:
        """Apply schema.sql, unless this version of it was applied before.

        Raises:
            SchemaTooNew: the database was migrated by a newer release.
            NotDurable: it may forget what it has committed.
        """
        async with self._connections.borrow() as connection:
            await schema.migrate(connection)

    async def ensure_partitions(self, now: datetime) -> None:
        """Make the partitions of the weeks around and ahead of `now`. Call it about once a day.

        Without it nothing is lost: rows then gather in the default partition, and move when their
        week is made.
        """
        async with self._connections.borrow() as connection:
            await schema.add_partitions(connection, now)

    async def record(self, ended: Sequence[Prediction]) -> set[PredictionId]:
        """Record outcomes; the contents of files are left out.

        Each statement commits by itself, so an error may leave a part recorded. Recording the same
        again is harmless.

        Returns:
            The ids this call inserted. Any other prediction has an outcome already.

        Raises:
            Unrecordable: some are refused for what is in them; the others are recorded.
        """
        reasons: dict[PredictionId, str] = {}
        rows = dict[PredictionId, Row]()  # by id: one statement cannot insert the same id twice
        for prediction in ended:
            try:
                rows.setdefault(prediction.id, to_row(prediction))
            except (ValueError, OverflowError, RecursionError) as error:
                reasons[prediction.id] = type(error).__name__
        inserted: set[UUID] = set()
        # In order of id, as everybody does it: two batches that share predictions would otherwise
        # lock them in different orders, and wait for each other.
        for chunk in _chunks([rows[each] for each in sorted(rows)]):
            inserted |= await self._insert(chunk, reasons)
        # Looked up, since to spell an id takes ten times as long.
        recorded = {prediction_id for prediction_id, row in rows.items() if row[0] in inserted}
        if reasons:
            log.warning("ledger.refused", extra={"reasons": reasons})
            raise Unrecordable(reasons, recorded)
        return recorded

    async def _insert(self, rows: Sequence[Row], reasons: dict[PredictionId, str]) -> set[UUID]:
        try:
            async with self._connections.borrow() as connection:
                inserted = await connection.fetch(statements.RECORD, *_columns(rows))
        except _REFUSED as error:
            if len(rows) == 1:
                reasons[_id(rows[0])] = type(error).__name__
                return set()
            # One bad row must not fail its neighbours: halve until it stands alone.
            middle = len(rows) // 2
            first = await self._insert(rows[:middle], reasons)
            return first | await self._insert(rows[middle:], reasons)
        return {row["id"] for row in inserted}

    async def get(self, prediction_id: PredictionId) -> Prediction | None:
        """Find how a prediction ended; None if it has not, or was never accepted."""
        async with self._connections.borrow() as connection:
            row = await connection.fetchrow(statements.GET, to_uuid(prediction_id))
        return None if row is None else from_row(cast(Row, row))

    async def get_many(self, ids: Iterable[PredictionId]) -> dict[PredictionId, Prediction]:
        """Find those of `ids` that have ended."""
        async with self._connections.borrow() as connection:
            rows = await connection.fetch(statements.GET_MANY, [to_uuid(each) for each in ids])
        found = [from_row(cast(Row, row)) for row in rows]
        return {prediction.id: prediction for prediction in found}

    async def ended(self, ids: Iterable[PredictionId]) -> set[PredictionId]:
        """Tell which of `ids` have ended. Cheaper than `get_many`."""
        async with self._connections.borrow() as connection:
            rows = await connection.fetch(statements.ENDED, [to_uuid(each) for each in ids])
        return {from_uuid(row["id"]) for row in rows}

    async def page(
        self,
        *,
        before: PredictionId | None,
        rows_max: int,
        owner: str | None = None,
        model: str | None = None,
        status: Status | None = None,
    ) -> list[Prediction]:
        """Read a page of predictions, the one accepted last first.

        The last id of a page is `before` of the next one: no prediction comes twice, and none that
        was there at the start is left out, whatever is recorded meanwhile.

        Args:
            before: only predictions accepted before this one; None starts at the newest.
            rows_max: 1 to PAGE_ROWS_MAX.
        """
        assert 1 <= rows_max <= PAGE_ROWS_MAX
        statement = statements.page(owner=owner is not None, model=model is not None, status=status)
        start = _ABOVE_ALL_IDS if before is None else to_uuid(before)
        filters = [value for value in (owner, model) if value is not None]
        if any("\0" in value for value in filters):
            return []  # no row has one, and Postgres takes no text that does
        async with self._connections.borrow() as connection:
            rows = await connection.fetch(statement, start, rows_max, *filters)
        return [from_row(cast(Row, row)) for row in rows]

    async def begun(self, ids: Iterable[PredictionId]) -> dict[PredictionId, int]:
        """Tell how often runs of these predictions have begun, of those that were counted."""
        async with self._connections.borrow() as connection:
            rows = await connection.fetch(statements.BEGUN, [to_uuid(each) for each in ids])
        return {from_uuid(row["id"]): row["times"] for row in rows}

    async def begin(self, ids: Iterable[PredictionId]) -> dict[PredictionId, int]:
        """Count that runs of these predictions begin; for those that were delivered before.

        Exact whoever else counts at the same time. An error leaves open whether it was counted.

        Returns:
            How often each was begun, this time included.
        """
        beginning = [to_uuid(each) for each in sorted(set(ids))]
        async with self._connections.borrow() as connection:
            rows = await connection.fetch(statements.BEGIN, beginning)
        return {from_uuid(row["id"]): row["times"] for row in rows}

    async def expire(self, before: datetime) -> int:
        """Remove what ended before `before`: whole weeks, once everything in them has.

        Any number of processes may do it at once. What cannot be removed now is left to the next
        time; an error leaves a part removed.

        Returns:
            The rows this call removed.
        """
        async with self._connections.borrow() as connection:
            return await retention.expire(connection, before)

    async def horizon(self) -> datetime | None:
        """The moment before which everything accepted has been removed; None: nothing was yet.

        Says something only of a prediction that is found nowhere: a late one may still be there.
        """
        async with self._connections.borrow() as connection:
            return cast(datetime | None, await connection.fetchval(statements.HORIZON))

    async def oldest(self) -> PredictionId | None:
        """The prediction accepted first among those that are kept; None if none is."""
        async with self._connections.borrow() as connection:
            found = await connection.fetchval(statements.OLDEST)
        return None if found is None else from_uuid(found)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """Read the ledger as it is at one moment, for a backup; nobody is held up by it."""
        async with self._connections.borrow() as connection:
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            await transaction.start()
            try:
                await copying.settle_forms(connection)
                yield Snapshot(connection)
            except BaseException:
                # It may be in the middle of a COPY, which nothing else stops at once.
                connection.terminate()
                raise
            await transaction.rollback()  # it has only read

    @asynccontextmanager
    async def filling(self, backup: str) -> AsyncIterator[Filling]:
        """Fill an empty ledger from a backup, in one transaction.

        From its end until `restored`, `restoring` names the backup.

        Raises:
            NotEmpty: something has ended here, or another restore was begun.
        """
        async with self._connections.borrow() as connection, connection.transaction():
            await copying.settle_forms(connection)
            if await connection.fetchval(statements.BEGIN_RESTORING, backup) is None:
                raise NotEmpty("another backup is being restored into this ledger")
            if not await copying.is_empty(connection):
                raise NotEmpty("the ledger has outcomes already")
            yield Filling(connection)

    async def restoring(self) -> str | None:
        """The backup whose restore has been begun here and not finished; None: there is none."""
        async with self._connections.borrow() as connection:
            return cast(str | None, await connection.fetchval(statements.RESTORING))

    async def restored(self) -> None:
        """Say that the queue is complete too."""
        async with self._connections.borrow() as connection:
            await connection.execute(statements.END_RESTORING)

    async def ping(self) -> None:
        """Make sure that Postgres answers and has our schema; LedgerUnavailable if not."""
        async with self._connections.borrow() as connection:
            await connection.fetchval("SELECT max(version) FROM schema_version")

    async def close(self) -> None:
        await self._connections.close()


def _columns(rows: Sequence[Row]) -> Iterable[list[object]]:
    assert all(len(row) == len(COLUMNS) for row in rows)
    return [list(column) for column in zip(*rows, strict=True)]


def _chunks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cut rows into statements of bounded size; a row above the bound has one to itself."""
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        characters += size(row)
        if chunk and (len(chunk) == STATEMENT_ROWS_MAX or characters > STATEMENT_CHARACTERS_MAX):
            yield chunk
            chunk, characters = [], size(row)
        chunk.append(row)
    if chunk:
        yield chunk


def _id(row: Row) -> PredictionId:
    return from_uuid(cast(UUID, row[0]))
