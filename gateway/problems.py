"""Errors as HTTP: the only translation of our error tree to statuses and RFC 9457 problem details.

Every refusal of the gateway is made here, so that all of them look alike: `type`, `title`,
`status`, `detail`, our stable `code`, and `errors` with field, rule and message where a field
is to blame.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from inspect import cleandoc
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from contract import errors
from telemetry.logs import Allowance

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5  # an election in NATS takes 4 to 9 s, Postgres is back within a second or two
CAUSES_MAX = 8  # of an error, named in the log
MEDIA_TYPE = "application/problem+json"

Handler = Callable[[Request, Exception], Awaitable[Response]]

_failures = Allowance(1)


class RequestTimeout(errors.CallerError):
    """The request's headers or body did not arrive in time."""

    code = "request_timeout"


class HeadersTooLarge(errors.CallerError):
    """The request's headers are larger than allowed."""

    code = "headers_too_large"


class NotFound(errors.CallerError):
    """There is nothing at this path."""

    code = "not_found"


class MethodNotAllowed(errors.CallerError):
    """The path exists, but does not take this method."""

    code = "method_not_allowed"


class InternalError(errors.ServiceError):
    """A fault of the service itself."""

    code = "internal_error"


STATUS: Final[dict[type[errors.ServiceError], HTTPStatus]] = {
    errors.CallerError: HTTPStatus.BAD_REQUEST,
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.UnknownPrediction: HTTPStatus.NOT_FOUND,
    errors.Expired: HTTPStatus.GONE,
    errors.AlreadyAccepted: HTTPStatus.CONFLICT,
    errors.KeyReused: HTTPStatus.CONFLICT,
    errors.NotRetryable: HTTPStatus.CONFLICT,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.DependencyError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.InferenceError: HTTPStatus.INTERNAL_SERVER_ERROR,  # none reaches the gateway so far
    RequestTimeout: HTTPStatus.REQUEST_TIMEOUT,
    HeadersTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    NotFound: HTTPStatus.NOT_FOUND,
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

# Generated clients send a POST again after 409 and 5xx. Where that is useless, or would make a
# second prediction of one that may have been accepted, this header stops them.
_FINAL = (
    errors.AlreadyAccepted,
    errors.KeyReused,
    errors.NotRetryable,
    errors.AcceptanceUnknown,
    errors.InferenceError,
    InternalError,
)


class FieldError(msgspec.Struct, frozen=True):
    field: str
    rule: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []


def status_of(error: errors.ServiceError) -> HTTPStatus:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: errors.ServiceError) -> Response:
    """The answer that `error` means."""
    status = status_of(error)
    headers: dict[str, str] = {}
    fields: list[FieldError] = []
    if isinstance(error, errors.InvalidInput) and error.field:
        fields.append(FieldError(error.field, error.rule, str(error)))
    if isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(error.retry_after_s)
    elif isinstance(error, errors.DependencyError):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if isinstance(error, _FINAL):
        headers["x-should-retry"] = "false"
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RequestTimeout | HeadersTooLarge):
        headers["connection"] = "close"  # what follows on it would be the rest of this request
    body = Problem(
        f"/problems/{error.code}", status.phrase, status.value, str(error), error.code, fields
    )
    return Response(
        msgspec.json.encode(body), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


def explain(code: str) -> Response:
    """What a problem's `type` refers to: its explanation, for people. Raises NotFound."""
    for kind in _all_kinds(errors.ServiceError):
        if kind.code == code:
            return PlainTextResponse(f"{code}\n\n{cleandoc(kind.__doc__ or '')}\n")
    raise NotFound(f"there is no problem called {code[:80]!a}")


def _all_kinds(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _all_kinds(child)


async def answer_expected(_: Request, error: Exception) -> Response:
    """The exception handler of our own error tree."""
    assert isinstance(error, errors.ServiceError)
    # Once a second and kind: in an outage every request fails, and callers try again.
    if isinstance(error, errors.DependencyError) and _failures.takes(error.code):
        more = _failures.refused(error.code)
        fields = {"code": error.code, "reason": _causes(error), "left_out": more}
        log.warning("request.dependency_failed", extra=fields)
    return problem(error)


def _causes(error: BaseException) -> str:
    """What our own error says, and the kinds of those that led to it.

    Not their texts: drivers quote rows, addresses and settings in them.
    """
    causes = [f"{type(error).__name__}: {error}"]
    cause = error.__cause__
    while cause is not None and len(causes) < CAUSES_MAX:
        number = getattr(cause, "sqlstate", None) or getattr(cause, "errno", None)
        causes.append(type(cause).__name__ + (f" {number}" if number else ""))
        cause = cause.__cause__
    return " < ".join(causes)


async def answer_http(request: Request, error: Exception) -> Response:
    """The exception handler of what the router itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NotFound(f"there is nothing at {request.url.path[:200]!a}"))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = problem(MethodNotAllowed(f"this path takes {allowed}, not {request.method}"))
        response.headers["allow"] = allowed
        return response
    return problem(errors.CallerError(str(error.detail)))


async def answer_disconnect(_: Request, __: Exception) -> Response:
    """The caller left before its request was there: nobody reads this answer."""
    return problem(RequestTimeout("the connection ended before the request did"))


async def answer_bug(_: Request, __: Exception) -> Response:
    """A bug. Its traceback is in the log, and nothing of it in the answer."""
    return problem(InternalError("this is a fault of the service; it has been logged"))


HANDLERS: Final[dict[type[Exception], Handler]] = {
    errors.ServiceError: answer_expected,
    HTTPException: answer_http,
    ClientDisconnect: answer_disconnect,
    Exception: answer_bug,
}


def handler_of(error: Exception) -> Handler:
    return next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
