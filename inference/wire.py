"""An inference request as it travels: Triton's message, and behind it the tensors.

A message of protocol buffers may be written in pieces, one after the other. So the tensors of all
rows are copied once, from where they are into the bytes that are sent. Through Triton's own classes
they are copied four times on the way there, each time into new memory: 0.32 CPU-ms for an image of
224 x 224 in a batch of 16, and 0.005 like this.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from contract.catalog import Lane
from contract.errors import ModelRejected

Input = NDArray[Any] | Sequence[NDArray[Any]]  # an array, or the rows of one, which are all alike

_RAW_INPUT = bytes([7 << 3 | 2])  # ModelInferRequest.raw_input_contents: field 7, of given length
_LENGTH = struct.Struct("<I")  # goes before each element of BYTES
_Piece = bytes | memoryview


def inference_request(
    lane: Lane, inputs: Mapping[str, Input], outputs: Iterable[str], *, hurried: bool
) -> bytes:
    """A ModelInferRequest, serialized; for its arguments see `Triton.infer`.

    Raises:
        ModelRejected: an input has a type that Triton does not know.
    """
    request = service_pb2.ModelInferRequest(model_name=lane.model, model_version=str(lane.version))
    pieces: list[_Piece] = [b""]
    for name, given in inputs.items():
        rows, shape = _rows_and_shape(given)
        datatype = np_to_triton_dtype(rows[0].dtype)
        if datatype is None:
            raise ModelRejected(
                f"input {name} has a type that Triton does not know: {rows[0].dtype}"
            )
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        content = _texts(rows) if datatype == "BYTES" else [_in_order(row) for row in rows]
        size = sum(it.nbytes if isinstance(it, memoryview) else len(it) for it in content)
        pieces += (_RAW_INPUT + _varint(size), *content)
    for name in outputs:
        request.outputs.add(name=name)
    if hurried:
        request.parameters["hurried"].bool_param = True
    pieces[0] = request.SerializeToString()
    return b"".join(pieces)


def _rows_and_shape(given: Input) -> tuple[Sequence[NDArray[Any]], Sequence[int]]:
    if isinstance(given, np.ndarray):
        return [given], given.shape
    return given, (len(given), *given[0].shape)


def _in_order(array: NDArray[Any]) -> memoryview:
    return array.data if array.flags.c_contiguous else np.asarray(array, order="C").data


def _texts(rows: Sequence[NDArray[Any]]) -> list[_Piece]:
    return [piece for row in rows for piece in _with_lengths(row)]


def _with_lengths(array: NDArray[Any]) -> Iterator[bytes]:
    for element in array.ravel():
        content = element if isinstance(element, bytes) else str(element).encode()
        yield _LENGTH.pack(len(content))
        yield content


def _varint(number: int) -> bytes:
    """A length as protocol buffers write it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])
