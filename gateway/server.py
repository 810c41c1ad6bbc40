"""Runs the application on uvicorn. The only file that knows uvicorn.

uvicorn bounds neither a request's headers nor the time they take, and knows no body that nobody
reads; its protocol class is extended here by these three bounds.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from contract.errors import CallerError, ServiceError
from gateway.problems import HeadersTooLarge, RequestTimeout, problem

HEAD_WAIT_S = 10.0  # from a connection's (or the next request's) first byte to its last header
LINGER_S = 5.0  # how long a body that was refused may still flow before the connection is cut
LINGER_BYTES_MAX = 64 * 1024 * 1024  # and how much of it
BACKLOG = 2048  # connections the system holds for us while we are busy
HEAD_BYTES_MAX = 128 * 1024  # the application's own limit is lower; this one is for endless heads


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection of which no part of a request can take forever, or all our memory.

    Leans on these methods of uvicorn's class being called as they are today; the tests of hanging
    and endless clients fail where that changes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of the request whose headers are not complete yet
        self._in_head = True  # a request's headers are awaited: not so while one is worked on
        self._in_body = False
        self._linger_bytes: int | None = None  # how much may still come of a body nobody reads
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(HEAD_WAIT_S, self._head_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._linger_bytes is not None:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self.transport.close()
        elif self._in_head:  # still, after all that has come: most requests come in one piece
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(HeadersTooLarge(f"the headers exceed {HEAD_BYTES_MAX} bytes"))
            elif self._timer is None:
                self._arm(HEAD_WAIT_S, self._head_too_slow)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._disarm()
        super().on_headers_complete()
        cycle = self.cycle
        self.scope["state"]["body_is_here"] = lambda: not cycle.more_body
        # These two have no write, or another one, after the first.
        if self.scope["method"] != "HEAD" and not self.expect_100_continue:
            cycle.transport = cast(asyncio.Transport, _HeadWithBody(self.transport))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        self._linger_bytes = None
        self._disarm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            # Answered before the body was there, as with 413. Cutting the connection now would
            # destroy the answer on its way; so what still comes is thrown away, for a while.
            self._linger_bytes = LINGER_BYTES_MAX
            self._arm(LINGER_S, self.transport.close)

    def _head_too_slow(self) -> None:
        self._refuse(RequestTimeout(f"the headers did not arrive within {HEAD_WAIT_S:.0f} s"))

    def send_400_response(self, msg: str) -> None:
        # uvicorn's own answer is plain text.
        self._refuse(CallerError(msg))

    def _refuse(self, error: ServiceError) -> None:
        """Answer in place of the application, which was not called, and close."""
        response = problem(error)
        response.headers["connection"] = "close"
        status = HTTPStatus(response.status_code)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()

    def _arm(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(delay_s, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _HeadWithBody:
    """What a request's answer is written to: its head goes out with the first of its body.

    uvloop makes a system call of each write, and wakes the caller by it.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = b""  # empty: still to come; None: it has gone

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._transport.write(data)
        elif self._head:
            self._transport.writelines([self._head, data])
            self._head = None
        else:
            self._head = data

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class GatewayServer(uvicorn.Server):
    """A uvicorn that lets waiting callers go before it stops, and leaves signals to its owner."""

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, when_stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._when_stopping = when_stopping

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then finish what is in progress."""
        await self.serve(sockets=[self._listener])

    def stop(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._when_stopping()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again at the end, so that a clean stop looks like a kill.
        yield


def listen(host: str, port: int) -> socket.socket:
    """Open the port; 0 takes a free one.

    Raises:
        OSError: taken, not allowed, or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def make_server(
    app: ASGIApp,
    listener: socket.socket,
    *,
    connections_max: int,
    drain_s_max: float,
    when_stopping: Callable[[], None],
) -> GatewayServer:
    """A server for `app` on a port from `listen`."""
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        limit_concurrency=connections_max,
        timeout_graceful_shutdown=max(1, round(drain_s_max)),
        proxy_headers=False,  # PUBLIC_URL says what a proxy would have to be believed about
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
    )
    return GatewayServer(config, listener, when_stopping)
