"""Requests and replies as plain values, and how a refusal is read. No I/O.

`tritonq.calls` makes requests and reads replies; `tritonq.client` carries them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import msgspec

from tritonq.errors import (
    AcceptanceUnknown,
    Expired,
    InvalidInput,
    KeyReused,
    NotFound,
    NotRetryable,
    Overloaded,
    RequestRefused,
    ServiceUnavailable,
    TritonqError,
    Unauthorized,
    UnexpectedAnswer,
)

ACCEPTANCE_UNKNOWN = "acceptance_unknown"  # the service itself does not know either
KEY_HEADER = "Idempotency-Key"
SHOWN_CHARACTERS_MAX = 500  # of an answer that is repeated in a message
BAD_GATEWAYS = frozenset({502, 503, 504})  # said by a proxy: the service may have the request
_ACCEPTED = frozenset({201, 202})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a request.

    `fields` are input fields beside a raw file. They travel in the query as text; the service
    gives each the type that the model's schema says.
    """

    content: bytes
    media_type: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, relative to the service's base URL."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    hold_s: float = 0.0  # how long the service was asked to hold the answer back
    changes_once: bool = False  # however often it arrives, as canceling does

    @property
    def idempotency_key(self) -> str:
        return self.headers.get(KEY_HEADER, "")

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again though nobody knows what became of it."""
        return self.method == "GET" or self.changes_once or bool(self.idempotency_key)


class FieldError(msgspec.Struct, frozen=True):
    """Which field breaks which rule."""

    field: str = ""
    rule: str = ""


class Problem(msgspec.Struct, frozen=True):
    """Problem details as the service writes them (RFC 9457, with `code` and `errors`)."""

    detail: str = ""
    title: str = ""
    code: str = ""
    errors: list[FieldError] = []


@dataclass(frozen=True)
class Response:
    """An answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def retry_after_s(self) -> float | None:
        """The whole seconds of `Retry-After`; its form as a date is not used by this service."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() else None

    @cached_property
    def problem(self) -> Problem | None:
        """The problem details, or None when this answer has none: it is not the service's own."""
        if not self.headers.get("content-type", "").startswith("application/problem+json"):
            return None
        try:
            return msgspec.json.decode(self.content, type=Problem)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The connection failed. `was_sent`: the request may have reached the service."""

    reason: str
    was_sent: bool


def error_of(request: Request, reply: Response | NoResponse) -> TritonqError:
    """The error that a reply other than success means."""
    if isinstance(reply, NoResponse):
        return _no_answer(request, reply.reason, was_sent=reply.was_sent)
    problem = reply.problem
    if problem is None:
        return _foreign(request, reply)
    message = problem.detail or problem.title or f"refused with status {reply.status}"
    if kind := _KINDS.get(problem.code) or _KINDS.get(reply.status):
        return kind(message, code=problem.code)
    match reply.status:
        case 429:
            return Overloaded(message, retry_after_s=reply.retry_after_s or 1.0)
        case 400 | 409 | 413 | 415 | 422:
            found = problem.errors[0] if problem.errors else FieldError()
            return InvalidInput(message, code=problem.code, field=found.field, rule=found.rule)
        case 503:
            unknown = problem.code == ACCEPTANCE_UNKNOWN
            return _unknown(request, message) if unknown else ServiceUnavailable(message)
        case status if status >= 500:
            return UnexpectedAnswer(message)
    return RequestRefused(message, code=problem.code)


_KINDS: Mapping[str | int, type[RequestRefused]] = {
    "key_reused": KeyReused,
    "not_retryable": NotRetryable,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    410: Expired,
}


def unreadable(request: Request, reply: Response, what: str, why: str) -> TritonqError:
    """The error of a success that is not `what`."""
    message = f"the answer is not {what}: {why}"
    if reply.status in _ACCEPTED and _submits(request):
        # Our own statuses for an accepted prediction: its id was lost on the way.
        return _unknown(request, message)
    return UnexpectedAnswer(message)


def _submits(request: Request) -> bool:
    return request.method == "POST" and not request.changes_once


def _no_answer(request: Request, reason: str, *, was_sent: bool) -> TritonqError:
    if not was_sent or not _submits(request):
        return ServiceUnavailable(f"the service does not answer: {reason}")
    return _unknown(request, f"the connection broke before the answer to a submit came ({reason})")


def _unknown(request: Request, message: str) -> AcceptanceUnknown:
    key = request.idempotency_key
    advice = (
        f"submit it again with the same idempotency key, {key}, and it is not run twice"
        if key
        else "it has no idempotency key, so it was not sent again"
    )
    return AcceptanceUnknown(
        f"{message}: it may or may not have been accepted; {advice}", idempotency_key=key
    )


def _foreign(request: Request, reply: Response) -> TritonqError:
    """An answer without problem details comes from something in between, or from elsewhere."""
    shown = reply.content[:SHOWN_CHARACTERS_MAX].decode("utf-8", "replace")
    message = f"{request.method} {request.path} answered {reply.status}: {shown!r}"
    if reply.status == 429:
        return Overloaded(message, retry_after_s=reply.retry_after_s or 1.0)
    if reply.status in BAD_GATEWAYS:
        return _no_answer(request, message, was_sent=True)
    if target := reply.headers.get("location"):
        # Not followed: the token would go wherever it leads.
        message = f"{message}; it leads to {target[:SHOWN_CHARACTERS_MAX]!r}: name that as the URL"
    return UnexpectedAnswer(message)


def whole_seconds(seconds: float) -> str:
    return str(math.ceil(seconds))


def decode(reply: Response, of_type: type[Result]) -> Result:
    """Read the JSON of a success; ValueError when it is something else."""
    try:
        return msgspec.json.decode(reply.content, type=of_type)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
