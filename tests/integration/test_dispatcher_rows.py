"""Rows that a real model refuses, among rows that it does not."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from broker import Broker
from contract.prediction import Outcome, Ticket
from ledger import Ledger
from standalone.server import running
from tests import services
from tests.dispatching import House, dispatching
from tests.tickets import fresh_id

pytestmark = pytest.mark.triton

WORDS = 10  # `lookup` has an answer for each of these, and fails for any other

LOOKUP = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "index" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
ANY_SIZE = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
RECIPROCAL = ANY_SIZE  # 1 / 0 is infinite, which has no form in JSON
ONE_AT_A_TIME = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
SWELLING = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "size" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""  # answers with as many zeros as it is asked for


def _save(folder: Path, config: str, graph: onnx.GraphProto) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "1" / "model.onnx")


def _tensor(name: str, kind: int, *dims: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def _build(repository: Path) -> Path:
    table = helper.make_tensor("table", TensorProto.FLOAT, [WORDS], [n * 1.5 for n in range(WORDS)])
    _save(
        repository / "lookup",
        LOOKUP,
        helper.make_graph(
            [helper.make_node("Gather", ["table", "index"], ["value"])],
            "lookup",
            [_tensor("index", TensorProto.INT64, "n", 1)],
            [_tensor("value", TensorProto.FLOAT, "n", 1)],
            [table],
        ),
    )
    for name, config, operator, dims in (
        ("any_size", ANY_SIZE, "Neg", ("n", "size")),
        ("reciprocal", RECIPROCAL, "Reciprocal", ("n", "size")),
        ("one_at_a_time", ONE_AT_A_TIME, "Neg", ("size",)),
    ):
        _save(
            repository / name,
            config,
            helper.make_graph(
                [helper.make_node(operator, ["x"], ["y"])],
                name,
                [_tensor("x", TensorProto.FLOAT, *dims)],
                [_tensor("y", TensorProto.FLOAT, *dims)],
            ),
        )
    _save(
        repository / "swelling",
        SWELLING,
        helper.make_graph(
            [helper.make_node("ConstantOfShape", ["size"], ["y"])],
            "swelling",
            [_tensor("size", TensorProto.INT64, 1)],
            [_tensor("y", TensorProto.FLOAT, "size")],
        ),
    )
    return repository


MODELS = ("lookup", "any_size", "reciprocal", "one_at_a_time", "swelling")


@pytest.fixture(scope="module")
async def picky(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Path, str]]:
    """A repository of models that are easily offended, and the address of its Triton."""
    repository = _build(tmp_path_factory.mktemp("picky"))
    triton = services.triton(tmp_path_factory.mktemp("picky_triton"), repository)
    async with running(triton):
        yield repository, triton.grpc_address


@pytest.fixture
async def house(
    nats_server: services.NatsAddress,
    namespace: str,
    ledger_dsn: str,
    picky: tuple[Path, str],
    tmp_path: Path,
    broker: Broker,
    ledger: Ledger,
) -> House:
    await broker.declare(MODELS)
    repository, address = picky
    house = House(nats_server, namespace, ledger_dsn, address, tmp_path, broker, ledger)
    house = replace(house, repository=repository, models=MODELS)
    return house.with_limits(execution=replace(house.limits.execution, attempts_max=2))


def results(outcomes: list[Outcome]) -> list[object]:
    """What each gave, or the code of its error."""
    return [it.error.code if it.error else json.loads(it.output or b"") for it in outcomes]


async def ran(house: House, model: str, inputs: list[dict[str, object]]) -> list[object]:
    """The inputs wait together, so that they run in one batch."""
    ids = await house.accept(Ticket(fresh_id(), model, 1, each) for each in inputs)
    async with dispatching(house):
        return results(await house.outcomes(ids))


async def test_a_row_the_model_fails_on_fails_alone(house: House) -> None:
    indices = [0, 1, 2, 99, 4, 5, 6, 7, 8, 9, 3, 99, 1]
    assert await ran(house, "lookup", [{"index": n} for n in indices]) == [
        {"value": [n * 1.5]} if n < WORDS else "inference_failed" for n in indices
    ]


async def test_rows_of_different_shapes_are_all_answered(house: House) -> None:
    rows = [[1.0], [1.0, 2.0], [3.0], [1.0, 2.0, 3.0], [4.0, 5.0]]
    assert await ran(house, "any_size", [{"x": row} for row in rows]) == [
        {"y": [-x for x in row]} for row in rows
    ]


async def test_an_output_without_a_form_in_json_fails_alone(house: House) -> None:
    rows = [[1.0], [0.0], [4.0]]
    assert await ran(house, "reciprocal", [{"x": row} for row in rows]) == [
        {"y": [1.0]},
        "unusable_output",
        {"y": [0.25]},
    ]


async def test_a_row_the_model_fails_on_is_tried_again_before_it_fails(house: House) -> None:
    ids = await house.accept(Ticket(fresh_id(), "lookup", 1, {"index": n}) for n in (1, 99))
    async with dispatching(house):
        outcomes = await house.outcomes(ids)
    assert [it.attempts for it in outcomes] == [1, 2]


async def test_an_output_too_large_to_keep_fails_alone_with_the_reason(house: House) -> None:
    """200 MB are not read at all; 12 MB are read, and nothing is made of them."""
    sizes = [3, 200_000_000 // 4, 3_000_000, 2]
    ids = await house.accept(Ticket(fresh_id(), "swelling", 1, {"size": n}) for n in sizes)
    async with dispatching(house):
        outcomes = await house.outcomes(ids)
    ok = [{"y": [0.0] * 3}, "unusable_output", "unusable_output", {"y": [0.0] * 2}]
    assert results(outcomes) == ok
    first, second = [it.error.message for it in outcomes if it.error]
    assert "at most 67108864 are read" in first
    assert "at most 8388608 are kept" in second
    assert {it.attempts for it in outcomes} == {1}


async def test_a_model_that_does_not_batch_is_asked_one_at_a_time(house: House) -> None:
    rows = [[1.0], [2.0, 3.0], [4.0]]
    assert await ran(house, "one_at_a_time", [{"x": row} for row in rows]) == [
        {"y": [-x for x in row]} for row in rows
    ]
