"""Which ports are chosen."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import getpid

import pytest

from standalone.ports import Ports, choose
from standalone.server import LOOPBACK, CannotStart


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
        server.listen()
        yield server.getsockname()[1]


def test_all_ports_differ_and_are_free() -> None:
    found = list(asdict(choose({})).values())
    assert len(set(found)) == len(found)


def test_a_taken_usual_port_is_stepped_over() -> None:
    usual = choose({}).api
    with listening(usual):
        assert choose({}).api > usual
    assert usual >= Ports().api


def test_a_wanted_port_that_is_taken_is_refused_naming_who_has_it() -> None:
    with (
        listening() as port,
        pytest.raises(CannotStart, match=rf"port {port} is taken .*{getpid()}"),
    ):
        choose({"api": port})


def test_a_wanted_port_is_given_and_nobody_else_gets_it() -> None:
    usual = choose({}).triton_http
    found = choose({"api": usual})
    assert found.api == usual
    assert found.triton_http != usual


def test_a_port_wanted_twice_is_refused() -> None:
    free = choose({}).api
    with pytest.raises(CannotStart, match=f"port {free} is wanted twice"):
        choose({"api": free, "triton_http": free})
