"""What passes for the known answer, and what does not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.catalog import Lane, Model, Tensor
from contract.errors import BatchFailed, ServiceError
from inference import AnswerWrong, BrokenRepository, Input, Triton, check_known_answer

TEXT = Model(
    "text", (1,), "tensor", 8, (Tensor("i", "BYTES", (1,)),), (Tensor("o", "BYTES", (1,)),)
)
IMAGE = Model(
    "image",
    (1,),
    "tensor",
    0,
    (Tensor("i", "UINT8", (2, 3)),),
    (Tensor("o", "FP32", (4,)),),
)
TEXT_KNOWN = {"inputs": {"i": {"data": ["ü"]}}, "outputs": {"o": {"equals": ["ü"]}}}
IMAGE_KNOWN = {
    "inputs": {"i": {"pattern": "ramp", "shape": [2, 3], "step": 2}},
    "outputs": {"o": {"argmax": 2, "value": 0.7, "tolerance": 0.1}},
}


class Answering(Triton):
    """Gives one answer, and remembers the question."""

    def __init__(self, answer: NDArray[Any] | ServiceError) -> None:
        super().__init__("127.0.0.1:1")
        self._answer = answer
        self.question: dict[str, NDArray[Any]] = {}

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        self.question = {name: np.asarray(array) for name, array in inputs.items()}
        if isinstance(self._answer, ServiceError):
            raise self._answer
        return dict.fromkeys(outputs, self._answer)


async def ask(
    folder: Path, model: Model, known: Any, answer: NDArray[Any] | ServiceError
) -> dict[str, NDArray[Any]]:
    (folder / model.name).mkdir()
    (folder / model.name / "known_answer.json").write_text(json.dumps(known))
    triton = Answering(answer)
    await check_known_answer(triton, model, 1, folder)
    return triton.question


async def test_text_goes_out_as_one_row_of_utf_8_and_must_come_back_equal(tmp_path: Path) -> None:
    question = await ask(tmp_path, TEXT, TEXT_KNOWN, np.array([["ü".encode()]], np.object_))
    assert question["i"].tolist() == [["ü".encode()]]


async def test_a_ramp_is_as_the_schema_says(tmp_path: Path) -> None:
    answer = np.array([0.1, 0.2, 0.65, 0.0], np.float32)
    question = await ask(tmp_path, IMAGE, IMAGE_KNOWN, answer)
    assert question["i"].dtype == np.uint8
    assert question["i"].tolist() == [[0, 0, 1], [1, 2, 2]]


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros(4, np.float32),
        np.zeros(0, np.float32),
        np.array([0.1, 0.2, 0.59, 0.0], np.float32),
        np.array([0.8, 0.2, 0.7, 0.0], np.float32),
        np.array([0.1, np.nan, 0.7, 0.0], np.float32),
        np.array([0.1, np.inf, 0.7, 0.0], np.float32),
        np.array([b"a", b"b", b"c", b"d"], np.object_),
        BatchFailed("model image failed: out of memory"),
    ],
    ids=["zeros", "nothing", "too small", "elsewhere", "nan", "infinite", "text", "refused"],
)
async def test_anything_else_is_wrong(tmp_path: Path, answer: NDArray[Any] | ServiceError) -> None:
    with pytest.raises(AnswerWrong, match=r"model image (answers|refuses) its known question"):
        await ask(tmp_path, IMAGE, IMAGE_KNOWN, answer)


@pytest.mark.parametrize("text", [b"", b"u", b"\xff"])
async def test_other_text_is_wrong(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(AnswerWrong, match="instead of"):
        await ask(tmp_path, TEXT, TEXT_KNOWN, np.array([[text]], np.object_))


def change(known: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(known))
    *folders, last = path.split(".")
    place = changed
    for folder in folders:
        place = place[folder]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "missing required field"),
        ([1], "Expected `object`"),
        (change(IMAGE_KNOWN, "extra", 1), "unknown field `extra`"),
        (change(IMAGE_KNOWN, "inputs.j", {"data": [1]}), "the inputs of the model are i"),
        (change(IMAGE_KNOWN, "inputs", {}), "the inputs of the model are i"),
        (change(IMAGE_KNOWN, "inputs.i.pattern", "noise"), "data, or the pattern ramp"),
        (change(IMAGE_KNOWN, "inputs.i.step", 0), "data, or the pattern ramp"),
        (change(IMAGE_KNOWN, "outputs", {}), "the outputs of the model are o"),
        (change(IMAGE_KNOWN, "outputs.p", {"argmax": 1}), "the outputs of the model are o"),
        (change(IMAGE_KNOWN, "outputs.o.equals", [1]), "either equals or argmax"),
        (change(IMAGE_KNOWN, "outputs.o", {}), "either equals or argmax"),
        (change(IMAGE_KNOWN, "outputs.o.tolerance", 0.7), "an answer of zeros proves nothing"),
        (change(IMAGE_KNOWN, "outputs.o", {"equals": [0, 0]}), "zeros proves nothing"),
        (change(IMAGE_KNOWN, "inputs.i", {"data": [1], "shape": [2, 3]}), "reshape"),
    ],
)
async def test_a_broken_file_is_named(tmp_path: Path, known: Any, words: str) -> None:
    with pytest.raises(BrokenRepository, match=rf"image/known_answer\.json: .*{words}"):
        await ask(tmp_path, IMAGE, known, np.zeros(4))
