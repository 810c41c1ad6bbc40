"""Tiny ONNX models, and the entries of a model repository around them, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

OPSET = 17
IR_VERSION = 9  # the oldest that has it all: any ONNX Runtime reads it

Shape = Sequence[int | str | None]


def tensor(name: str, datatype: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, datatype, shape)


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> None:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def write_adder(path: Path, amount: float) -> None:
    """x float[n, 2] -> y = x + amount."""
    constant = helper.make_tensor("amount", TensorProto.FLOAT, [1], [amount])
    write_onnx(
        path,
        [helper.make_node("Add", ["x", "amount"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n", 2])],
        [tensor("y", TensorProto.FLOAT, ["n", 2])],
        [constant],
    )


ADDER_TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def write_config(folder: Path, text: str, *, max_batch_size: int = 8, instances: int = 1) -> None:
    """A config.pbtxt of the onnxruntime backend, on the CPU, with `text` added."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]\n{text}"
    )


# Inputs of `write_poisonous` that it does not answer.
CRASHES, HANGS, DEVOURS, RAISES, LOSES_ROWS = -(2**63), 10**13, -(10**9), 13, 17


def _constant(name: str, *values: int) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _node(kind: str, inputs: str, output: str, **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **options)


def _largest_where(condition: str, amount: str, output: str) -> list[onnx.NodeProto]:
    """The largest `amount` of the rows for which `condition` holds; 0 where it never does."""
    return [
        _node("Cast", condition, f"{output}_cast", to=TensorProto.INT64),
        _node("Mul", f"{amount} {output}_cast", f"{output}_each"),
        _node("ReduceMax", f"{output}_each", output, keepdims=0),
    ]


def write_poisonous(path: Path) -> None:
    """x int64[n, 1] -> y = -x; some values of x do what poisonous inputs do.

    CRASHES ends the process (SIGFPE: -x is too large for 64 bits). HANGS goes round a loop for
    years. DEVOURS asks for 4 GB of memory. RAISES looks up what is not there. LOSES_ROWS is left
    out of the answer.
    """

    body = helper.make_graph(
        [_node("Identity", "go_on", "on"), _node("Add", "before one_inside", "after")],
        "body",
        [
            tensor("round", TensorProto.INT64, []),
            tensor("go_on", TensorProto.BOOL, []),
            tensor("before", TensorProto.INT64, [1]),
        ],
        [tensor("on", TensorProto.BOOL, []), tensor("after", TensorProto.INT64, [1])],
        [_constant("one_inside", 1)],
    )
    nodes = [
        _node("Div", "x minus_one", "quotient"),
        _node("Greater", "x many", "hangs"),
        *_largest_where("hangs", "x", "rounds"),
        _node("Loop", "rounds true zero", "looped", body=body),
        _node("Neg", "x", "negative"),
        _node("Greater", "negative many", "devours"),
        *_largest_where("devours", "negative", "bytes"),
        _node("Reshape", "bytes one", "size"),
        _node("ConstantOfShape", "size", "devoured"),
        _node("ReduceSum", "devoured", "nothing", keepdims=1),
        _node("Cast", "nothing", "zeros", to=TensorProto.INT64),
        _node("Equal", "x raises", "is_raising"),
        *_largest_where("is_raising", "x", "place"),
        _node("Gather", "table place", "found"),
        _node("Mul", "looped zero", "loop_zero"),
        _node("Add", "quotient loop_zero", "a"),
        _node("Add", "a zeros", "b"),
        _node("Add", "b found", "c"),
        _node("Equal", "x loses", "is_losing"),
        _node("Not", "is_losing", "is_kept"),
        _node("Reshape", "is_kept minus_one", "kept"),
        _node("Compress", "c kept", "y", axis=0),
    ]  # fmt: skip
    write_onnx(
        path,
        nodes,
        [tensor("x", TensorProto.INT64, ["n", 1])],
        [tensor("y", TensorProto.INT64, ["m", 1])],
        [
            _constant("many", 10**6),
            _constant("one", 1),
            _constant("minus_one", -1),
            _constant("zero", 0),
            _constant("table", 0),
            _constant("raises", RAISES),
            _constant("loses", LOSES_ROWS),
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        ],
    )


POISONOUS_TENSORS = """
input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] } ]
dynamic_batching {}
"""


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
