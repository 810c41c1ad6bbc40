"""JSON values to a model's tensors and back, strictly: nothing is rounded, wrapped or guessed."""

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.catalog import Tensor
from contract.errors import InvalidInput, UnusableOutput
from contract.limits import OUTPUT_BYTES_MAX
from contract.prediction import JSON, File
from tasks import fields

BYTES = "BYTES"
# BF16 is missing: numpy has no such type.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    BYTES: np.dtype(np.object_),
}
# By numpy's kind of the tensor: what JSON may hold for it, and how to say so. `bool` is no number.
# A comma, and of each kind of number the shortest there is: 0.0, 0, true.
_ELEMENT_BYTES_LEAST = {"f": 4, "i": 2, "u": 2, "b": 5}

_ACCEPTED: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "booleans"),
    "u": (frozenset({int}), "whole numbers"),
    "i": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def from_json(tensor: Tensor, value: JSON) -> NDArray[Any]:
    """Read nested lists, or a single value where the tensor may have one element.

    Returns:
        An array of the tensor's dtype and a shape its dims allow; BYTES as an object array of
        bytes.

    Raises:
        InvalidInput: not of this shape, of another type, or out of the type's range.
    """
    array = _cast(tensor, _regular(tensor, value))
    if array.ndim == 0:
        return array.reshape(_shape_of_one(tensor))
    if not _fits(array.shape, tensor.dims):
        raise wrong(tensor, f"is {list(array.shape)} instead of {dims_text(tensor)}", "shape")
    return array


def from_file(tensor: Tensor, file: File) -> NDArray[Any]:
    """Read a file: the one element of a BYTES tensor, or the elements of a UINT8 tensor.

    Raises:
        InvalidInput: the tensor is of another type, or of another size than the file.
    """
    content = fields.content_of(file)
    if tensor.datatype == BYTES:
        element = np.empty(1, dtype=np.object_)
        element[0] = content
        return element.reshape(_shape_of_one(tensor))
    if tensor.datatype != "UINT8":
        raise wrong(tensor, f"is {tensor.datatype}, which a file cannot be", "file")
    try:
        return np.frombuffer(content, np.uint8).reshape(tensor.dims)
    except ValueError:  # too many or too few bytes, or more than one size left open
        reason = f"cannot be {dims_text(tensor)} with {len(content)} bytes"
        raise wrong(tensor, reason, "shape") from None


def to_json(tensor: Tensor, array: NDArray[Any]) -> JSON:
    """Write an array as nested lists; BYTES as text where it is text, or else as a data URI.

    Raises:
        UnusableOutput: NaN, infinity, a shape that the tensor's dims do not allow, or more than an
            output may hold.
    """
    if not _fits(array.shape, tensor.dims):
        raise UnusableOutput(f"{tensor.name} is {list(array.shape)}, not {dims_text(tensor)}")
    # As Python objects it would take eight times its size, and hold everything else up.
    if (least := _json_bytes_least(array)) > OUTPUT_BYTES_MAX:
        raise UnusableOutput(
            f"{tensor.name} is {list(array.shape)}, at least {least} bytes of JSON;"
            f" at most {OUTPUT_BYTES_MAX} are kept"
        )
    if tensor.datatype == BYTES:
        return _texts(array.tolist())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnusableOutput(f"{tensor.name} holds NaN or infinity, which JSON cannot")
    return array.tolist()


def _json_bytes_least(array: NDArray[Any]) -> int:
    """What its JSON takes at the very least, commas and brackets included."""
    if array.dtype.kind == "O":
        least = sum(map(len, array.flat)) + 3 * array.size
    else:
        least = _ELEMENT_BYTES_LEAST[array.dtype.kind] * array.size
    if array.ndim < 2:
        return least
    # Without elements there may still be lists.
    return max(least, *(3 * math.prod(array.shape[:axis]) for axis in range(1, array.ndim)))


def dims_text(tensor: Tensor) -> str:
    """The dims as people write them: `[any, 3]`."""
    return "[" + ", ".join("any" if size == -1 else str(size) for size in tensor.dims) + "]"


def wrong(tensor: Tensor, what: str, rule: str) -> InvalidInput:
    return InvalidInput(f"{tensor.name} {what}", field=fields.path_of(tensor.name), rule=rule)


def _regular(tensor: Tensor, value: JSON) -> NDArray[Any]:
    """The values as an array of Python objects, all of a type the tensor accepts."""
    # As objects: numpy's own choice of a type would round, wrap, and make every element as long as
    # the longest string among them.
    array = np.array(value, dtype=np.object_)
    if array.ndim not in (0, len(tensor.dims)):
        reason = f"has {array.ndim} dimensions instead of {dims_text(tensor)}"
        raise wrong(tensor, reason, "shape")
    found = set(map(type, array.flat))
    if not found:
        raise wrong(tensor, "holds no element", "not_empty")
    if list in found:
        raise wrong(tensor, "has lists of unequal length or depth", "shape")
    accepted, described = _ACCEPTED[DTYPES[tensor.datatype].kind]
    if not found <= accepted:
        raise wrong(tensor, f"must hold {described} ({tensor.datatype})", "type")
    return array


def _cast(tensor: Tensor, array: NDArray[Any]) -> NDArray[Any]:
    dtype = DTYPES[tensor.datatype]
    match dtype.kind:
        case "O":
            return _encoded(tensor, array)
        case "f":
            try:
                with np.errstate(over="ignore"):
                    cast: NDArray[Any] = array.astype(dtype)
            except OverflowError:  # a whole number beyond any float
                raise _out_of_range(tensor) from None
            if not np.isfinite(cast).all():
                raise _out_of_range(tensor)
            return cast
        case "i" | "u":
            limits = np.iinfo(dtype)
            if min(array.flat) < limits.min or max(array.flat) > limits.max:
                raise _out_of_range(tensor)
    return array.astype(dtype)


def _encoded(tensor: Tensor, texts: NDArray[Any]) -> NDArray[Any]:
    encoded = np.empty(texts.size, dtype=np.object_)
    try:
        encoded[:] = [text.encode() for text in texts.flat]
    except UnicodeEncodeError:
        raise wrong(tensor, "holds a lone surrogate, which is no character", "unicode") from None
    return encoded.reshape(texts.shape)


def _shape_of_one(tensor: Tensor) -> tuple[int, ...]:
    """The shape in which a single value fits this tensor."""
    shape = tuple(1 if size == -1 else size for size in tensor.dims)
    if math.prod(shape) != 1:
        raise wrong(tensor, f"is a single value instead of {dims_text(tensor)}", "shape")
    return shape


def _fits(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    return len(shape) == len(dims) and all(
        allowed in (size, -1) for size, allowed in zip(shape, dims, strict=True)
    )


def _out_of_range(tensor: Tensor) -> InvalidInput:
    return wrong(tensor, f"holds a number that {tensor.datatype} cannot", "range")


def _texts(value: Any) -> JSON:
    if isinstance(value, list):
        return [_texts(element) for element in value]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    # NUL is no text: JSON can write it, but Postgres cannot store it.
    if "\0" not in text:
        return text
    return "data:application/octet-stream;base64," + base64.b64encode(value).decode()
