"""image-classification: a photograph in, its likeliest classes out."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contract.catalog import Model
from contract.errors import UnusableOutput
from contract.prediction import JSON
from tasks import fields, images
from tasks.base import Input, Tensors

TOP_K_DEFAULT = 5
TOP_K_MAX = 1000

# 8 x 8 pixels of one colour: a whole image that fits on a line.
_EXAMPLE_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM80uPBgA0wMeAAg1MCAEMjAajd4yS3"
    "AAAAAElFTkSuQmCC"
)


class ImageClassification:
    """Serves models from one uint8[side, side, 3] (RGB) to one float[classes] of probabilities."""

    name: ClassVar[str] = "image-classification"
    main_file: ClassVar[str | None] = "image"

    def check_model(self, model: Model) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(f"{self.name} needs one input and one output, unlike {model.name}")
        image, scores = model.inputs[0], model.outputs[0]
        height, width, channels = image.dims if len(image.dims) == 3 else (0, 0, 0)
        if image.datatype != "UINT8" or channels != 3 or height != width or height < 1:
            raise ValueError(
                f"{self.name} needs an input of UINT8 [side, side, 3]; "
                f"{image.name} of {model.name} is {image.datatype} {list(image.dims)}"
            )
        if scores.datatype not in {"FP32", "FP16"} or len(scores.dims) != 1 or scores.dims[0] < 1:
            raise ValueError(
                f"{self.name} needs an output of FP32 or FP16 [classes]; "
                f"{scores.name} of {model.name} is {scores.datatype} {list(scores.dims)}"
            )
        if len(scores.labels) != scores.dims[0]:
            raise ValueError(
                f"{self.name} needs a label for each of the {scores.dims[0]} classes of "
                f"{model.name}; label_filename has {len(scores.labels)}"
            )

    def check(self, model: Model, given: Input) -> None:
        fields.refuse_unknown(given, ("image", "top_k"))
        _top_k(given)
        file = fields.required_file(given, "image")
        images.check_image(fields.content_of(file), fields.path_of("image"))

    def encode(self, model: Model, given: Input) -> Tensors:
        (image,) = model.inputs
        content = fields.content_of(fields.required_file(given, "image"))
        return {image.name: images.square_image(content, image.dims[0], fields.path_of("image"))}

    def decode(self, model: Model, given: Input, outputs: Mapping[str, NDArray[Any]]) -> JSON:
        (output,) = model.outputs
        scores = outputs[output.name]
        if scores.shape != output.dims:
            raise UnusableOutput(f"{model.name} answered {list(scores.shape)} instead of scores")
        if not np.isfinite(scores).all():
            raise UnusableOutput(f"{model.name} answered scores that are not finite numbers")
        best_first = _best_first(scores, _top_k(given))
        return [
            {"label": output.labels[index], "index": int(index), "score": _shortest(scores[index])}
            for index in best_first
        ]

    def input_schema(self, model: Model) -> dict[str, JSON]:
        return {
            "type": "object",
            "title": "Input",
            "required": ["image"],
            "additionalProperties": False,
            "properties": {
                "image": {
                    "type": "string",
                    "format": "uri",
                    "title": "Image",
                    "description": f"The image, as a data URI. One of {', '.join(images.FORMATS)}.",
                    "x-order": 0,
                },
                "top_k": {
                    "type": "integer",
                    "title": "Top K",
                    "description": "How many classes to return, the likeliest first.",
                    "minimum": 1,
                    "maximum": TOP_K_MAX,
                    "default": TOP_K_DEFAULT,
                    "x-order": 1,
                },
            },
            "examples": [{"image": _EXAMPLE_IMAGE, "top_k": 3}],
        }

    def output_schema(self, model: Model) -> dict[str, JSON]:
        (output,) = model.outputs
        (classes,) = output.dims
        one = {
            "type": "object",
            "required": ["label", "index", "score"],
            "properties": {
                "label": {"type": "string", "description": "Name of the class; may occur twice."},
                "index": {"type": "integer", "minimum": 0, "maximum": classes - 1},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
            },
        }
        label = output.labels[0]
        return {
            "type": "array",
            "title": "Output",
            "description": "Classes by falling score.",
            "items": one,
            "examples": [[{"label": label, "index": 0, "score": 0.75}]],
        }


def _top_k(given: Input) -> int:
    return fields.integer(given, "top_k", default=TOP_K_DEFAULT, least=1, most=TOP_K_MAX)


def _best_first(scores: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The places of the highest scores; of equal ones the first.

    Sorts no more than it must: 10 us for 5 of 1,000, where sorting them all takes 50.
    """
    count = min(count, len(scores))
    least = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def _shortest(score: np.floating[Any]) -> float:
    """The number with the fewest digits that is still the same float32: 0.1, not 0.1000000015."""
    return float(str(score))
