"""A relay between a client and a gateway, which can do something exactly between an acceptance and
its answer's arrival: the moment in which the service knows and the client does not."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16

OnAnswer = Callable[[bytes], bool]
"""Is given what comes back for a POST; False: it is not passed on, and the connection is cut."""


def pass_on(_: bytes) -> bool:
    return True


class Relay:
    """Passes bytes both ways, connection by connection."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._one_at_a_time = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.on_answer: OnAnswer = pass_on

    def accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connect(self, client: socket.socket) -> None:
        try:
            upstream = socket.create_connection(self._upstream)
        except OSError:
            client.close()
            return
        posting = threading.Event()
        there = threading.Thread(target=self._there, args=(client, upstream, posting), daemon=True)
        there.start()
        with client, upstream:
            self._back(client, upstream, posting)
            # A socket that another thread reads from is not closed by closing it alone.
            _cut(client)
            _cut(upstream)
            there.join()

    def _back(
        self, client: socket.socket, upstream: socket.socket, posting: threading.Event
    ) -> None:
        with suppress(OSError):
            while chunk := upstream.recv(CHUNK_BYTES):
                if posting.is_set():
                    with self._one_at_a_time:
                        is_passed_on = self.on_answer(chunk)
                    if not is_passed_on:
                        return
                client.sendall(chunk)

    def _there(
        self, client: socket.socket, upstream: socket.socket, posting: threading.Event
    ) -> None:
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                # A request begins a chunk of its own: none is sent before the last was answered.
                if chunk.startswith(b"POST "):
                    posting.set()
                elif chunk.startswith(b"GET "):
                    posting.clear()
                upstream.sendall(chunk)
        _cut(upstream)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(upstream_url: str) -> Iterator[Relay]:
    made = Relay(upstream_url)
    thread = threading.Thread(target=made.accept)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
