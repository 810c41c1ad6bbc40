"""Each model is one thing in four places: its task, its config.pbtxt, its ONNX file and Triton."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from contract.catalog import Lane, Model, Tensor
from contract.errors import InferenceError
from contract.ids import PredictionId
from contract.prediction import JSON, File, Ticket
from inference import Triton, check_known_answer, read_catalog
from standalone.triton import Triton as TritonServer
from tasks.registry import task
from tasks.tensor_values import DTYPES

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
SAMPLES = ROOT / "samples"
FP32, INT8 = "efficientnet_lite0", "efficientnet_lite0_int8"
ON_GPU = list(read_catalog(REPOSITORY))
ON_CPU = list(read_catalog(REPOSITORY, config_name="cpu"))
EVERY_MODEL = pytest.mark.parametrize("model", ON_CPU, ids=lambda model: model.name)
EVERY_CONFIG = pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(model, id=f"{model.name}-gpu") for model in ON_GPU),
        *(pytest.param(model, id=f"{model.name}-cpu") for model in ON_CPU),
    ],
)


def ticket(model: Model, fields: dict[str, JSON]) -> Ticket:
    """A ticket as the gateway makes it: data URIs have become files."""
    files = {}
    for name, value in list(fields.items()):
        if isinstance(value, str) and value.startswith("data:"):
            with urlopen(value) as opened:
                content = opened.read()
            files[name] = File("application/octet-stream", len(content), "0" * 64, content)
    rest = {name: value for name, value in fields.items() if name not in files}
    return Ticket(PredictionId("0" * 26), model.name, model.latest, rest, files)


def example(model: Model) -> Ticket:
    """The input that the model's own documentation shows."""
    schema = task(model.task).input_schema(model)
    return ticket(model, schema["examples"][0])


def test_every_model_that_can_be_built_is_in_the_repository_and_built() -> None:
    names = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
    assert [model.name for model in ON_GPU] == names
    assert {FP32, INT8, "identity"} <= set(names)


@EVERY_CONFIG
def test_the_task_can_serve_the_model(model: Model) -> None:
    task(model.task).check_model(model)
    assert model.description
    assert model.max_batch_size >= 1


@EVERY_CONFIG
def test_the_example_of_the_input_schema_becomes_the_tensors_of_the_config(model: Model) -> None:
    given = example(model)
    task(model.task).check(model, given)
    tensors = task(model.task).encode(model, given)
    assert set(tensors) == {tensor.name for tensor in model.inputs}
    for tensor in model.inputs:
        array = tensors[tensor.name]
        assert array.dtype == DTYPES[tensor.datatype]
        assert fits(array, tensor), (array.shape, tensor.dims)


def fits(array: NDArray[Any], tensor: Tensor) -> bool:
    return array.ndim == len(tensor.dims) and all(
        wanted in (-1, actual) for actual, wanted in zip(array.shape, tensor.dims, strict=True)
    )


@pytest.mark.parametrize("name", [model.name for model in ON_GPU])
def test_both_configs_of_a_model_differ_in_how_it_runs_alone(name: str) -> None:
    (gpu,) = (model for model in ON_GPU if model.name == name)
    (cpu,) = (model for model in ON_CPU if model.name == name)
    assert (gpu.inputs, gpu.outputs, gpu.task, gpu.description) == (
        cpu.inputs,
        cpu.outputs,
        cpu.task,
        cpu.description,
    )


@pytest.mark.parametrize("path", sorted(REPOSITORY.rglob("*.pbtxt")), ids=lambda p: p.stem)
def test_no_config_has_a_queue_policy(path: Path) -> None:
    """Any of them makes Triton's scheduler stall for half a second at a time."""
    settings = re.sub(r"#.*", "", path.read_text())
    assert re.search(r"dynamic_batching\s*{\s*}", settings)
    assert "queue" not in settings
    assert "priority" not in settings


def test_the_classes_are_the_same_in_both_precisions() -> None:
    labels = (REPOSITORY / FP32 / "labels.txt").read_bytes()
    assert (REPOSITORY / INT8 / "labels.txt").read_bytes() == labels
    names = labels.decode().splitlines()
    assert (len(names), names[0], names[281], names[999]) == (
        1000,
        "tench",
        "tabby cat",
        "toilet paper",
    )


ONNX_TYPES = {"UINT8": onnx.TensorProto.UINT8, "FP32": onnx.TensorProto.FLOAT, "BYTES": 8}


@EVERY_CONFIG
def test_the_onnx_file_has_the_tensors_of_the_config(model: Model) -> None:
    graph = onnx.load(REPOSITORY / model.name / str(model.latest) / "model.onnx").graph
    for declared, built in ((model.inputs, graph.input), (model.outputs, graph.output)):
        assert [tensor.name for tensor in declared] == [value.name for value in built]
        for tensor, value in zip(declared, built, strict=True):
            shape = value.type.tensor_type.shape.dim
            assert value.type.tensor_type.elem_type == ONNX_TYPES[tensor.datatype]
            assert shape[0].dim_param == "batch"
            assert tuple(size.dim_value for size in shape[1:]) == tensor.dims


@pytest.fixture
async def triton(triton_server: TritonServer) -> AsyncIterator[Triton]:
    client = Triton(triton_server.grpc_address)
    yield client
    await client.close()


async def answers(triton: Triton, model: Model, tickets: list[Ticket]) -> list[JSON]:
    """Run the tickets in one request, as the dispatcher does."""
    serving = task(model.task)
    rows = [serving.encode(model, given) for given in tickets]
    inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    names = [tensor.name for tensor in model.outputs]
    outputs = await triton.infer(Lane(model.name, model.latest), inputs, names, timeout_s=60)
    return [
        serving.decode(model, given, {name: outputs[name][index] for name in names})
        for index, given in enumerate(tickets)
    ]


@pytest.mark.triton
@EVERY_MODEL
async def test_a_full_batch_is_answered_row_by_row_as_the_output_schema_says(
    triton: Triton, model: Model
) -> None:
    given = [example(model)] * model.max_batch_size
    results = await answers(triton, model, given)
    assert len(results) == model.max_batch_size
    schema = task(model.task).output_schema(model)
    for result in results:
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert isinstance(result, {"array": list, "object": dict}[schema["type"]])
        if schema["type"] == "array":
            assert all(set(one) == set(schema["items"]["required"]) for one in result)
        else:
            assert set(result) == set(schema["required"])


@pytest.mark.triton
@EVERY_MODEL
async def test_triton_takes_no_more_rows_than_the_config_says(triton: Triton, model: Model) -> None:
    with pytest.raises(InferenceError, match="batch"):
        await answers(triton, model, [example(model)] * (model.max_batch_size + 1))


@pytest.mark.triton
@EVERY_MODEL
async def test_the_known_answer_is_the_answer(triton: Triton, model: Model) -> None:
    assert (REPOSITORY / model.name / "known_answer.json").exists()
    await check_known_answer(triton, model, model.latest, REPOSITORY)


@pytest.mark.triton
@pytest.mark.parametrize("name", [FP32, INT8])
async def test_a_picture_lost_on_its_way_does_not_give_the_known_answer(
    triton: Triton, name: str
) -> None:
    """A Triton in a wrong environment reads every input as zeros: the check must notice."""
    known = json.loads((REPOSITORY / name / "known_answer.json").read_text())
    black = {"image": np.zeros((1, 224, 224, 3), np.uint8)}
    outputs = await triton.infer(Lane(name, 1), black, ["probabilities"], timeout_s=60)
    assert outputs["probabilities"].argmax() != known["outputs"]["probabilities"]["argmax"]


@pytest.mark.triton
async def test_the_identity_model_returns_texts_unchanged_in_their_order(triton: Triton) -> None:
    (model,) = (model for model in ON_CPU if model.name == "identity")
    texts = ["", "plain", "naïve 漢字 \U0001f600", "x" * 100_000]
    given = [ticket(model, {"INPUT0": text}) for text in texts]
    assert await answers(triton, model, given) == [{"OUTPUT0": [text]} for text in texts]


def samples() -> dict[str, set[int]]:
    """The photographs of samples/ with the classes that are right, as SAMPLES.md states them."""
    table = re.findall(
        r"^\| (\S+\.\w+) \| ([\d, ]+) \|", (SAMPLES / "SAMPLES.md").read_text(), re.M
    )
    return {name: {int(index) for index in right.split(",")} for name, right in table}


def test_every_photograph_has_its_origin_stated_and_all_are_small() -> None:
    files = [path for path in SAMPLES.iterdir() if path.suffix != ".md"]
    assert {path.name for path in files} == set(samples())
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.triton
@pytest.mark.parametrize(("name", "top"), [(FP32, 1), (INT8, 5)])
async def test_the_photographs_are_classified_right(triton: Triton, name: str, top: int) -> None:
    (model,) = (model for model in ON_CPU if model.name == name)
    right = samples()
    given = [
        Ticket(
            PredictionId("0" * 26),
            name,
            model.latest,
            {"top_k": top},
            {"image": photograph(SAMPLES / file)},
        )
        for file in right
    ]
    for file, result in zip(right, await answers(triton, model, given), strict=True):
        assert {one["index"] for one in result} & right[file], (file, result)


def photograph(path: Path) -> File:
    content = path.read_bytes()
    return File(f"image/{path.suffix[1:]}", len(content), "0" * 64, content)
