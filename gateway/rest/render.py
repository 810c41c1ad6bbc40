"""A prediction as Replicate's JSON. Pure.

The official Python client is the strictest reader and decides the shape: five statuses and no
other, no null among `urls`, `error` and `logs` are strings or null. What we add (`queue`,
`priority`, `deadline`, `error_code`) stands in fields of its own, which that client drops.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from contract.catalog import OWNER, version_id
from contract.prediction import JSON, Outcome, Ticket
from gateway.follow import Seen


class QueueState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an unfinished prediction stands."""

    state: str  # "waiting" or "running"
    position: int | None = None  # 1 is next


class Rendered(msgspec.Struct, frozen=True):
    """The JSON of a prediction, in Replicate's order of fields."""

    id: str
    model: str
    version: str
    status: str
    input: dict[str, JSON]
    output: msgspec.Raw | None
    error: str | None
    logs: str
    metrics: dict[str, float]
    created_at: str
    started_at: str | None
    completed_at: str | None
    urls: dict[str, str]
    priority: str
    error_code: str | msgspec.UnsetType = msgspec.UNSET
    queue: QueueState | msgspec.UnsetType = msgspec.UNSET
    deadline: str | msgspec.UnsetType = msgspec.UNSET
    retry_of: str | msgspec.UnsetType = msgspec.UNSET
    data_removed: bool = False
    source: str = "api"


def prediction(seen: Seen, base_url: str, *, wait_expired: bool = False) -> Rendered:
    """Render what is known of a prediction.

    Args:
        base_url: absolute, without a slash at the end.
        wait_expired: the answer was held back for an outcome that did not come. Every client
            takes any status but `starting` for the end then, and returns nothing as the output.
    """
    ticket, outcome = seen.ticket, seen.outcome
    url = f"{base_url}/v1/predictions/{ticket.id}"
    return Rendered(
        id=ticket.id,
        model=f"{OWNER}/{ticket.model}",
        version=version_id(ticket.model, ticket.version),
        status=_status(seen, wait_expired=wait_expired),
        input=_input(ticket, url),
        output=msgspec.Raw(outcome.output) if outcome and outcome.output is not None else None,
        error=outcome.error.message if outcome and outcome.error else None,
        logs="",
        metrics=_metrics(ticket, outcome) if outcome else {},
        created_at=_time(ticket.created_at_ms),
        # What was canceled or overdue before it could be run has not started.
        started_at=_time(outcome.started_at_ms) if outcome and outcome.attempts else None,
        completed_at=_time(outcome.completed_at_ms) if outcome else None,
        urls={"get": url} if outcome else {"get": url, "cancel": f"{url}/cancel"},
        priority=ticket.priority.value,
        error_code=outcome.error.code if outcome and outcome.error else msgspec.UNSET,
        queue=msgspec.UNSET if outcome else _queue(seen),
        deadline=msgspec.UNSET if ticket.deadline_ms is None else _time(ticket.deadline_ms),
        retry_of=ticket.retry_of or msgspec.UNSET,
    )


def encode(rendered: Rendered | dict[str, Any]) -> bytes:
    return _ENCODER.encode(rendered)


def _status(seen: Seen, *, wait_expired: bool) -> str:
    if seen.outcome is not None:
        return seen.outcome.status.value
    return "processing" if seen.running and not wait_expired else "starting"


def _queue(seen: Seen) -> QueueState:
    return QueueState("running") if seen.running else QueueState("waiting", seen.position)


def _input(ticket: Ticket, url: str) -> dict[str, JSON]:
    if not ticket.files:
        return ticket.input
    files = {name: f"{url}/input/{quote(name, safe='')}" for name in ticket.files}
    return {**ticket.input, **files}


def _metrics(ticket: Ticket, outcome: Outcome) -> dict[str, float]:
    """`predict_time` and `total_time` are Replicate's, in seconds; ours name their unit."""
    return {
        "predict_time": (outcome.completed_at_ms - outcome.started_at_ms) / 1000,
        "total_time": (outcome.completed_at_ms - ticket.created_at_ms) / 1000,
        "queue_ms": round(outcome.queue_ms, 3),
        "compute_ms": round(outcome.compute_ms, 3),
        "attempts": outcome.attempts,
    }


def _time(unix_ms: int) -> str:
    seconds, milliseconds = divmod(unix_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _second(unix_s: int) -> str:
    # Formatting a time costs as much as the rest of a prediction; most are of the same seconds.
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_ENCODER = msgspec.json.Encoder()
