"""What passes between Triton's stub and the process that runs its model."""

import socket
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from standalone.triton_environment import OUR_BACKENDS

WAIT_S = 0.05  # spent waiting for nothing

End = Any  # the backend is no package of ours: it is imported where Triton would


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[End, End]]:
    monkeypatch.syspath_prepend(str(OUR_BACKENDS / "onnxruntime"))
    messages = import_module("messages").Messages
    here, there = socket.socketpair()
    pair = (messages(here.detach(), WAIT_S), messages(there.detach()))
    yield pair
    for end in pair:
        end.close()
    del sys.modules["messages"]


@pytest.mark.parametrize("characters", [0, 1, 65_531, 65_536, 1_000_000])
def test_a_message_of_any_length_comes_whole(ends: tuple[End, End], characters: int) -> None:
    message = ("answer", [("name", "<f4", (1, 2), 0, None)], "x" * characters)
    sending = threading.Thread(target=ends[0].send, args=(message,))
    sending.start()
    assert ends[1].receive() == message
    sending.join()


def test_messages_that_come_together_are_received_one_by_one(ends: tuple[End, End]) -> None:
    ends[1].send("first")
    ends[1].send("second")
    assert [ends[0].receive(), ends[0].has_news(), ends[0].receive()] == ["first", True, "second"]
    assert not ends[0].has_news()


def test_who_waits_for_nothing_is_told_so_and_misses_nothing(ends: tuple[End, End]) -> None:
    assert ends[0].receive() is None
    ends[1].send({"late": True})
    assert ends[0].receive() == {"late": True}


def test_the_end_of_the_other_side_is_news(ends: tuple[End, End]) -> None:
    assert not ends[0].has_news()
    ends[1].close()
    assert ends[0].has_news()
    with pytest.raises(EOFError):
        ends[0].receive()


def test_half_a_message_is_none(ends: tuple[End, End]) -> None:
    ends[1]._socket.sendall(b"\x09\x00")
    assert ends[0].receive() is None
    ends[1].close()
    with pytest.raises(EOFError):
        ends[0].receive()
