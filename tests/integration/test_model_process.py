"""The process in which the onnxruntime backend runs a model, inside the real Triton.

Whatever an input does to it, Triton and its stub live on, the others are answered, and the process
is back by itself.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from contract.catalog import Lane
from contract.errors import BatchFailed, ModelUnavailable
from inference import Triton
from standalone import triton as standalone_triton
from standalone.server import Process
from standalone.triton import living_stubs
from tests import services
from tests.onnx_models import (
    CRASHES,
    DEVOURS,
    HANGS,
    LOSES_ROWS,
    POISONOUS_TENSORS,
    RAISES,
    parameter,
    write_config,
    write_poisonous,
)
from tests.tickets import until

pytestmark = pytest.mark.triton

TIMEOUT_S = 30.0
EXECUTION_S_MAX = 3.0
MODEL = Lane("poisonous", 1)


@pytest.fixture(scope="module")
async def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    write_poisonous(repository / "poisonous" / "1" / "model.onnx")
    limits = parameter("execution_s_max", str(EXECUTION_S_MAX))
    limits += parameter("memory_bytes_max", str(1 << 30))
    limits += parameter("intra_op_thread_count", "1")
    write_config(repository / "poisonous", limits + POISONOUS_TENSORS)
    return repository


@pytest.fixture(scope="module")
async def process(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> AsyncIterator[tuple[standalone_triton.Triton, Process]]:
    server = services.triton(tmp_path_factory.mktemp("triton"), repository, ("poisonous",))
    async with services.running_triton(server) as process:
        assert await server.unready_models() == {}
        yield server, process


@pytest.fixture
async def triton(
    process: tuple[standalone_triton.Triton, Process],
) -> AsyncIterator[Triton]:
    triton = Triton(process[0].grpc_address)
    yield triton
    await triton.close()
    assert living_stubs(process[1].pid) == {"poisonous": 1}, "no stub is to suffer from any of it"


@pytest.fixture
def worker(process: tuple[standalone_triton.Triton, Process]) -> psutil.Process:
    return worker_of(process[1].pid)


def worker_of(server: int) -> psutil.Process:
    """The process that runs the model now."""
    (found,) = (
        each
        for each in psutil.Process(server).children(recursive=True)
        if "onnx_worker.py" in " ".join(each.cmdline())
    )
    return found


async def negate(triton: Triton, *numbers: int, hurried: bool = False) -> list[int]:
    inputs = {"x": np.array(numbers, np.int64).reshape(-1, 1)}
    answer = await triton.infer(MODEL, inputs, ["y"], timeout_s=TIMEOUT_S, hurried=hurried)
    return [int(number) for number in answer["y"].ravel()]


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (CRASHES, "the model's process was ended by SIGFPE on this input"),
        (HANGS, "the model overran the 3 s of one execution on this input"),
        (DEVOURS, r"failed: ConstantOfShape: Failed to allocate memory .* of size 4000000000$"),
        (RAISES, "failed: Gather: indices element out of data bounds, idx=13"),
        (LOSES_ROWS, r"output 'y' has shape \(0, 1\) for a batch of 1"),
    ],
)
async def test_a_poisonous_input_fails_with_the_reason_and_the_next_one_is_answered(
    triton: Triton, poison: int, words: str
) -> None:
    with pytest.raises(BatchFailed, match=words):
        await negate(triton, poison)
    assert await negate(triton, 1, 2) == [-1, -2]


@pytest.mark.parametrize("poison", [CRASHES, HANGS])
async def test_requests_in_flight_with_a_deadly_one_are_all_answered(
    triton: Triton, poison: int
) -> None:
    """Triton may have put some of them into the same batch."""
    numbers = [*range(1, 8), poison, *range(8, 13)]
    answers = await asyncio.gather(
        *(negate(triton, number) for number in numbers), return_exceptions=True
    )
    for number, answer in zip(numbers, answers, strict=True):
        if number == poison:
            assert isinstance(answer, BatchFailed)
        else:
            assert answer == [-number]


async def test_a_batch_whose_sender_is_in_a_hurry_is_ended_once_it_is_far_slower_than_usual(
    triton: Triton,
) -> None:
    await negate(triton, 1)
    with pytest.raises(BatchFailed, match="overran the 2 s"):
        await negate(triton, 1, HANGS, hurried=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_somebody_ended_or_froze_while_idle_costs_nobody_an_answer(
    triton: Triton, worker: psutil.Process, number: signal.Signals
) -> None:
    worker.send_signal(number)
    assert await negate(triton, 5) == [-5]
    assert await services.is_gone(worker)


async def test_a_process_that_somebody_ended_during_an_execution_is_given_the_input_again(
    triton: Triton, worker: psutil.Process
) -> None:
    """One that hangs, so that there is time to end it: the limit counts anew."""
    started_s = time.monotonic()
    hanging = asyncio.create_task(negate(triton, HANGS))

    async def is_busy() -> bool:
        return worker.cpu_percent() > 50.0

    await until(is_busy)
    worker.kill()
    with pytest.raises(BatchFailed, match="overran"):
        await hanging
    assert time.monotonic() - started_s > EXECUTION_S_MAX


async def test_an_input_that_was_given_up_behind_a_slow_one_is_not_run(
    process: tuple[standalone_triton.Triton, Process], triton: Triton, worker: psutil.Process
) -> None:
    slow = asyncio.create_task(negate(triton, HANGS))

    async def is_busy() -> bool:
        return worker.cpu_percent() > 50.0

    await until(is_busy)
    given_up = asyncio.create_task(negate(triton, CRASHES))

    async def is_there() -> bool:
        return await services.pending(process[0], "poisonous") > 0

    await until(is_there)
    given_up.cancel()
    with pytest.raises(BatchFailed, match="overran"):
        await slow
    replaced = worker_of(process[1].pid)
    assert await negate(triton, 1) == [-1]
    assert worker_of(process[1].pid) == replaced


async def test_a_process_does_not_outlive_its_stub(tmp_path: Path, repository: Path) -> None:
    """Not even one that is busy, and hears nobody."""
    server = services.triton(tmp_path, repository, ("poisonous",))
    triton = Triton(server.grpc_address)
    async with services.running_triton(server) as process:
        worker = worker_of(process.pid)
        hanging = asyncio.create_task(negate(triton, HANGS))

        async def is_busy() -> bool:
            return worker.cpu_percent() > 50.0

        await until(is_busy)
        stub = worker.parent()
        assert stub is not None
        os.kill(stub.pid, signal.SIGKILL)
        assert await services.is_gone(worker)
        with pytest.raises(ModelUnavailable):
            await hanging
    await triton.close()


async def test_a_model_that_cannot_be_loaded_again_is_away_and_back_when_it_can(
    triton: Triton, repository: Path, worker: psutil.Process
) -> None:
    file = repository / "poisonous" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(b"somebody is just copying it")
    try:
        worker.kill()
        with pytest.raises(ModelUnavailable):
            await negate(triton, 1)
    finally:
        file.write_bytes(content)
    assert await negate(triton, 1) == [-1]
