"""Bugs that are planted on purpose, to see whether the checker reports them.

Each breaks one rule of the product, by patching it when a process under attack starts.
"""

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from contract.ids import PredictionId
from contract.prediction import Outcome
from dispatcher.execute import Executor
from gateway.follow import Follower
from ledger import Ledger, statements
from ledger.rows import COLUMNS
from tests.chaos.points import Points

VARIABLE = "CHAOS_BUG"


class Bug(StrEnum):
    NONE = ""
    ACK_BEFORE_RECORD = "ack_before_record"
    UPDATE_INSTEAD_OF_INSERT = "update_instead_of_insert"
    NO_LAST_LOOK = "no_last_look"


def planted() -> Bug:
    """The bug that the environment names."""
    return Bug(os.environ.get(VARIABLE, ""))


def plant(points: Points) -> None:
    match planted():
        case Bug.ACK_BEFORE_RECORD:
            _ack_before_record(points)
        case Bug.UPDATE_INSTEAD_OF_INSERT:
            _update_instead_of_insert()
        case Bug.NO_LAST_LOOK:
            _no_last_look()


def _ack_before_record(points: Points) -> None:
    """The ticket leaves the queue before its outcome is in the ledger."""
    record = Executor._record

    async def too_late(self: Executor, rows: Sequence[Any]) -> list[Outcome]:
        for row in rows:
            await row.delivery.ack()
        await self._parts.broker.flush()
        return await record(self, rows)

    Executor._record = too_late  # type: ignore[method-assign]


def _update_instead_of_insert() -> None:
    """The last outcome wins. (The trigger that forbids it has to be dropped as well.)"""
    migrate = Ledger.migrate

    async def too_lenient(self: Ledger) -> None:
        await migrate(self)
        async with self._connections.borrow() as connection:
            await connection.execute(
                "DROP TRIGGER IF EXISTS predictions_never_updated ON predictions"
            )

    Ledger.migrate = too_lenient  # type: ignore[method-assign]
    assert "ON CONFLICT" in statements.RECORD
    head, _, tail = statements.RECORD.partition("ON CONFLICT")
    returning = tail[tail.index("RETURNING") :]
    columns = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")
    statements.RECORD = f"{head}ON CONFLICT (id) DO UPDATE SET {columns} {returning}"


def _no_last_look() -> None:
    """A reader asks the ledger and the queue, and not the ledger once more."""
    find = Follower._find

    async def hasty(self: Follower, prediction_id: PredictionId, known: Any) -> Any:
        ledger, looks = self._ledger, 0

        class OneLook:
            async def get(self, wanted: PredictionId) -> Any:
                nonlocal looks
                looks += 1
                return await ledger.get(wanted) if looks == 1 else None

            def __getattr__(self, name: str) -> Any:
                return getattr(ledger, name)

        blind = object.__new__(Follower)
        blind.__dict__.update(self.__dict__)
        blind._ledger = OneLook()  # type: ignore[assignment]
        return await find(blind, prediction_id, known)

    Follower._find = hasty  # type: ignore[method-assign]
