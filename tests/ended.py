"""Predictions that have ended, and a look at the ledger's connections."""

import asyncio
import os
import time
from typing import Any

import asyncpg

from contract.ids import PredictionId, new_prediction_id
from contract.prediction import Failure, File, Outcome, Prediction, Status, Ticket

DEADLINE_S = 20.0

OUTPUT = b'{"label":"tabby","score":0.5}'


def new_id(accepted_ms: int | None = None) -> PredictionId:
    return new_prediction_id(
        time.time_ns() // 1_000_000 if accepted_ms is None else accepted_ms, os.urandom(10)
    )


def succeeded(
    prediction_id: PredictionId | None = None,
    *,
    output: bytes = OUTPUT,
    content: bytes | None = None,
    **ticket: Any,
) -> Prediction:
    """A prediction that succeeded. `ticket` replaces fields of its ticket."""
    file = File("image/jpeg", 3, "ab" * 32, content)
    given = _ticket(prediction_id, **{"files": {"image": file}, **ticket})
    return Prediction(given, _outcome(given, Status.SUCCEEDED, output=output))


def failed(
    prediction_id: PredictionId | None = None, *, message: str = "not an image", **ticket: Any
) -> Prediction:
    given = _ticket(prediction_id, **ticket)
    return Prediction(
        given, _outcome(given, Status.FAILED, error=Failure("invalid_input", message))
    )


def _ticket(prediction_id: PredictionId | None, **fields: Any) -> Ticket:
    defaults = {"model": "classifier", "version": 1, "input": {"top": 5}, "owner": "alice"}
    return Ticket(id=prediction_id or new_id(), **{**defaults, **fields})


def _outcome(ticket: Ticket, status: Status, **fields: Any) -> Outcome:
    started_ms = ticket.created_at_ms + 12
    return Outcome(
        id=ticket.id,
        status=status,
        started_at_ms=started_ms,
        completed_at_ms=started_ms + 10,
        attempts=1,
        queue_ms=12.25,
        compute_ms=9.5,
        **fields,
    )


OURS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'tritonq' AND datname = current_database()"
)


async def until_blocked(observer: asyncpg.Connection, count: int) -> None:
    """Wait until `count` of the ledger's connections wait for a lock."""
    async with asyncio.timeout(DEADLINE_S):
        while await observer.fetchval(f"{OURS} AND wait_event_type = 'Lock'") < count:
            await observer.execute("SELECT pg_stat_clear_snapshot()")
