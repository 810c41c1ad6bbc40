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


def write_poisonous(path: Path) -> None:
    """x int64[n, 1] -> y = -x; some values of x do what poisonous inputs do.

    CRASHES ends the process (SIGFPE: -x is too large for 64 bits). HANGS goes round a loop for
    years. DEVOURS asks for 4 GB of memory. RAISES looks up what is not there. LOSES_ROWS is left
    out of the answer.
    """

    def constant(name: str, *values: int) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    def node(kind: str, inputs: str, output: str, **options: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **options)

    def where(condition: str, amount: str, output: str) -> list[onnx.NodeProto]:
        """The largest `amount` of the rows for which `condition` holds; 0 where it never does."""
        return [
            node("Cast", condition, f"{output}_cast", to=TensorProto.INT64),
            node("Mul", f"{amount} {output}_cast", f"{output}_each"),
            node("ReduceMax", f"{output}_each", output, keepdims=0),
        ]

    body = helper.make_graph(
        [node("Identity", "go_on", "on"), node("Add", "before one_inside", "after")],
        "body",
        [
            tensor("round", TensorProto.INT64, []),
            tensor("go_on", TensorProto.BOOL, []),
            tensor("before", TensorProto.INT64, [1]),
        ],
        [tensor("on", TensorProto.BOOL, []), tensor("after", TensorProto.INT64, [1])],
        [constant("one_inside", 1)],
    )
    nodes = [
        node("Div", "x minus_one", "quotient"),
        node("Greater", "x many", "hangs"),
        *where("hangs", "x", "rounds"),
        node("Loop", "rounds true zero", "looped", body=body),
        node("Neg", "x", "negative"),
        node("Greater", "negative many", "devours"),
        *where("devours", "negative", "bytes"),
        node("Reshape", "bytes one", "size"),
        node("ConstantOfShape", "size", "devoured"),
        node("ReduceSum", "devoured", "nothing", keepdims=1),
        node("Cast", "nothing", "zeros", to=TensorProto.INT64),
        node("Equal", "x raises", "is_raising"),
        *where("is_raising", "x", "place"),
        node("Gather", "table place", "found"),
        node("Mul", "looped zero", "loop_zero"),
        node("Add", "quotient loop_zero", "a"),
        node("Add", "a zeros", "b"),
        node("Add", "b found", "c"),
        node("Equal", "x loses", "is_losing"),
        node("Not", "is_losing", "is_kept"),
        node("Reshape", "is_kept minus_one", "kept"),
        node("Compress", "c kept", "y", axis=0),
    ]  # fmt: skip
    write_onnx(
        path,
        nodes,
        [tensor("x", TensorProto.INT64, ["n", 1])],
        [tensor("y", TensorProto.INT64, ["m", 1])],
        [
            constant("many", 10**6),
            constant("one", 1),
            constant("minus_one", -1),
            constant("zero", 0),
            constant("table", 0),
            constant("raises", RAISES),
            constant("loses", LOSES_ROWS),
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
