"""Serves /metrics and /healthz for a process that has no HTTP server of its own."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

_REQUEST_S_MAX = 5.0  # a scraper that says nothing must not keep a thread
CONNECTIONS_MAX = 16  # each has a thread; more are closed unheard


@contextmanager
def serving(host: str, port: int, health: Callable[[], tuple[bool, object]]) -> Iterator[int]:
    """Answer GET /metrics and GET /healthz in threads of their own; yields the port in use.

    Args:
        port: 0 takes a free one.
        health: whether the process is alive, and facts for the reader (JSON). Called in another
            thread than the event loop's: it may only read.

    Raises:
        OSError: the address is taken or not ours.
    """
    server = make_server(
        host, port, _app(health), server_class=_Server, handler_class=_QuietHandler
    )
    thread = Thread(target=server.serve_forever, name="exposition", daemon=True)
    thread.start()
    log.info("exposition.listening", extra={"host": host, "port": server.server_port})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _app(health: Callable[[], tuple[bool, object]]) -> "WSGIApplication":
    metrics: WSGIApplication = make_wsgi_app()

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                alive, facts = health()
                status, body = "200 OK" if alive else "503 Service Unavailable", facts
            case _:
                status, body = "404 Not Found", {"detail": "there are /metrics and /healthz"}
        start_response(status, [("Content-Type", "application/json")])
        return [msgspec.json.encode(body)]

    return app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._room = BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is no event."""


class _QuietHandler(WSGIRequestHandler):
    timeout = _REQUEST_S_MAX

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not events."""
