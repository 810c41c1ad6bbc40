"""A small writer of ONNX graphs: what every model built here shares.

Opset and IR version are pinned to what older servers read; equal graphs have equal bytes.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # onnx's default is newer than what the onnxruntime of older containers reads


class GraphWriter:
    """Collects nodes in the order they run, and the constants they use."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        """Add a constant, unless one of that name is there, and return its name."""
        if name not in self._constants:
            # `asarray` keeps a scalar a scalar; `ascontiguousarray` would give it a dimension,
            # which onnxruntime refuses for scales and zero points.
            array: NDArray[Any] = np.asarray(value, dtype=dtype, order="C")
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, named like that output, and return the output's name."""
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished model, checked by onnx: every name defined, every type and shape fitting."""
        constants = list(self._constants.values())
        model = helper.make_model(
            helper.make_graph(self._nodes, name, inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tritonq",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def serialized(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
