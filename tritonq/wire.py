"""Requests and replies as plain values, and how a refusal is read. No I/O.

`tritonq.calls` makes requests and reads replies; `tritonq.client` carries them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from tritonq.errors import (
    AcceptanceUnknown,
    InvalidInput,
    NotFound,
    Overloaded,
    RequestRefused,
    ServiceUnavailable,
    TritonqError,
    Unauthorized,
    UnexpectedAnswer,
)

ACCEPTANCE_UNKNOWN = "acceptance_unknown"  # the service itself does not know either
SHOWN_CHARACTERS_MAX = 500  # of an answer that is repeated in a message


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

    @property
    def is_safe(self) -> bool:
        return self.method == "GET"


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
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The connection failed. `was_sent`: the request may have reached the service."""

    reason: str
    was_sent: bool


def error_of(request: Request, reply: Response | NoResponse) -> TritonqError:
    """The error that a reply other than success means."""
    if isinstance(reply, NoResponse):
        return _no_answer(request, reply)
    problem = reply.problem
    if problem is None:
        return _foreign(request, reply)
    message = problem.detail or problem.title or f"refused with status {reply.status}"
    match reply.status:
        case 401 | 403:
            return Unauthorized(message, code=problem.code)
        case 404 | 410:
            return NotFound(message, code=problem.code)
        case 429:
            return Overloaded(message, retry_after_s=reply.retry_after_s or 1.0)
        case 400 | 409 | 413 | 415 | 422:
            found = problem.errors[0] if problem.errors else FieldError()
            return InvalidInput(message, code=problem.code, field=found.field, rule=found.rule)
        case 503:
            unknown = problem.code == ACCEPTANCE_UNKNOWN
            return AcceptanceUnknown(message) if unknown else ServiceUnavailable(message)
        case status if status >= 500:
            return UnexpectedAnswer(message)
    return RequestRefused(message, code=problem.code)


def _no_answer(request: Request, reply: NoResponse) -> TritonqError:
    if reply.was_sent and not request.is_safe:
        return AcceptanceUnknown(
            f"the connection broke before the answer to a submit came ({reply.reason}): "
            "it may or may not have been accepted, so it was not sent again"
        )
    return ServiceUnavailable(f"the service does not answer: {reply.reason}")


def _foreign(request: Request, reply: Response) -> TritonqError:
    """An answer without problem details comes from something in between, or from elsewhere."""
    shown = reply.content[:SHOWN_CHARACTERS_MAX].decode("utf-8", "replace")
    message = f"{request.method} {request.path} answered {reply.status}: {shown!r}"
    if reply.status == 429:
        return Overloaded(message, retry_after_s=reply.retry_after_s or 1.0)
    if reply.status in (502, 503, 504):
        return ServiceUnavailable(message) if request.is_safe else AcceptanceUnknown(message)
    return UnexpectedAnswer(message)


def whole_seconds(seconds: float) -> str:
    return str(math.ceil(seconds))


def decode(reply: Response, of_type: type[Any], what: str) -> Any:
    """Read the JSON of a success.

    Raises:
        UnexpectedAnswer: it is not `what`.
    """
    try:
        return msgspec.json.decode(reply.content, type=of_type)
    except ValueError as error:
        raise UnexpectedAnswer(f"the answer is not {what}: {error}") from error
