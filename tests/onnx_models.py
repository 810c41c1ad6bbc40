"""Tiny ONNX models, and the entries of a model repository around them, for tests."""

from collections.abc import Sequence
from pathlib import Path

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


def write_config(folder: Path, text: str, *, max_batch_size: int = 8) -> None:
    """A config.pbtxt of the onnxruntime backend, one instance on the CPU, with `text` added."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        f"instance_group [ {{ count: 1 kind: KIND_CPU }} ]\n{text}"
    )
