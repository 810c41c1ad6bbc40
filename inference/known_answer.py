"""Asks a model a question whose answer is known, before it may serve.

Triton reports "ready" for a model whose process is dead, and a wrong environment makes it answer
with zeros or with nothing. `model_repository/<model>/known_answer.json` holds one row and what must
come out of it:

    {"inputs":  {"<tensor>": {"pattern": "ramp", "shape": [224, 224, 3], "step": 1}
                           | {"data": ["text"], "shape": [1]}},
     "outputs": {"<tensor>": {"argmax": 600, "value": 0.87, "tolerance": 0.05}
                           | {"equals": ["text"]}}}

Shapes are those of one row, without the batch dimension. Element i of a ramp is (i // step) % 256.
"""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import triton_to_np_dtype

from contract.catalog import Lane, Model, Tensor
from contract.errors import InferenceError, ModelUnavailable
from inference.repository import BrokenRepository
from inference.triton import Triton

FILE_NAME = "known_answer.json"
ANSWER_S_MAX = 30.0
RAMP_VALUES = 256


class AnswerWrong(ModelUnavailable):
    """The model answers, and wrongly: it must not serve."""


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pattern: str | None = None
    step: int = 1
    data: list[Any] | None = None
    shape: list[int] | None = None

    def row(self, tensor: Tensor) -> NDArray[Any]:
        dtype = np.dtype(triton_to_np_dtype(tensor.datatype))
        if self.data is not None:
            values = [x.encode() for x in self.data] if tensor.datatype == "BYTES" else self.data
            return np.array(values, dtype=dtype).reshape(self.shape or [len(values)])
        if self.pattern != "ramp" or self.shape is None or self.step < 1:
            raise ValueError(f"input {tensor.name} needs data, or the pattern ramp with a shape")
        steps = np.arange(math.prod(self.shape)) // self.step
        return (steps % RAMP_VALUES).astype(dtype).reshape(self.shape)


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    argmax: int | None = None
    value: float = 0.0
    tolerance: float = 0.0
    equals: list[Any] | None = None

    def objection(self, row: NDArray[Any]) -> str:
        """What is wrong with `row`, flattened; empty if it is the known answer."""
        if row.size == 0:
            return "nothing"
        if self.equals is not None:
            given = [
                x.decode(errors="replace") if isinstance(x, bytes) else x for x in row.tolist()
            ]
            return "" if given == self.equals else f"{_shown(given)} instead of {self.equals}"
        assert self.argmax is not None  # `_read` saw to it
        if row.dtype.kind not in "fiu":
            return f"{row.dtype} instead of numbers"
        if not np.isfinite(row).all():
            return "numbers that are not finite"
        place = int(row.argmax())
        value = float(row[place])
        if place == self.argmax and abs(value - self.value) <= self.tolerance:
            return ""
        return (
            f"{value:.4g} at {place} instead of {self.value:.4g} (+-{self.tolerance:.4g}) "
            f"at {self.argmax}"
        )

    @property
    def proves_nothing(self) -> bool:
        """Whether zeros or nothing, the answers of a broken Triton, would pass for this one."""
        if self.equals is not None:
            return not any(self.equals)
        return abs(self.value) <= self.tolerance


class _KnownAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: dict[str, _Question]
    outputs: dict[str, _Answer]


async def check_known_answer(triton: Triton, model: Model, version: int, repository: Path) -> None:
    """Ask the model; return only if it answers as it must.

    A model without the file is asked nothing: it has only to be loaded.

    Raises:
        ModelUnavailable: Triton or the model's process does not work.
        AnswerWrong: it answers something else, or refuses the question.
        BrokenRepository: the file is not what this module's docstring says.
    """
    lane = Lane(model.name, version)
    path = repository / model.name / FILE_NAME
    if not path.exists():
        if not await triton.is_ready(lane):
            raise ModelUnavailable(f"model {model.name} is not available: Triton has not loaded it")
        return
    known, inputs = _read(path, model)
    try:
        outputs = await triton.infer(lane, inputs, list(known.outputs), timeout_s=ANSWER_S_MAX)
    except InferenceError as error:
        raise AnswerWrong(f"model {model.name} refuses its known question: {error}") from error
    for name, answer in known.outputs.items():
        if objection := answer.objection(outputs[name].ravel()):
            raise AnswerWrong(f"model {model.name} answers its known question with {objection}")


def _read(path: Path, model: Model) -> tuple[_KnownAnswer, dict[str, NDArray[Any]]]:
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_KnownAnswer)
        _check_names(known, model)
        rows = {tensor.name: known.inputs[tensor.name].row(tensor) for tensor in model.inputs}
    except (ValueError, TypeError, AttributeError) as error:  # also what msgspec raises
        raise BrokenRepository(f"{path}: {error}") from error
    if model.max_batch_size > 0:
        rows = {name: row[np.newaxis] for name, row in rows.items()}
    return known, rows


def _check_names(known: _KnownAnswer, model: Model) -> None:
    inputs, outputs = {x.name for x in model.inputs}, {x.name for x in model.outputs}
    if known.inputs.keys() != inputs:
        raise ValueError(f"the inputs of the model are {', '.join(sorted(inputs))}")
    if not known.outputs or not known.outputs.keys() <= outputs:
        raise ValueError(f"the outputs of the model are {', '.join(sorted(outputs))}")
    if any((answer.equals is None) == (answer.argmax is None) for answer in known.outputs.values()):
        raise ValueError("an output has either equals or argmax")
    if any(answer.proves_nothing for answer in known.outputs.values()):
        raise ValueError("an answer of zeros proves nothing")


def _shown(values: list[Any]) -> str:
    text = repr(values)
    return text if len(text) <= 100 else text[:100] + "..."
