"""An answer's head goes out together with its body."""

import asyncio
from typing import cast

from gateway.server import _HeadWithBody


class Noted:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append([data])

    def writelines(self, data: list[bytes]) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


def written(*parts: bytes, closed: bool = False) -> list[list[bytes]]:
    noted = Noted()
    transport = _HeadWithBody(cast(asyncio.Transport, noted))
    for part in parts:
        transport.write(part)
    if closed:
        transport.close()
        assert noted.closed
    return noted.sent


def test_head_and_body_are_one_write() -> None:
    assert written(b"head", b"body") == [[b"head", b"body"]]
    assert written(b"head", b"body", closed=True) == [[b"head", b"body"]]


def test_an_empty_body_lets_the_head_go() -> None:
    assert written(b"head", b"") == [[b"head", b""]]


def test_what_follows_the_first_of_the_body_is_not_held_back() -> None:
    assert written(b"head", b"one", b"two") == [[b"head", b"one"], [b"two"]]


def test_a_head_without_a_body_goes_out_before_the_end() -> None:
    assert written(b"head", closed=True) == [[b"head"]]
