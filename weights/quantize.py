"""Turns the fp32 EfficientNet-Lite0 graph into an int8 one (QDQ form) for CPUs with VNNI.

The ranges of the 60 activations were measured once, on 48 photographs, and are committed beside
this file: no calibration images, and no runtime, are needed to build. Activations are uint8 with
one scale each, weights int8 with one scale per output channel (U8S8, the form that is fast on
VNNI; without VNNI it may saturate, so fp32 is the one to use there).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from weights.errors import WrongWeights
from weights.graph import GraphWriter

Ranges = Mapping[str, tuple[float, float]]

RANGES_FILE = Path(__file__).with_name("efficientnet_lite0_ranges.json")

_UINT8_MAX = 255
_INT8_MAX = 127
_INT32_MAX = 2**31 - 1
_SMALLEST_WEIGHT = 1e-9  # keeps the scale of an all-zero channel above zero


@dataclass(frozen=True, slots=True)
class _Quantised:
    """An activation after quantisation: the float tensor to read, and how it was rounded."""

    tensor: str
    scale: np.float32
    zero: np.uint8


def read_ranges(path: Path = RANGES_FILE) -> Ranges:
    """The smallest and largest value of each activation, by its name in the fp32 graph."""
    return {name: (low, high) for name, (low, high) in json.loads(path.read_text()).items()}


def quantized(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Write the int8 graph of `model`, which `weights.efficientnet` wrote.

    Args:
        model: the fp32 graph; its input is already quantised (uint8 and DequantizeLinear).
        ranges: of every output of a convolution, sum, pool and fully connected layer.

    Raises:
        WrongWeights: the ranges were measured on another graph.
    """
    return _Quantizer(model.graph, ranges).build()


class _Quantizer:
    """Walks the fp32 nodes in order. `_quantised` maps each activation to what replaces it."""

    def __init__(self, graph: onnx.GraphProto, ranges: Ranges) -> None:
        self._source = graph
        self._constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
        self._ranges = dict(ranges)
        self._graph = GraphWriter()
        self._quantised: dict[str, _Quantised] = {}

    def build(self) -> onnx.ModelProto:
        clipped = {node.input[0]: node.output[0] for node in self._nodes("Clip")}
        for node in self._source.node:
            match node.op_type:
                case "DequantizeLinear":
                    self._image(node)
                case "Conv" | "Gemm":
                    # ReLU6 costs nothing: it is the saturation of the quantised output 0..6.
                    self._layer(node, clipped.get(node.output[0], node.output[0]))
                case "Clip":
                    pass
                case "Add" | "GlobalAveragePool":
                    self._quantise(self._copy(node))
                case "Flatten":
                    self._quantise(self._copy(node), like=node.input[0])
                case _:
                    self._copy(node)
        if self._ranges:
            raise WrongWeights(f"ranges of no activation: {', '.join(sorted(self._ranges)[:3])}")
        return self._graph.model(
            f"{self._source.name}_int8", list(self._source.input), list(self._source.output)
        )

    def _nodes(self, operator: str) -> list[onnx.NodeProto]:
        return [node for node in self._source.node if node.op_type == operator]

    def _image(self, node: onnx.NodeProto) -> None:
        """The image is bytes with a scale already: keep it, and remember the scale."""
        _, scale, zero = node.input
        self._graph.constant(scale, self._constants[scale], np.float32)
        self._graph.constant(zero, self._constants[zero], np.uint8)
        output = self._copy(node)
        self._quantised[output] = _Quantised(
            output, np.float32(self._constants[scale]), np.uint8(self._constants[zero])
        )

    def _layer(self, node: onnx.NodeProto, output: str) -> None:
        """A convolution or fully connected layer with int8 weights and int32 bias."""
        features, weight, bias = node.input
        source = self._quantised[features]
        scales = self._int8_weight(weight)
        self._int32_bias(bias, scales, source.scale)
        self._graph.node(node.op_type, [source.tensor, weight, bias], output, **_attributes(node))
        self._quantise(output)

    def _int8_weight(self, name: str) -> NDArray[np.float32]:
        """Store `name` as int8, symmetric, one scale per output channel; return the scales."""
        weight = self._constants[name].astype(np.float64)
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
        scales = np.asarray(np.maximum(largest, _SMALLEST_WEIGHT) / _INT8_MAX, np.float32)
        per_channel = scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        steps = np.clip(np.round(weight / per_channel), -_INT8_MAX, _INT8_MAX)
        self._dequantised_constant(name, steps, scales, np.int8)
        return scales

    def _int32_bias(self, name: str, scales: NDArray[np.float32], source: np.float32) -> None:
        """Store `name` in the unit the products are summed in: input scale times weight scale."""
        units = (scales.astype(np.float64) * np.float64(source)).astype(np.float32)
        steps = np.round(self._constants[name].astype(np.float64) / units.astype(np.float64))
        steps = np.clip(steps, -_INT32_MAX - 1, _INT32_MAX)
        self._dequantised_constant(name, steps, units, np.int32)

    def _dequantised_constant(
        self, name: str, steps: NDArray[Any], scales: NDArray[np.float32], dtype: Any
    ) -> None:
        graph = self._graph
        inputs = [
            graph.constant(f"{name}.steps", steps, dtype),
            graph.constant(f"{name}.scale", scales, np.float32),
            graph.constant(f"{name}.zero", np.zeros(len(scales)), dtype),
        ]
        graph.node("DequantizeLinear", inputs, name, axis=0)

    def _quantise(self, name: str, *, like: str = "") -> None:
        """Round activation `name` to uint8, by its own range or as `like` was rounded."""
        if like:
            scale, zero = self._quantised[like].scale, self._quantised[like].zero
        else:
            scale, zero = self._scale_and_zero(name)
        graph = self._graph
        parameters = [
            graph.constant(f"{name}.scale", scale, np.float32),
            graph.constant(f"{name}.zero", zero, np.uint8),
        ]
        steps = graph.node("QuantizeLinear", [name, *parameters], f"{name}.steps")
        tensor = graph.node("DequantizeLinear", [steps, *parameters], f"{name}.rounded")
        self._quantised[name] = _Quantised(tensor, scale, zero)

    def _scale_and_zero(self, name: str) -> tuple[np.float32, np.uint8]:
        """Spread the 256 steps over the range of `name`, with 0 on a step of its own."""
        try:
            low, high = self._ranges.pop(name)
        except KeyError:
            raise WrongWeights(f"no range was measured for activation {name}") from None
        low, high = min(low, 0.0), max(high, 0.0)
        if not 0.0 < high - low < np.inf:
            raise WrongWeights(f"the range of activation {name} is empty or not finite")
        scale = (high - low) / _UINT8_MAX
        return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, _UINT8_MAX))

    def _copy(self, node: onnx.NodeProto) -> str:
        """Repeat a node, reading the quantised form of each input that has one."""
        inputs = [
            self._quantised[name].tensor if name in self._quantised else name for name in node.input
        ]
        return self._graph.node(node.op_type, inputs, node.output[0], **_attributes(node))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
