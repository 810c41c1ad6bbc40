"""What every request passes before the application sees it: path, limits, token, body.

Pure ASGI, since it runs for every request and most of it before anything is read. A request that
is refused here costs us its headers and this file.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.errors import Overloaded, ServiceError, TooLarge
from gateway.problems import HeadersTooLarge, RequestTimeout, problem
from telemetry import metrics

BODY_BYTES_PER_S_MIN = 32 * 1024  # a body may take as much longer as it is larger
HEADER_OVERHEAD_BYTES = 4  # the colon, the space and the line's end

# Everything else needs a token. The first three are what machines ask that watch us; they must
# be answered also when all requests that work are refused.
_WATCHED = ("/healthz", "/readyz", "/metrics")
_OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/problems")

_RESOURCES = ("predictions", "models")  # first segments that belong under /v1
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Auth(Protocol):
    """Knows who may come in."""

    def owner(self, headers: Mapping[bytes, bytes]) -> str:
        """The owner of what this request submits and may see; raises Unauthorized."""
        ...


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    header_bytes_max: int
    body_bytes_max: int
    bodies_bytes_max: int  # of all bodies that are being read
    body_wait_s: float
    requests_max: int


class Edge:
    """Guards an application.

    It puts into the request's state: `owner`; `reserve_body`, which the application calls where
    what it makes of a body, or reads instead of one, takes more memory than the body; and
    `release_body`, which it calls once it no longer holds either (at the latest, the request's end
    does).
    """

    def __init__(self, app: ASGIApp, auth: Auth, limits: EdgeLimits) -> None:
        self._app = app
        self._auth = auth
        self._limits = limits
        self._requests = 0
        self._bodies = _Budget(limits.bodies_bytes_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.perf_counter()
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["path"] = settled_path(scope["path"])
        try:
            await self._admit(scope, receive, note_status)
        except ServiceError as error:
            await problem(error)(scope, receive, note_status)
        finally:
            _count(scope, status, time.perf_counter() - began_at)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        pairs: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in pairs)
        if size > self._limits.header_bytes_max:
            raise HeadersTooLarge(
                f"the headers have {size} bytes; {self._limits.header_bytes_max} are allowed"
            )
        headers = dict(reversed(pairs))  # of several, the first counts: here and in the application
        path: str = scope["path"]
        if not is_under(path, _OPEN) and path != "/":
            scope["state"]["owner"] = self._auth.owner(headers)
        if is_under(path, _WATCHED):
            await self._app(scope, receive, send)
            return
        if self._requests >= self._limits.requests_max:
            raise Overloaded("too many requests are in progress", retry_after_s=1)
        self._requests += 1
        try:
            await self._with_bounded_body(headers, scope, receive, send)
        finally:
            self._requests -= 1

    async def _with_bounded_body(
        self, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        declared = headers.get(b"content-length")
        has_none = declared is None and b"transfer-encoding" not in headers
        body = _Body(receive, self._limits, self._bodies, scope["state"].get("body_is_here"))
        try:
            body.expect(int(declared or 0))
            scope["state"]["release_body"] = body.release
            scope["state"]["reserve_body"] = body.reserve
            await self._app(scope, receive if has_none else body.receive, send)
        finally:
            body.release()


class _Budget:
    """Bytes that all bodies being read may take together."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    def take(self, count: int) -> None:
        """Raises Overloaded."""
        if count > self._left:
            raise Overloaded("too many large bodies are being read", retry_after_s=1)
        self._left -= count

    def give_back(self, count: int) -> None:
        self._left += count


class _Body:
    """Receives one body: not more than allowed, not slower than allowed."""

    def __init__(
        self,
        receive: Receive,
        limits: EdgeLimits,
        budget: _Budget,
        is_here: Callable[[], bool] | None,
    ) -> None:
        """`is_here` tells whether nothing more of the body can come; the server knows it."""
        self._is_here = is_here
        self._receive = receive
        self._limits = limits
        self._budget = budget
        self._held = 0  # bytes taken from the budget
        self._received = 0
        self._complete = False
        self._began_at = asyncio.get_running_loop().time()

    def expect(self, size: int) -> None:
        """Make sure of room for `size` bytes in all.

        Raises:
            TooLarge: no body may be so large. Overloaded: not now.
        """
        if size > self._limits.body_bytes_max:
            raise TooLarge(
                f"the body is larger than {self._limits.body_bytes_max} bytes",
                field="body",
                rule="body_bytes_max",
            )
        self.reserve(size)

    def reserve(self, size: int) -> None:
        """Make sure of so much memory, or of all there is, for this body alone.

        Raises Overloaded.
        """
        size = min(size, self._limits.bodies_bytes_max)
        if size > self._held:
            self._budget.take(size - self._held)
            self._held = size

    async def receive(self) -> Message:
        """Raises TooLarge, Overloaded, RequestTimeout."""
        if self._complete:  # what may still come is the end of the connection, however late
            return await self._receive()
        if self._is_here is not None and self._is_here():
            message = await self._receive()  # waits for nothing: no timer for most bodies
        else:
            message = await self._received_in_time()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.expect(self._received)
            self._complete = not message.get("more_body", False)
        else:
            self._complete = True
        return message

    async def _received_in_time(self) -> Message:
        """Raises RequestTimeout."""
        allowed_s = self._limits.body_wait_s + self._received / BODY_BYTES_PER_S_MIN
        try:
            async with asyncio.timeout_at(self._began_at + allowed_s):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"{self._received} bytes of the body arrived in {allowed_s:.0f} s; that is too slow"
            ) from None

    def release(self) -> None:
        """The body is no longer in memory."""
        self._budget.give_back(self._held)
        self._held = 0


def settled_path(path: str) -> str:
    """The path without the spellings that differ between clients.

    Some of Replicate's clients put /v1 into their base URL, some into each path: with one setting
    for all of them the prefix comes never, once or twice.
    """
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if path.startswith("/v1/v1/") or path == "/v1/v1":
        path = path[3:]
    elif path[1:].partition("/")[0] in _RESOURCES:
        path = "/v1" + path
    return path.rstrip("/") or "/"


def is_under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _count(scope: Scope, status: int, seconds: float) -> None:
    # The router leaves the route's path here: labels must not come from what a caller typed.
    route = scope["state"].get("route", "none")
    method = scope["method"] if scope["method"] in _METHODS else "other"
    _requests(route, method, status).inc()
    _seconds(route, method).observe(seconds)


@cache
def _requests(route: str, method: str, status: int) -> Counter:
    return metrics.HTTP_REQUESTS.labels(route, method, status)


@cache
def _seconds(route: str, method: str) -> Histogram:
    return metrics.HTTP_SECONDS.labels(route, method)
