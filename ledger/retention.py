"""Removes what ended long ago: whole weeks where possible, single rows where not.

The only place where anything is deleted. Every step commits by itself and may be repeated, by any
number of processes at once; the horizon moves before, or together with, what it speaks of.
"""

import logging
from datetime import UTC, date, datetime, time, timedelta

from ledger.connections import Connection
from ledger.schema import monday_of

log = logging.getLogger(__name__)

STEP_S_MAX = 600.0  # counting the rows of a large week takes minutes
CHUNK_ROWS_MAX = 5_000  # deleted by one statement

_WEEK = timedelta(weeks=1)
_PREFIX = "predictions_"
_WEEKS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    " WHERE inhparent = 'predictions'::regclass"
    r" AND relname ~ '^predictions_\d{4}_\d{2}_\d{2}$' ORDER BY relname"
)
_EXPIRE_WEEK = "SELECT predictions_expire_week($1, $2)"
_MOVE_HORIZON = "SELECT horizon_moves_to($1)"
# Of rows outside every week. Those on this side of the horizon stay until it has passed them; ids
# from the future, made by a clock gone wrong, go by the time of their outcome alone.
_DELETE_ROWS = """
    WITH removed AS (
        DELETE FROM predictions_default WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM predictions_default
            WHERE completed_at < $1
              AND (id < first_id_at((SELECT accepted_before FROM horizon))
                   OR id >= first_id_at(now() + interval '1 day'))
            LIMIT $2))
        RETURNING 1
    ) SELECT count(*) FROM removed
"""
_DELETE_BEGUN = """
    WITH removed AS (
        DELETE FROM begun
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM begun WHERE last_at < $1 LIMIT $2))
        RETURNING 1
    ) SELECT count(*) FROM removed
"""


async def weeks(connection: Connection) -> list[date]:
    """The weeks that have a partition, oldest first."""
    names = [row["relname"] for row in await connection.fetch(_WEEKS)]
    return [datetime.strptime(name, f"{_PREFIX}%Y_%m_%d").date() for name in names]  # noqa: DTZ007


async def expire(connection: Connection, before: datetime) -> int:
    """Remove what ended before `before`, as far as it can be done now; returns the rows removed."""
    removed = 0
    present = await weeks(connection)
    for monday in [each for each in present if _start(each + _WEEK) <= before]:
        rows = await connection.fetchval(_EXPIRE_WEEK, monday, before, timeout=STEP_S_MAX)
        if rows is None:
            # In order of age: past a week that stays, the horizon cannot move.
            log.info("ledger.week_stays", extra={"week": str(monday)})
            break
        log.info("ledger.week_expired", extra={"week": str(monday), "rows": rows})
        removed += rows
    remaining = await weeks(connection)
    horizon = min([monday_of(before), *remaining])
    await move_horizon(connection, _start(horizon))
    removed += await _in_chunks(connection, _DELETE_ROWS, before)
    await _in_chunks(connection, _DELETE_BEGUN, before)
    return removed


async def move_horizon(connection: Connection, moment: datetime) -> None:
    """Say that everything accepted before `moment` is removed. It never moves back."""
    await connection.execute(_MOVE_HORIZON, moment)


async def _in_chunks(connection: Connection, statement: str, before: datetime) -> int:
    removed = 0
    while True:
        rows = int(await connection.fetchval(statement, before, CHUNK_ROWS_MAX, timeout=STEP_S_MAX))
        removed += rows
        if rows < CHUNK_ROWS_MAX:
            return removed


def _start(monday: date) -> datetime:
    return datetime.combine(monday, time(), UTC)
