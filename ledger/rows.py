"""A prediction as a row of the ledger, and back. Pure.

JSON stays text: the output is written as the dispatcher encoded it and read back byte for byte.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from contract.ids import from_uuid, to_uuid
from contract.prediction import (
    JSON,
    Failure,
    File,
    Outcome,
    Prediction,
    Priority,
    Status,
    Ticket,
)

Row = tuple[Any, ...]  # in the order of COLUMNS, as asyncpg takes it

# Each column with the type of the array it travels in. Times travel as Unix milliseconds: asyncpg
# spends a fifth of its time on datetimes otherwise.
COLUMNS: Mapping[str, str] = {
    "id": "uuid",
    "model": "text",
    "version": "bigint",
    "priority": "text",
    "owner": "text",
    "input": "json",
    "files": "json",
    "status": "text",
    "output": "json",
    "error_code": "text",
    "error": "text",
    "attempts": "integer",
    "started_at": "bigint",
    "completed_at": "bigint",
    "queue_ms": "double precision",
    "compute_ms": "double precision",
    "deadline_at": "bigint",
    "retry_of": "uuid",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ENCODER = msgspec.json.Encoder()
_INPUT = msgspec.json.Decoder(dict[str, JSON])
_FILES = msgspec.json.Decoder(dict[str, File])


def to_row(ended: Prediction) -> Row:
    """Lay out a prediction that has ended, without the contents of its files.

    Raises:
        ValueError, OverflowError, RecursionError: what is in it has no form as text; it never will.
    """
    ticket, outcome = ended.ticket.without_contents(), ended.outcome
    assert outcome is not None, "the ledger keeps predictions that have ended"
    assert outcome.id == ticket.id
    error = outcome.error
    return (
        to_uuid(ticket.id),
        ticket.model,
        ticket.version,
        ticket.priority.value,
        ticket.owner,
        _ENCODER.encode(ticket.input).decode(),
        _ENCODER.encode(ticket.files).decode(),
        outcome.status.value,
        None if outcome.output is None else outcome.output.decode(),
        None if error is None else error.code,
        None if error is None else error.message,
        outcome.attempts,
        outcome.started_at_ms,
        outcome.completed_at_ms,
        outcome.queue_ms,
        outcome.compute_ms,
        ticket.deadline_ms,
        None if ticket.retry_of is None else to_uuid(ticket.retry_of),
    )


def size(row: Row) -> int:
    """About how much memory and bandwidth a row takes: the characters of its text."""
    return sum(len(value) for value in row if isinstance(value, str))


def from_row(row: Row) -> Prediction:
    """Read a row of the ledger; its times come as datetimes."""
    identifier, model, version, priority, owner, given, files = row[:7]
    status, output, error_code, error, attempts, started, completed, queue_ms, compute_ms = row[
        7:16
    ]
    deadline, retry_of = row[16:]
    assert isinstance(identifier, UUID)
    prediction_id = from_uuid(identifier)
    ticket = Ticket(
        id=prediction_id,
        model=model,
        version=version,
        input=_INPUT.decode(given),
        files=_FILES.decode(files),
        priority=Priority(priority),
        owner=owner,
        deadline_ms=None if deadline is None else _unix_ms(deadline),
        retry_of=None if retry_of is None else from_uuid(retry_of),
    )
    outcome = Outcome(
        id=prediction_id,
        status=Status(status),
        started_at_ms=_unix_ms(started),
        completed_at_ms=_unix_ms(completed),
        attempts=attempts,
        output=None if output is None else output.encode(),
        error=None if error is None else Failure(error_code, error),
        queue_ms=queue_ms,
        compute_ms=compute_ms,
    )
    return Prediction(ticket, outcome)


def _unix_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND
