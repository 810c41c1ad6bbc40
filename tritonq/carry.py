"""Carries calls out over HTTP, for both clients. The only file that knows httpx.

What is decided (what to send, when to send it again, how to read the answer) is in `tritonq.calls`.
Here is only how one request travels, and what guards us against whatever answers: redirects are not
followed, so the token goes nowhere else; an answer has a limit in size and in time.
"""

import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

import httpx

from tritonq.address import Service
from tritonq.calls import Call, Pause, Result, Step
from tritonq.wire import NoResponse, Request, Response

CONNECTIONS_MAX = 64
CONNECT_S_MAX = 5.0
ANSWER_S_MAX = 30.0  # silence after a request
HELD_S_MAX = 10.0  # the same, beyond what the service was asked to hold the answer back
BODY_S_MAX = 300.0  # for the whole of an answer that keeps coming, in however small pieces
BODY_BYTES_MAX = 512 * 1024 * 1024  # guards our memory; the service's own outputs are far smaller


class Carrier:
    """Carries out calls, one step after the other; safe to share between threads."""

    def __init__(self, service: Service) -> None:
        self._http = httpx.Client(
            base_url=service.url,
            headers=_headers(service.token),
            limits=_LIMITS,
            trust_env=_may_use_proxy(service.url),
        )

    def carry_out(self, call: Call[Result]) -> Result:
        try:
            step = next(call)
            while True:
                step = call.send(self._take(step))
        except StopIteration as ended:
            return cast(Result, ended.value)

    def close(self) -> None:
        self._http.close()

    def _take(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            answer = self._http.send(_built(self._http, step), stream=True)
            try:
                body = _Body()
                for piece in answer.iter_bytes():
                    body.add(piece)
            finally:
                answer.close()
        except httpx.RequestError as error:
            return _no_response(error, self._http.base_url)
        return Response(answer.status_code, answer.headers, body.content())


class AsyncCarrier:
    """`Carrier` for asyncio."""

    def __init__(self, service: Service) -> None:
        self._http = httpx.AsyncClient(
            base_url=service.url,
            headers=_headers(service.token),
            limits=_LIMITS,
            trust_env=_may_use_proxy(service.url),
        )

    async def carry_out(self, call: Call[Result]) -> Result:
        try:
            step = next(call)
            while True:
                step = call.send(await self._take(step))
        except StopIteration as ended:
            return cast(Result, ended.value)

    async def close(self) -> None:
        await self._http.aclose()

    async def _take(self, step: Step) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            answer = await self._http.send(_built(self._http, step), stream=True)
            try:
                body = _Body()
                async for piece in answer.aiter_bytes():
                    body.add(piece)
            finally:
                await answer.aclose()
        except httpx.RequestError as error:
            return _no_response(error, self._http.base_url)
        return Response(answer.status_code, answer.headers, body.content())


class _Body:
    """The pieces of an answer as they come in, within limits."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._ends_at = time.monotonic() + BODY_S_MAX

    def add(self, piece: bytes) -> None:
        """Raises httpx.ReadError at a limit: to us it is a connection that is of no use."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > BODY_BYTES_MAX:
            raise httpx.ReadError(f"the answer has more than {BODY_BYTES_MAX} bytes")
        if time.monotonic() > self._ends_at:
            raise httpx.ReadError(f"the answer took more than {BODY_S_MAX:.0f} s to arrive")

    def content(self) -> bytes:
        return b"".join(self._pieces)


_LIMITS = httpx.Limits(
    max_connections=CONNECTIONS_MAX,
    max_keepalive_connections=CONNECTIONS_MAX,
    keepalive_expiry=4.0,  # below uvicorn's 5 s: else a submit may meet a closing connection
)


def _headers(token: str | None) -> dict[str, str]:
    agent = {"User-Agent": "tritonq", "Accept": "application/json"}
    return {**agent, "Authorization": f"Bearer {token}"} if token else agent


def _may_use_proxy(url: str) -> bool:
    """A proxy from the environment cannot reach this machine's loopback."""
    return urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")


def _built(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    body = request.body
    media_type = {"Content-Type": body.media_type} if body else {}
    return http.build_request(
        request.method,
        request.path,
        params=dict(request.query) or None,
        headers={**request.headers, **media_type},
        content=body.content if body else None,
        timeout=httpx.Timeout(
            ANSWER_S_MAX,
            connect=CONNECT_S_MAX,
            read=request.hold_s + HELD_S_MAX if request.hold_s else ANSWER_S_MAX,
            pool=None,  # our own callers only wait for each other
        ),
    )


# Failures before the first byte of a request was written.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.PoolTimeout,
)


def _no_response(error: httpx.RequestError, asked: httpx.URL) -> NoResponse:
    # Whom we asked, without a password: the wrong address is the likeliest reason of all.
    where = f"{asked.scheme}://{asked.netloc.decode('ascii')}"
    reason = f"{str(error) or type(error).__name__}, at {where}"
    return NoResponse(reason, was_sent=not isinstance(error, _NOT_SENT))
