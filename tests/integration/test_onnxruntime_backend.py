"""The Python-based onnxruntime backend, inside the real Triton."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from contract.catalog import Lane
from contract.errors import BatchFailed, ModelRejected
from inference import Triton
from standalone import triton as standalone_triton
from tests import onnx_models, services
from tests.onnx_models import tensor, write_adder, write_config, write_onnx

pytestmark = pytest.mark.triton

TIMEOUT_S = 20.0

TYPES: dict[str, tuple[int, type[np.generic], list[Any]]] = {
    "BOOL": (TensorProto.BOOL, np.bool_, [True, False, True]),
    "UINT8": (TensorProto.UINT8, np.uint8, [0, 1, 255]),
    "UINT16": (TensorProto.UINT16, np.uint16, [0, 1, 65535]),
    "UINT32": (TensorProto.UINT32, np.uint32, [0, 1, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, np.uint64, [0, 1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, np.int8, [-128, 0, 127]),
    "INT16": (TensorProto.INT16, np.int16, [-(2**15), 0, 2**15 - 1]),
    "INT32": (TensorProto.INT32, np.int32, [-(2**31), 0, 2**31 - 1]),
    "INT64": (TensorProto.INT64, np.int64, [-(2**63), 0, 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, np.float16, [-65504, 0.5, np.inf]),
    "FP32": (TensorProto.FLOAT, np.float32, [-1e38, 0.5, np.nan]),
    "FP64": (TensorProto.DOUBLE, np.float64, [-1e308, 0.5, np.inf]),
    "STRING": (TensorProto.STRING, np.object_, [b"", "grüße 漢字".encode(), b"nul \0 inside"]),
}


def write_types(repository: Path) -> None:
    """One input in_<type> and output out_<type> [3] for each type, passed through."""
    names = list(TYPES)
    write_onnx(
        repository / "types" / "1" / "model.onnx",
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        [tensor(f"in_{name}", TYPES[name][0], ["n", 3]) for name in names],
        [tensor(f"out_{name}", TYPES[name][0], ["n", 3]) for name in names],
    )
    lines = [
        f'{kind} [ {{ name: "{prefix}_{name}" data_type: TYPE_{name} dims: [ 3 ] }} ]'
        for name in names
        for kind, prefix in (("input", "in"), ("output", "out"))
    ]
    write_config(repository / "types", "\n".join(lines))


def write_picker(repository: Path) -> None:
    """index int64[n, 1] -> picked float[n, 1] out of 0, 10, 20; and `echo`, the index."""
    write_onnx(
        repository / "picker" / "1" / "model.onnx",
        [
            helper.make_node("Gather", ["table", "index"], ["picked"]),
            helper.make_node("Identity", ["index"], ["echo"]),
        ],
        [tensor("index", TensorProto.INT64, ["n", 1])],
        [
            tensor("picked", TensorProto.FLOAT, ["n", 1]),
            tensor("echo", TensorProto.INT64, ["n", 1]),
        ],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [0.0, 10.0, 20.0])],
    )
    write_config(
        repository / "picker",
        """
        input [ { name: "index" data_type: TYPE_INT64 dims: [ 1 ] } ]
        output [ { name: "picked" data_type: TYPE_FP32 dims: [ 1 ] },
                 { name: "echo" data_type: TYPE_INT64 dims: [ 1 ] } ]
        # Requests wait for company until there are four rows: so tests decide what meets.
        dynamic_batching { max_queue_delay_microseconds: 3000000 preferred_batch_size: [ 4 ] }
        """,
    )


def write_versions(repository: Path) -> None:
    for version in (1, 2, 3):
        write_adder(repository / "versions" / str(version) / "net.onnx", version)
    text = 'default_model_filename: "net.onnx"\nversion_policy { specific { versions: [ 1, 3 ] } }'
    write_config(repository / "versions", text + onnx_models.ADDER_TENSORS)


def write_unbatched(repository: Path) -> None:
    """x float[a, b] -> the sum of each row, float[a]."""
    write_onnx(
        repository / "unbatched" / "1" / "model.onnx",
        [helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0)],
        [tensor("x", TensorProto.FLOAT, ["a", "b"])],
        [tensor("sum", TensorProto.FLOAT, ["a"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    write_config(
        repository / "unbatched",
        """
        input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] } ]
        output [ { name: "sum" data_type: TYPE_FP32 dims: [ -1 ] } ]
        """,
        max_batch_size=0,
    )


def write_scalars(repository: Path) -> None:
    """x float[n] -> -x: one number a row, which config.pbtxt calls [1] with an empty reshape."""
    write_onnx(
        repository / "scalars" / "1" / "model.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n"])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
    )
    scalar = "data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }"
    text = f'input [ {{ name: "x" {scalar} }} ] output [ {{ name: "y" {scalar} }} ]'
    write_config(repository / "scalars", text)


def write_tuned(repository: Path) -> None:
    """Every option of ONNX Runtime that the C++ backend knows, and an accelerator for GPUs."""
    write_adder(repository / "tuned" / "1" / "model.onnx", 1)
    options = {
        "intra_op_thread_count": "2",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "1",
        "enable_mem_pattern": "0",
        "session.use_device_allocator_for_initializers": "1",
        "memory.enable_memory_arena_shrinkage": "cpu:0",
    }
    lines = [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in options.items()
    ]
    lines.append("optimization { graph { level: 1 } execution_accelerators { ")
    lines.append('gpu_execution_accelerator: [ { name: "tensorrt" } ] } }')
    write_config(repository / "tuned", "\n".join(lines) + onnx_models.ADDER_TENSORS)


def write_sliced(repository: Path) -> None:
    """x int64[n, 1] -> together int64[n, 1], how many rows ran in one run; and copies of x.

    `copies` has a row of x once if it is above 0 and once more if it is above 1.
    """
    numbers = {"zero": 0, "one": 1, "minus_one": -1}
    write_onnx(
        repository / "sliced" / "1" / "model.onnx",
        [
            helper.make_node("Shape", ["x"], ["rows"], end=1),
            helper.make_node("Mul", ["x", "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "rows"], ["together"]),
            helper.make_node("Identity", ["text"], ["echo"]),
            *(
                node
                for bound in ("zero", "one")
                for node in (
                    helper.make_node("Greater", ["x", bound], [f"{bound}_is"]),
                    helper.make_node("Reshape", [f"{bound}_is", "minus_one"], [f"{bound}_flat"]),
                    helper.make_node("Compress", ["x", f"{bound}_flat"], [f"{bound}_x"], axis=0),
                )
            ),
            helper.make_node("Concat", ["zero_x", "one_x"], ["copies"], axis=0),
        ],
        [tensor("x", TensorProto.INT64, ["n", 1]), tensor("text", TensorProto.STRING, ["n", 1])],
        [
            tensor("together", TensorProto.INT64, ["n", 1]),
            tensor("copies", TensorProto.INT64, ["m", 1]),
            tensor("echo", TensorProto.STRING, ["n", 1]),
        ],
        [helper.make_tensor(k, TensorProto.INT64, [1], [v]) for k, v in numbers.items()],
    )
    write_config(
        repository / "sliced",
        """
        input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] },
                { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
        output [ { name: "together" data_type: TYPE_INT64 dims: [ 1 ] },
                 { name: "copies" data_type: TYPE_INT64 dims: [ 1 ] },
                 { name: "echo" data_type: TYPE_STRING dims: [ 1 ] } ]
        """
        + onnx_models.parameter("rows_at_once", "3"),
    )


def write_broken(repository: Path) -> dict[str, str]:
    """Models that must not load, and what the reason must contain."""

    def adder(name: str, config: str, *, max_batch_size: int = 8) -> None:
        write_adder(repository / name / "1" / "model.onnx", 1)
        write_config(repository / name, config, max_batch_size=max_batch_size)

    tensors = onnx_models.ADDER_TENSORS
    adder("wrong_type", tensors.replace("FP32", "FP64", 1))
    adder("wrong_name", tensors.replace('"y"', '"z"'))
    adder("wrong_dims", tensors.replace("[ 2 ]", "[ 3 ]", 1))
    adder("wrong_batching", tensors, max_batch_size=0)
    adder("ragged", tensors.replace("dims", "allow_ragged_batch: true dims", 1))
    sliced = onnx_models.parameter("rows_at_once", "2")
    adder("sliced_unbatched", tensors.replace("[ 2 ]", "[ -1, 2 ]") + sliced, max_batch_size=0)
    adder("sliced_dynamic", "[ -1 ]".join(tensors.rsplit("[ 2 ]", 1)) + sliced)
    adder("sliced_by_nothing", tensors + sliced.replace('"2"', '"two"'))
    adder("forgotten", tensors)
    write_onnx(
        repository / "forgotten" / "1" / "model.onnx",
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        [tensor(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "bias")],
        [tensor("y", TensorProto.FLOAT, ["n", 2])],
    )
    adder("no_onnx", tensors)
    (repository / "no_onnx" / "1" / "model.onnx").write_text("not a model")
    adder("no_config", "input [ { name: 3 } ]")
    adder(
        "no_scalars",
        tensors.replace("dims: [ 2 ]", "dims: [ 1 ] reshape { shape: [ ] }"),
        max_batch_size=0,
    )
    return {
        "wrong_type": "input 'x' is TYPE_FP64 in config.pbtxt and TYPE_FP32 in the model",
        "wrong_name": "the model has no output 'z'; it has y",
        "wrong_dims": "input 'x' has dims [3] in config.pbtxt and [2] in the model",
        "wrong_batching": "input 'x' has dims [2] in config.pbtxt and [-1, 2] in the model",
        "ragged": "ragged",
        "sliced_unbatched": "rows_at_once needs rows: max_batch_size above 0",
        "sliced_dynamic": "rows_at_once needs outputs of a fixed size, without -1",
        "sliced_by_nothing": "rows_at_once is a whole number, not 'two'",
        "forgotten": "the model needs input 'bias' too",
        "no_onnx": "model.onnx",
        "no_config": "config.pbtxt",
        "no_scalars": "cannot have empty reshape for non-batching model",
    }


@pytest.fixture(scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[standalone_triton.Triton]:
    repository = tmp_path_factory.mktemp("repository")
    write_types(repository)
    write_picker(repository)
    write_versions(repository)
    write_unbatched(repository)
    write_scalars(repository)
    write_tuned(repository)
    write_sliced(repository)
    models = ("types", "picker", "versions", "unbatched", "scalars", "tuned", "sliced")
    server = services.triton(tmp_path_factory.mktemp("triton"), repository, models)
    async with services.running_triton(server):
        assert await server.unready_models() == {}
        yield server


@pytest.fixture
async def triton(server: standalone_triton.Triton) -> AsyncIterator[Triton]:
    triton = Triton(server.grpc_address)
    yield triton
    await triton.close()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", TYPES)
async def test_every_type_passes_through_unchanged(triton: Triton, name: str, rows: int) -> None:
    _, dtype, values = TYPES[name]
    sent = {
        f"in_{each}": np.tile(np.array(TYPES[each][2], TYPES[each][1]), (rows, 1)) for each in TYPES
    }
    sent[f"in_{name}"] = np.tile(np.array(values, dtype), (rows, 1))
    outputs = await triton.infer(Lane("types", 1), sent, [f"out_{name}"], timeout_s=TIMEOUT_S)
    assert list(outputs) == [f"out_{name}"]
    received = outputs[f"out_{name}"]
    assert received.dtype == dtype
    assert received.shape == (rows, 3)
    np.testing.assert_array_equal(received, sent[f"in_{name}"])


async def test_bytes_that_are_no_text_are_refused_with_the_reason(triton: Triton) -> None:
    sent = {f"in_{each}": np.array([TYPES[each][2]], TYPES[each][1]) for each in TYPES}
    sent["in_STRING"] = np.array([[b"fine", b"\xff\xfe", b"fine"]], np.object_)
    with pytest.raises(ModelRejected, match=r"input 'in_STRING' must be UTF-8 text .* 0xff"):
        await triton.infer(Lane("types", 1), sent, ["out_STRING"], timeout_s=TIMEOUT_S)


async def pick(triton: Triton, *index: int, outputs: tuple[str, ...] = ("picked",)) -> NDArray[Any]:
    inputs = {"index": np.array(index, np.int64).reshape(-1, 1)}
    answer = await triton.infer(Lane("picker", 1), inputs, outputs, timeout_s=TIMEOUT_S)
    assert tuple(answer) == outputs
    return answer[outputs[0]].ravel()


async def test_requests_that_meet_run_as_one_batch_and_each_gets_its_own_rows(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    async with counted(server, "picker", rows=4) as executions:
        answers = await asyncio.gather(
            pick(triton, 2), pick(triton, 0, 1), pick(triton, 1, outputs=("echo",))
        )
    assert [list(answer) for answer in answers] == [[20.0], [0.0, 10.0], [1]]
    assert executions == [1]


async def test_a_poisonous_request_fails_alone(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    """ONNX Runtime refuses the whole batch for one index out of bounds."""
    async with counted(server, "picker", rows=4) as executions:
        answers = await asyncio.gather(
            *(pick(triton, index) for index in (1, 99, 2, 0)), return_exceptions=True
        )
    assert executions == [1]
    assert isinstance(answers[1], BatchFailed)
    assert "out of data bounds" in str(answers[1])
    sound = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert [answer.tolist() for answer in sound] == [[10.0], [20.0], [0.0]]


async def test_a_request_that_its_sender_gave_up_does_not_disturb_its_batch(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    given_up = asyncio.create_task(pick(triton, 1))
    async with asyncio.timeout(TIMEOUT_S):
        while await services.pending(server, "picker") == 0:
            await asyncio.sleep(0.01)
    given_up.cancel()
    others = await asyncio.gather(*(pick(triton, index) for index in (0, 2, 1, 0)))
    assert [answer.tolist() for answer in others] == [[0.0], [20.0], [10.0], [0.0]]


async def test_each_version_that_the_policy_names_is_served_from_its_own_file(
    triton: Triton,
) -> None:
    for version in (1, 3):
        inputs = {"x": np.zeros((1, 2), np.float32)}
        lane = Lane("versions", version)
        answer = await triton.infer(lane, inputs, ["y"], timeout_s=TIMEOUT_S)
        assert answer["y"].tolist() == [[version, version]]
    assert not await triton.is_ready(Lane("versions", 2))


async def test_a_model_that_does_not_batch_takes_shapes_of_any_size(triton: Triton) -> None:
    shapes = [(1, 1), (3, 4), (2, 2)]
    answers = await asyncio.gather(
        *(
            triton.infer(
                Lane("unbatched", 1), {"x": np.ones(s, np.float32)}, ["sum"], timeout_s=TIMEOUT_S
            )
            for s in shapes
        )
    )
    assert [answer["sum"].tolist() for answer in answers] == [[1.0], [4.0] * 3, [2.0] * 2]


async def test_a_reshape_in_the_config_is_followed_both_ways(triton: Triton) -> None:
    inputs = {"x": np.array([[1.0], [2.0], [3.0]], np.float32)}
    answer = await triton.infer(Lane("scalars", 1), inputs, ["y"], timeout_s=TIMEOUT_S)
    assert answer["y"].tolist() == [[-1.0], [-2.0], [-3.0]]


async def test_the_options_of_the_container_s_backend_are_understood(triton: Triton) -> None:
    inputs = {"x": np.zeros((8, 2), np.float32)}
    answer = await triton.infer(Lane("tuned", 1), inputs, ["y"], timeout_s=TIMEOUT_S)
    assert answer["y"].tolist() == [[1.0, 1.0]] * 8


async def slices(triton: Triton, *x: int, outputs: tuple[str, ...]) -> list[list[Any]]:
    sent = {
        "x": np.array(x, np.int64).reshape(-1, 1),
        "text": np.array([[str(each).encode()] for each in x], np.object_),
    }
    answer = await triton.infer(Lane("sliced", 1), sent, outputs, timeout_s=TIMEOUT_S)
    return [answer[name].ravel().tolist() for name in outputs]


@pytest.mark.parametrize(
    ("rows", "together"),
    [(1, [1]), (3, [3] * 3), (4, [3, 3, 3, 1]), (8, [3, 3, 3, 3, 3, 3, 2, 2])],
)
async def test_rows_that_run_a_few_at_a_time_come_back_together_and_in_order(
    triton: Triton, rows: int, together: list[int]
) -> None:
    x = range(1, rows + 1)
    echo = [str(each).encode() for each in x]
    assert await slices(triton, *x, outputs=("together", "echo")) == [together, echo]


async def test_a_row_lost_in_one_slice_is_not_made_up_for_by_one_too_many_in_the_next(
    triton: Triton,
) -> None:
    with pytest.raises(BatchFailed, match=r"output 'copies' has shape \(2, 1\) for a batch of 3"):
        await slices(triton, 1, 1, 0, 1, 1, 2, outputs=("copies",))


async def test_a_config_that_contradicts_its_model_is_refused_with_the_contradiction(
    tmp_path: Path,
) -> None:
    expected = write_broken(tmp_path / "repository")
    write_adder(tmp_path / "repository" / "sound" / "1" / "model.onnx", 1)
    write_config(tmp_path / "repository" / "sound", onnx_models.ADDER_TENSORS)
    models = (*expected, "sound")
    server = services.triton(tmp_path / "triton", tmp_path / "repository", models)
    async with services.running_triton(server):
        reasons = await server.unready_models()
    assert reasons.keys() == expected.keys()  # a broken model does not stop the sound one
    for name, words in expected.items():
        assert words in reasons[name], reasons[name]


async def test_a_config_without_tensors_is_completed_from_the_model(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_adder(repository / "bare" / "1" / "model.onnx", 1)
    write_config(repository / "half", 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]')
    write_adder(repository / "half" / "1" / "model.onnx", 2)
    (repository / "bare" / "config.pbtxt").write_text('backend: "onnxruntime"')
    server = services.triton(tmp_path / "triton", repository, ("bare", "half"), auto_complete=True)
    triton = Triton(server.grpc_address)
    async with services.running_triton(server):
        assert await server.unready_models() == {}
        inputs = {"x": np.zeros((4, 2), np.float32)}
        for model, amount in (("bare", 1.0), ("half", 2.0)):
            answer = await triton.infer(Lane(model, 1), inputs, ["y"], timeout_s=TIMEOUT_S)
            assert answer["y"].tolist() == [[amount, amount]] * 4
        too_many = {"x": np.zeros((5, 2), np.float32)}  # 4 is the backend's own default
        with pytest.raises(ModelRejected, match="batch-size must be <= 4"):
            await triton.infer(Lane("bare", 1), too_many, ["y"], timeout_s=TIMEOUT_S)
        await triton.close()


@asynccontextmanager
async def counted(
    server: standalone_triton.Triton, model: str, *, rows: int
) -> AsyncIterator[list[int]]:
    """Append in how many batches `model` ran the `rows` of the block."""

    async def counts() -> tuple[int, int]:
        text = await services.fetch(f"{server.http_url}/v2/models/{model}/stats")
        stats = json.loads(text)["model_stats"][0]
        return int(stats["inference_count"]), int(stats["execution_count"])

    rows_before, executions_before = await counts()
    executions: list[int] = []
    yield executions
    async with asyncio.timeout(TIMEOUT_S):  # Triton counts after it has answered
        while (now := await counts())[0] < rows_before + rows:
            await asyncio.sleep(0.01)
    executions.append(now[1] - executions_before)
