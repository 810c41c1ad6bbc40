"""Triton under the supervisor: stubs that die, models that could not be loaded."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from contract.catalog import Lane
from contract.errors import ModelUnavailable
from inference import Triton
from standalone import triton as standalone_triton
from standalone.leftover import remember_session
from standalone.server import record_path
from standalone.stubs import StubRemedy
from standalone.supervisor import Event, Kind, Pace, Service, Supervisor
from standalone.triton import living_stubs, stubs
from tests import services
from tests.onnx_models import (
    ADDER_TENSORS,
    HANGS,
    POISONOUS_TENSORS,
    write_adder,
    write_config,
    write_poisonous,
)
from tests.tickets import until

pytestmark = pytest.mark.triton

WAIT_S_MAX = 20.0
QUICK = Pace(probe_every_s=0.1)
SELDOM = Pace(probe_every_s=3600.0)  # so what happens, happens without it


@pytest.fixture
def server(tmp_path: Path) -> standalone_triton.Triton:
    for name in ("adder", "other"):
        write_adder(tmp_path / "repository" / name / "1" / "model.onnx", 1)
        write_config(tmp_path / "repository" / name, ADDER_TENSORS)
    return services.triton(tmp_path / "state", tmp_path / "repository", ("adder", "other"))


@asynccontextmanager
async def supervised(
    server: standalone_triton.Triton, pace: Pace, unfit: Mapping[str, str]
) -> AsyncIterator["asyncio.Queue[Event]"]:
    """Yields what is told after the start."""
    told: asyncio.Queue[Event] = asyncio.Queue()
    remedy = StubRemedy(server, lambda: unfit)
    supervisor = Supervisor([Service(server, remedy=remedy)], tell=told.put_nowait, pace=pace)
    try:
        await supervisor.start()
        assert (await told.get()).kind is Kind.STARTED
        watching = asyncio.create_task(supervisor.watch())
        try:
            yield told
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    finally:
        supervisor.kill()
        await supervisor.stop()


async def add(server: standalone_triton.Triton, model: str) -> float:
    triton = Triton(server.grpc_address)
    inputs = {"x": np.zeros((1, 2), np.float32)}
    try:
        answer = await triton.infer(Lane(model, 1), inputs, ["y"], timeout_s=WAIT_S_MAX)
    finally:
        await triton.close()
    return float(answer["y"][0, 0])


def pid_of(server: standalone_triton.Triton) -> int:
    session = remember_session(record_path(server))
    assert session is not None
    return session.pid


async def test_the_end_of_a_stub_is_heard_at_once_and_its_model_loaded_again(
    server: standalone_triton.Triton,
) -> None:
    async with supervised(server, SELDOM, {}) as told:
        pid = pid_of(server)
        stub = next(
            each
            for each in psutil.Process(pid).children(recursive=True)
            if "/adder/" in " ".join(each.cmdline()) and "stub" in each.name()
        )
        os.kill(stub.pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S_MAX):
            assert str(await told.get()) == "triton ailing: dead or frozen stubs of adder"
            assert (await told.get()).kind is Kind.HEALED
        assert pid_of(server) == pid
        assert await add(server, "adder") == 1.0


async def test_the_stubs_that_serve_are_known_from_those_of_an_earlier_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton keeps a load for ever of which a stub died with a request in its hands."""
    monkeypatch.setattr("standalone.stubs.REPLACED_S_MAX", 3.0)
    repository = tmp_path / "repository"
    write_poisonous(repository / "twins" / "1" / "model.onnx")
    write_config(repository / "twins", POISONOUS_TENSORS, instances=2)
    server = services.triton(tmp_path / "state", repository, ("twins",))
    async with supervised(server, QUICK, {}) as told:
        pid = pid_of(server)
        first = stubs_of(pid)
        hanging = asyncio.create_task(negate(server, HANGS))
        busy = await until_busy(first)
        os.kill(busy, signal.SIGKILL)
        assert (await told.get()).kind is Kind.AILING
        assert (await told.get()).kind is Kind.HEALED
        second = stubs_of(pid)
        assert second & first == first - {busy}, "Triton lets go of it: this tests nothing any more"

        os.kill(min(second - first), signal.SIGKILL)
        async with asyncio.timeout(WAIT_S_MAX):
            assert (await told.get()).kind is Kind.AILING
            assert (await told.get()).kind is Kind.HEALED

        async def only_two() -> bool:
            return len(stubs_of(pid)) == 2

        await until(only_two)
        assert pid_of(server) == pid
        assert await negate(server, 7) == -7
        with pytest.raises(ModelUnavailable):
            await hanging


def stubs_of(pid: int) -> set[int]:
    return {stub.process.pid for stub in stubs(pid)}


async def until_busy(pids: set[int]) -> int:
    """Wait until the model of one of these stubs computes; returns its stub."""
    workers = {worker: pid for pid in pids for worker in psutil.Process(pid).children()}
    before = {worker: worker.cpu_times().user for worker in workers}
    found: list[int] = []

    async def is_busy() -> bool:
        found.extend(workers[it] for it in workers if it.cpu_times().user > before[it] + 0.2)
        return bool(found)

    await until(is_busy)
    return found[0]


async def negate(server: standalone_triton.Triton, number: int) -> int:
    triton = Triton(server.grpc_address)
    inputs = {"x": np.array([[number]], np.int64)}
    try:
        answer = await triton.infer(Lane("twins", 1), inputs, ["y"], timeout_s=WAIT_S_MAX)
    finally:
        await triton.close()
    return int(answer["y"][0, 0])


async def test_a_model_that_could_not_be_loaded_is_loaded_once_its_file_is_mended(
    server: standalone_triton.Triton,
) -> None:
    """And the others are left in peace: neither reloads nor restarts help a broken file."""
    file = server.repository / "adder" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(b"broken")
    unfit = {"adder": "Triton has not loaded it"}
    async with supervised(server, QUICK, unfit) as told:
        pid = pid_of(server)
        assert (await server.unready_models()).keys() == {"adder"}
        file.write_bytes(content)

        async def is_loaded() -> bool:
            return await server.unready_models() == {}

        await until(is_loaded)
        unfit.clear()
        assert await add(server, "adder") == 1.0
        assert living_stubs(pid) == {"adder": 1, "other": 1}
        assert pid_of(server) == pid
        assert told.empty()
