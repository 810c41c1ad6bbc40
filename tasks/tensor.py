"""tensor: a model's own tensors in and out, as JSON. The task of every model that names no other.

An input field is a tensor of the same name: nested lists of numbers, booleans or strings; a single
value where the tensor may have one element; a file where it is BYTES (the file is the element) or
UINT8 (the file is the elements). The output is an object with a field for each output tensor.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contract.catalog import Model, Tensor
from contract.prediction import JSON
from tasks import fields
from tasks.base import Input, Tensors
from tasks.tensor_values import DTYPES, dims_text, from_file, from_json, to_json, wrong

_EXAMPLE_ELEMENTS_MAX = 64  # a longer example helps nobody


class TensorTask:
    """Serves any model whose tensors have a JSON form."""

    name: ClassVar[str] = "tensor"
    main_file: ClassVar[str | None] = None

    def check_model(self, model: Model) -> None:
        for tensor in (*model.inputs, *model.outputs):
            if tensor.datatype not in DTYPES:
                raise ValueError(
                    f"{self.name} cannot carry {tensor.datatype}, "
                    f"which {tensor.name} of {model.name} is"
                )

    def check(self, model: Model, given: Input) -> None:
        self.encode(model, given)

    def encode(self, model: Model, given: Input) -> Tensors:
        fields.refuse_unknown(given, [tensor.name for tensor in model.inputs])
        return {tensor.name: _read(tensor, given) for tensor in model.inputs}

    def decode(self, model: Model, given: Input, outputs: Mapping[str, NDArray[Any]]) -> JSON:
        return {tensor.name: to_json(tensor, outputs[tensor.name]) for tensor in model.outputs}

    def input_schema(self, model: Model) -> dict[str, JSON]:
        return {"title": "Input", **_object_schema(model.inputs), "additionalProperties": False}

    def output_schema(self, model: Model) -> dict[str, JSON]:
        return {"title": "Output", **_object_schema(model.outputs)}


def _read(tensor: Tensor, given: Input) -> NDArray[Any]:
    if tensor.name in given.files:
        return from_file(tensor, fields.required_file(given, tensor.name))
    if tensor.name not in given.input:
        raise wrong(tensor, "is missing", "required")
    return from_json(tensor, given.input[tensor.name])


def _object_schema(tensors: tuple[Tensor, ...]) -> dict[str, JSON]:
    schema: dict[str, JSON] = {
        "type": "object",
        "required": [tensor.name for tensor in tensors],
        "properties": {
            tensor.name: {
                "title": tensor.name,
                "description": f"{tensor.datatype} {dims_text(tensor)}",
                "x-order": order,
                **_tensor_schema(tensor),
            }
            for order, tensor in enumerate(tensors)
        },
    }
    if all(_elements(tensor) <= _EXAMPLE_ELEMENTS_MAX for tensor in tensors):
        schema["examples"] = [{tensor.name: _example(tensor) for tensor in tensors}]
    return schema


def _tensor_schema(tensor: Tensor) -> dict[str, JSON]:
    schema = element = _element_schema(tensor.datatype)
    for size in reversed(tensor.dims):
        schema = {"type": "array", "items": schema, "minItems": max(size, 1)}
        if size != -1:
            schema["maxItems"] = size
    if _elements(tensor) != 1:
        return schema
    return {"anyOf": [element, schema]}  # a single value stands for a list of one


def _element_schema(datatype: str) -> dict[str, JSON]:
    dtype = DTYPES[datatype]
    match dtype.kind:
        case "b":
            return {"type": "boolean"}
        case "f":
            return {"type": "number"}
        case "O":
            return {"type": "string"}
        case _:
            limits = np.iinfo(dtype)
            return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}


def _example(tensor: Tensor) -> JSON:
    example: JSON = {"b": True, "f": 0.5, "O": "hello"}.get(DTYPES[tensor.datatype].kind, 1)
    for size in reversed(tensor.dims):
        example = [example] * max(size, 1)
    return example


def _elements(tensor: Tensor) -> int:
    """How many elements there are at least: a size left open counts as one."""
    return math.prod(max(size, 1) for size in tensor.dims)
