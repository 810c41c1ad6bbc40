"""EfficientNet-Lite0 as an ONNX graph: RGB bytes in, class probabilities out.

Batch normalisation is folded into the convolutions. The normalisation of the image is a
DequantizeLinear, so that in the int8 graph (`weights.quantize`) the image is a quantised tensor
as it stands.

Source: Tan & Le 2019, "EfficientNet" (arXiv:1905.11946), table 1; the Lite variant (no
squeeze-and-excitation, ReLU6, fixed stem and head) as published with the TPU reference models.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from weights.errors import WrongWeights
from weights.graph import GraphWriter
from weights.legacy_checkpoint import Weights

IMAGE_SIZE = 224
CLASSES = 1000
IMAGE, PROBABILITIES = "image", "probabilities"

# (byte - 127) / 128, and not ImageNet's mean and deviation: these weights were trained with it
# (.842 against .753 top-1 on 146 labelled photographs).
_PIXEL_ZERO = 127
_PIXEL_SCALE = 1 / 128
_BATCH_NORM_EPSILON = 1e-3
_UNUSED_SUFFIX = ".num_batches_tracked"  # torch counts training steps; inference needs none


@dataclass(frozen=True, slots=True)
class _Stage:
    """A run of inverted residual blocks; only the first of them strides and widens."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels_in: int
    channels_out: int


_STAGES = (
    _Stage(1, 3, 1, 1, 32, 16),
    _Stage(2, 3, 2, 6, 16, 24),
    _Stage(2, 5, 2, 6, 24, 40),
    _Stage(3, 3, 2, 6, 40, 80),
    _Stage(3, 5, 1, 6, 80, 112),
    _Stage(4, 5, 2, 6, 112, 192),
    _Stage(1, 3, 1, 6, 192, 320),
)


def efficientnet_lite0(weights: Weights) -> onnx.ModelProto:
    """Write the fp32 graph.

    Args:
        weights: the state dict of `efficientnet_lite0_pytorch`.

    Returns:
        A model from `image` uint8[batch, 224, 224, 3] (RGB) to `probabilities`
        float32[batch, 1000], in the order of the ILSVRC synsets.

    Raises:
        WrongWeights: a tensor is missing, or one is left over: another variant's weights.
    """
    return _Builder(weights).build()


class _Builder:
    """Walks the network once. `_side` is the height and width of the newest feature map."""

    def __init__(self, weights: Weights) -> None:
        self._unused = {k: v for k, v in weights.items() if not k.endswith(_UNUSED_SUFFIX)}
        self._graph = GraphWriter()
        self._side = IMAGE_SIZE

    def build(self) -> onnx.ModelProto:
        features = self._convolution(
            self._normalised_image(), "stem", "_conv_stem", "_bn0", kernel=3, stride=2
        )
        index = 0
        for stage in _STAGES:
            for repeat in range(stage.blocks):
                features = self._block(features, index, stage, is_first=repeat == 0)
                index += 1
        features = self._convolution(features, "head", "_conv_head", "_bn1")
        self._classifier(features)
        if self._unused:
            raise WrongWeights(f"these weights fit no EfficientNet-Lite0: {_some(self._unused)}")
        return self._graph.model(
            "efficientnet_lite0",
            [
                helper.make_tensor_value_info(
                    IMAGE, TensorProto.UINT8, ["batch", IMAGE_SIZE, IMAGE_SIZE, 3]
                )
            ],
            [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", CLASSES])],
        )

    def _normalised_image(self) -> str:
        graph = self._graph
        planes = graph.node("Transpose", [IMAGE], "image.planes", perm=[0, 3, 1, 2])
        scale = graph.constant("image.scale", _PIXEL_SCALE, np.float32)
        zero = graph.constant("image.zero", _PIXEL_ZERO, np.uint8)
        return graph.node("DequantizeLinear", [planes, scale, zero], "image.normalised")

    def _block(self, features: str, index: int, stage: _Stage, *, is_first: bool) -> str:
        """An inverted residual block: widen, filter each channel alone, narrow, add."""
        theirs, ours = f"_blocks.{index}.", f"block{index}."
        channels_in = stage.channels_in if is_first else stage.channels_out
        stride = stage.stride if is_first else 1
        inside = features
        if stage.expansion != 1:
            inside = self._convolution(
                inside, ours + "expand", theirs + "_expand_conv", theirs + "_bn0"
            )
        inside = self._convolution(
            inside,
            ours + "depthwise",
            theirs + "_depthwise_conv",
            theirs + "_bn1",
            kernel=stage.kernel,
            stride=stride,
        )
        inside = self._convolution(
            inside, ours + "project", theirs + "_project_conv", theirs + "_bn2", relu6=False
        )
        if stride != 1 or channels_in != stage.channels_out:
            return inside
        return self._graph.node("Add", [inside, features], ours + "sum")

    def _convolution(
        self,
        features: str,
        name: str,
        weight: str,
        batch_norm: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        relu6: bool = True,
    ) -> str:
        """A convolution with its batch normalisation folded in, and ReLU6 unless told otherwise."""
        kernels, bias = self._folded(weight, batch_norm)
        channels_out, channels_per_group, height, width = kernels.shape
        if (height, width) != (kernel, kernel):
            raise WrongWeights(f"{weight} is {height}x{width}, not {kernel}x{kernel}")
        graph = self._graph
        out = graph.node(
            "Conv",
            [
                features,
                graph.constant(f"{name}.weight", kernels, np.float32),
                graph.constant(f"{name}.bias", bias, np.float32),
            ],
            f"{name}.out",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            group=channels_out if channels_per_group == 1 else 1,  # depthwise, or an ordinary one
            pads=self._same_padding(kernel, stride),
        )
        self._side = -(-self._side // stride)
        if not relu6:
            return out
        bounds = [graph.constant("relu6.min", 0, np.float32)]
        bounds.append(graph.constant("relu6.max", 6, np.float32))
        return graph.node("Clip", [out, *bounds], f"{name}.relu6")

    def _folded(self, weight: str, batch_norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Kernels and bias of a convolution followed by batch normalisation, in float64."""
        gamma, beta = self._take(f"{batch_norm}.weight"), self._take(f"{batch_norm}.bias")
        mean = self._take(f"{batch_norm}.running_mean")
        variance = self._take(f"{batch_norm}.running_var")
        scale = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
        kernels = self._take(f"{weight}.weight") * scale[:, None, None, None]
        return kernels, beta - mean * scale

    def _same_padding(self, kernel: int, stride: int) -> list[int]:
        """TensorFlow's SAME padding: with stride 2 on an even size the odd pixel goes last."""
        side_out = -(-self._side // stride)
        missing = max((side_out - 1) * stride + kernel - self._side, 0)
        before, after = missing // 2, missing - missing // 2
        return [before, before, after, after]

    def _classifier(self, features: str) -> None:
        graph = self._graph
        pooled = graph.node("GlobalAveragePool", [features], "pooled")
        flat = graph.node("Flatten", [pooled], "features", axis=1)
        weight = graph.constant("classifier.weight", self._take("_fc.weight"), np.float32)
        bias = graph.constant("classifier.bias", self._take("_fc.bias"), np.float32)
        logits = graph.node("Gemm", [flat, weight, bias], "logits", transB=1)
        graph.node("Softmax", [logits], PROBABILITIES, axis=1)

    def _take(self, name: str) -> NDArray[np.float64]:
        try:
            return self._unused.pop(name).astype(np.float64)
        except KeyError:
            raise WrongWeights(f"the weights hold no tensor named {name}") from None


def _some(names: Weights) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{len(names)} tensors are left over, among them {shown}"
