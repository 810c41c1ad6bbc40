"""A model that returns its text unchanged: what it costs is what the way there and back costs."""

import onnx
from onnx import TensorProto, helper

from weights.graph import GraphWriter

INPUT, OUTPUT = "INPUT0", "OUTPUT0"  # the names NVIDIA's own identity examples use


def identity() -> onnx.ModelProto:
    """A model from `INPUT0` string[batch, 1] to the same `OUTPUT0` string[batch, 1]."""
    graph = GraphWriter()
    graph.node("Identity", [INPUT], OUTPUT)
    return graph.model(
        "identity",
        [helper.make_tensor_value_info(INPUT, TensorProto.STRING, ["batch", 1])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.STRING, ["batch", 1])],
    )
