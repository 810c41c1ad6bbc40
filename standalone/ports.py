"""Which ports the services listen on: the usual ones where they are free, else the next ones."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from standalone.server import LOOPBACK, CannotStart

TRIES_MAX = 200  # ports tried after the usual one


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each thing that listens, all on loopback.

    The defaults are the usual ones of what people talk to. What only our own processes talk to
    stays away from the usual ones, and below 32768, where the kernel begins to hand ports out.
    """

    api: int = 8080
    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002
    dispatcher_metrics: int = 8081
    postgres: int = 15432
    nats: int = 14222
    nats_monitor: int = 18222


def choose(wanted: Mapping[str, int]) -> Ports:
    """Settle all ports; `wanted` holds those the user insists on, by field of `Ports`.

    Raises:
        CannotStart: a wanted port is taken, or is wanted twice.
    """
    taken: set[int] = set()
    settled: dict[str, int] = {}
    for name, port in wanted.items():
        if port in taken:
            raise CannotStart(f"port {port} is wanted twice; choose two different ports")
        if not is_free(port):
            raise CannotStart(f"port {port} is taken{taken_by(port)}; choose another")
        taken.add(port)
        settled[name] = port
    for name in Ports.__dataclass_fields__:
        if name not in settled:
            settled[name] = _next_free(getattr(Ports(), name), taken)
            taken.add(settled[name])
    return Ports(**settled)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _next_free(usual: int, taken: set[int]) -> int:
    for port in range(usual, usual + TRIES_MAX):
        if port not in taken and is_free(port):
            return port
    raise CannotStart(f"no port from {usual} to {usual + TRIES_MAX - 1} is free")


def taken_by(port: int) -> str:
    """Who listens on `port`, to be put after the word "taken"; empty where we may not know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" by {name} (process {connection.pid})"
    except psutil.Error:
        pass  # another user's process: its owner is not ours to see
    return ""
