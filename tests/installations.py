"""A `tritonq up` as people run it: a process of its own, with real servers."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from standalone.leftover import remember_session
from standalone.models import built_models
from standalone.state import Running, find_running
from tests.services import MODEL_REPOSITORY, free_ports
from tritonq import Client

START_S_MAX = 90.0
STOP_S_MAX = 15.0  # what `tritonq up` promises
HEAL_S_MAX = 60.0
MODEL = "efficientnet_lite0"
IMAGE = Path(__file__).parents[1] / "samples" / "espresso.jpg"
SHARED_MEMORY = Path("/dev/shm")

T = TypeVar("T")


@dataclass
class Up:
    """A `tritonq up` of ours, and its state folder."""

    state: Path
    process: subprocess.Popen[bytes]
    running: Running

    def client(self) -> Client:
        return Client(self.running.api_url)

    def log(self) -> str:
        return (self.state.parent / "up.log").read_text()

    def leader(self, service: str) -> int:
        session = remember_session(self.state / service / f"{service}.pid")
        assert session is not None
        return session.pid

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Stop it; return the exit code and how long it took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(STOP_S_MAX + 15)
        return code, time.monotonic() - began


def command(state: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tritonq", "up", "--state", str(state), *options]


def spawn(state: Path) -> subprocess.Popen[bytes]:
    api, triton_http, triton_grpc = map(str, free_ports(3))
    ports = ("--triton-http-port", triton_http, "--triton-grpc-port", triton_grpc)
    with (state.parent / "up.log").open("a") as log:
        return subprocess.Popen(
            command(state, "--model", MODEL, "--port", api, *ports),
            stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip


@contextmanager
def up(state: Path) -> Iterator[Up]:
    if MODEL not in built_models(MODEL_REPOSITORY):
        pytest.fail("the weights are not built; `make weights` builds them")
    process = spawn(state)
    try:
        yield Up(state, process, started(state, process))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def started(state: Path, process: subprocess.Popen[bytes]) -> Running:
    def look() -> Running | None:
        if process.poll() is not None:
            pytest.fail(f"it ended: {(state.parent / 'up.log').read_text()}")
        return find_running(state)

    return until(look, START_S_MAX)


def until(look: Callable[[], T | None], wait_s_max: float) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + wait_s_max
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing within {wait_s_max} s")


def best_label(client: Client) -> str:
    return str(client.run(MODEL, IMAGE, wait_s=HEAL_S_MAX).output[0]["label"])


def nothing_is_left(family: list[psutil.Process]) -> bool:
    """Whether all of `family` are gone. (One that ended and nobody asked about is a zombie.)"""
    _, alive = psutil.wait_procs(family, timeout=1)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def shared_memory(family: list[psutil.Process]) -> set[Path]:
    """The shared memory that these processes use; others on this machine have their own."""
    maps = [each for process in family for each in process.memory_maps()]
    return {Path(each.path) for each in maps if Path(each.path).is_relative_to(SHARED_MEMORY)}
