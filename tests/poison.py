"""A Triton under its supervisor that serves models which some inputs bring down."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from contract.prediction import Ticket
from standalone.stubs import StubRemedy
from standalone.supervisor import Event, Service, Supervisor
from standalone.triton import Triton
from tests import services
from tests.onnx_models import (
    ADDER_TENSORS,
    POISONOUS_TENSORS,
    parameter,
    write_adder,
    write_config,
    write_poisonous,
)
from tests.tickets import fresh_id

ENDS_STUB = 666  # an input of `script`
INNOCENT, POISONOUS, TWINS, SCRIPT = MODELS = ("innocent", "poisonous", "twins", "script")

SCRIPT_MODEL = f"""
import os
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            if (x == {ENDS_STUB}).any():
                os._exit(3)
            responses.append(pb.InferenceResponse([pb.Tensor("y", -x)]))
        return responses
"""
KNOWN_ANSWER = (
    """{"inputs": {"x": {"data": [5], "shape": [1]}}, "outputs": {"y": {"equals": [-5]}}}"""
)


def write_models(repository: Path, *, execution_s_max: float = 3.0) -> None:
    """`poisonous` and, with two instances, `twins`; `script`, in Python; and `innocent`."""
    write_adder(repository / INNOCENT / "1" / "model.onnx", 1)
    write_config(repository / INNOCENT, ADDER_TENSORS)
    limits = parameter("execution_s_max", str(execution_s_max))
    limits += parameter("memory_bytes_max", str(1 << 30)) + parameter("intra_op_thread_count", "1")
    for name, instances in ((POISONOUS, 1), (TWINS, 2)):
        write_poisonous(repository / name / "1" / "model.onnx")
        write_config(repository / name, limits + POISONOUS_TENSORS, instances=instances)
    script = repository / SCRIPT / "1" / "model.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT_MODEL)
    write_config(repository / SCRIPT, POISONOUS_TENSORS)
    config = repository / SCRIPT / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
    for name in (POISONOUS, TWINS, SCRIPT):
        (repository / name / "known_answer.json").write_text(KNOWN_ANSWER)


def ticket(model: str, number: int) -> Ticket:
    x = [float(number), 0.0] if model == INNOCENT else number
    return Ticket(fresh_id(), model, 1, {"x": x})


@dataclass
class Unfit:
    """What the gateway would say; a test may put its dispatcher's words here."""

    models: Callable[[], Mapping[str, str]] = dict

    def __call__(self) -> Mapping[str, str]:
        return {model: reason for model, reason in self.models().items() if reason}


@asynccontextmanager
async def supervised_triton(
    folder: Path, repository: Path, models: tuple[str, ...] = MODELS
) -> AsyncIterator[tuple[Triton, Unfit, list[Event]]]:
    """A Triton that is kept running, and what was told about it."""
    server = services.triton(folder, repository, models)
    unfit, told = Unfit(), list[Event]()
    service = Service(server, remedy=StubRemedy(server, unfit))
    supervisor = Supervisor([service], tell=told.append)
    try:
        await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        try:
            yield server, unfit, told
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    finally:
        supervisor.kill()
        await supervisor.stop()
