"""The clients against servers that are broken, hostile, or something else than ours."""

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.played_gateway import Gateway
from tritonq import (
    AcceptanceUnknown,
    AsyncClient,
    Client,
    NoService,
    Overloaded,
    ServiceUnavailable,
    TritonqError,
    UnexpectedAnswer,
)

PATIENCE_S = 0.3
ENDED = (
    b'{"id": "p1", "model": "triton/m", "version": "triton.m.1", "status": "succeeded", '
    b'"created_at": "2026-11-21T10:00:00Z", "output": 7}'
)


SILENCE = b"HTTP"  # and then nothing: the connection stays open, as when a machine has vanished


def head(status: str, *lines: str, length: int | None = None) -> bytes:
    """The head of an answer after which the connection is closed."""
    sized = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *sized, *lines, "", ""]).encode()


def page(status: str, *lines: str) -> bytes:
    """A page as proxies write them."""
    return head(status, "Content-Type: text/html", *lines, length=13) + b"<html></html>"


class OddServer:
    """Gives each request the next of its answers, the last one for ever; then hangs up."""

    def __init__(self, listener: socket.socket, answers: list[bytes]) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.received: list[bytes] = []
        self._listener = listener
        self._answers = answers

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.received.append(connection.recv(65536))
                answer = self._answers[min(len(self.received), len(self._answers)) - 1]
                try:
                    connection.sendall(answer)
                    if answer != SILENCE:
                        connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)  # until it has read: closing at once would reset
                except OSError:
                    continue  # it had enough


@contextmanager
def odd_server(*answers: bytes) -> Iterator[OddServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = OddServer(listener, list(answers))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a body": head("200 OK", length=len(ENDED)) + ENDED[:40],
    "half a body of unknown length": head("200 OK") + ENDED[:40],
    "half a chunk": head("200 OK", "Transfer-Encoding: chunked") + b"ff\r\n{",
    "no gzip": head("200 OK", "Content-Encoding: gzip", length=5) + b"no gz",
    "two lengths": head("200 OK", "Content-Length: 3", length=5) + b"12345",
    "no text": head("200 OK", length=4) + b"\xff\xfe\x00\x01",
    "too deep": head("200 OK", length=200_000) + b"[" * 200_000,
    "bad gateway": page("502 Bad Gateway"),
    "gateway timeout": page("504 Gateway Timeout"),
    "an unknown page of a proxy": page("520 Web Server Returned an Unknown Error"),
    "maintenance": page("503 Service Unavailable", "Retry-After: 0"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_fetch_outlives_every_broken_answer(broken: bytes) -> None:
    whole = head("200 OK", "Content-Type: text/plain", length=len(ENDED)) + ENDED
    with odd_server(broken, whole) as server, Client(server.url, patience_s=5.0) as client:
        assert client.get("p1").output == 7


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_stays_broken_is_an_error_of_ours_soon(broken: bytes) -> None:
    with (
        odd_server(broken) as server,
        Client(server.url, patience_s=PATIENCE_S) as client,
        pytest.raises((ServiceUnavailable, UnexpectedAnswer)),
    ):
        client.get("p1")


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_submit_without_a_key_is_sent_once_whatever_comes_back(broken: bytes) -> None:
    with (
        odd_server(broken) as server,
        Client(server.url, patience_s=PATIENCE_S) as client,
        pytest.raises((AcceptanceUnknown, UnexpectedAnswer)),
    ):
        client.submit("m", b"...")
    assert len(server.received) == 1


def test_a_wait_that_meets_silence_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonq.carry.HELD_S_MAX", 0.1)
    whole = head("200 OK", length=len(ENDED)) + ENDED
    with odd_server(SILENCE, whole) as server, Client(server.url, patience_s=5.0) as client:
        assert client.get("p1", wait_s=0.1).output == 7
    assert len(server.received) == 2


def test_a_redirect_is_told_and_not_followed_and_the_token_goes_nowhere(gateway: Gateway) -> None:
    redirect = head("307 Temporary Redirect", f"Location: {gateway.url}/v1/models", length=0)
    with (
        odd_server(redirect) as server,
        Client(server.url, "secret", patience_s=PATIENCE_S) as client,
    ):
        for call in (client.models, lambda: client.submit("m", b"...")):
            with pytest.raises(UnexpectedAnswer, match=gateway.url):
                call()
    assert gateway.requests == []


def test_a_redirect_to_nowhere_is_told_too() -> None:
    nowhere = head("302 Found", "Location: http://[", length=0)
    with (
        odd_server(nowhere) as server,
        Client(server.url, patience_s=PATIENCE_S) as client,
        pytest.raises(UnexpectedAnswer, match="302"),
    ):
        client.get("p1")


@pytest.mark.parametrize("asked", ["3600", "9" * 5000])
def test_a_very_long_retry_after_is_told_at_once(asked: str) -> None:
    full = page("429 Too Many Requests", f"Retry-After: {asked}")
    with odd_server(full) as server, Client(server.url, patience_s=1e9) as client:
        with pytest.raises(Overloaded) as caught:
            client.get("p1")
        assert caught.value.retry_after_s >= 3600


@pytest.mark.parametrize("asked", ["-1", "soon", "1e9", "Sat, 21 Nov 2126 10:00:00 GMT", "\u0661"])
def test_a_retry_after_that_is_no_number_is_as_none(asked: str) -> None:
    whole = head("200 OK", length=len(ENDED)) + ENDED
    full = page("429 Too Many Requests", f"Retry-After: {asked}".encode().decode("latin-1"))
    with odd_server(full, whole) as server, Client(server.url, patience_s=5.0) as client:
        assert client.get("p1").has_succeeded


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonq.carry.BODY_BYTES_MAX", 100_000)
    bomb = gzip.compress(b" " * 10_000_000)
    plain = head("200 OK") + b" " * 200_000
    packed = head("200 OK", "Content-Encoding: gzip", length=len(bomb)) + bomb
    for answer in (plain, packed):
        with (
            odd_server(answer) as server,
            Client(server.url, patience_s=0.0) as client,
            pytest.raises(ServiceUnavailable, match="more than 100000 bytes"),
        ):
            client.get("p1")


def test_an_answer_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonq.carry.BODY_S_MAX", -1.0)
    with (
        odd_server(head("200 OK", length=len(ENDED)) + ENDED) as server,
        Client(server.url, patience_s=0.0) as client,
        pytest.raises(ServiceUnavailable, match="to arrive"),
    ):
        client.get("p1")


async def test_the_asynchronous_client_meets_them_the_same_way() -> None:
    whole = head("200 OK", length=len(ENDED)) + ENDED
    with odd_server(*BROKEN.values(), whole) as server:
        async with AsyncClient(server.url, patience_s=PATIENCE_S) as client:
            for _ in BROKEN:
                try:
                    ended = await client.get("p1")
                except TritonqError:
                    continue
                assert ended.output == 7
                return
    raise AssertionError("it never came through")


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "caf\N{LATIN SMALL LETTER E}\x07"])
def test_a_token_that_no_header_can_carry_is_said_without_repeating_it(token: str) -> None:
    with pytest.raises(NoService) as caught:
        Client("http://127.0.0.1:1", token)
    assert token not in str(caught.value)


def test_a_token_may_end_in_the_newline_of_its_file(gateway: Gateway) -> None:
    with Client(gateway.url, "secret\n") as client:
        client.models()
    assert gateway.requests[0].headers["authorization"] == "Bearer secret"
