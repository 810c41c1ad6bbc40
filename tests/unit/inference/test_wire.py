"""The bytes of an inference request: what Triton's own classes would have written."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from contract.catalog import Lane
from contract.errors import ModelRejected
from inference import Input
from inference.wire import inference_request

LANE = Lane("echo", 3)
NUMBERS = st.sampled_from(["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
TENSORS = arrays.arrays(
    NUMBERS.map(np.dtype),
    arrays.array_shapes(min_dims=0, min_side=0),
    elements={"allow_nan": False},
)


def read(inputs: Mapping[str, Input], *outputs: str, hurried: bool = False) -> Any:
    written = inference_request(LANE, inputs, outputs, hurried=hurried)
    return service_pb2.ModelInferRequest.FromString(written)


def tensors(request: Any) -> dict[str, NDArray[Any]]:
    """What Triton would make of the inputs."""
    read = {}
    for described, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if described.datatype == "BYTES":
            array = deserialize_bytes_tensor(raw)
        else:
            array = np.frombuffer(raw, triton_to_np_dtype(described.datatype))
        read[described.name] = array.reshape(tuple(described.shape))
    return read


def same(array: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        array.dtype == other.dtype and array.shape == other.shape and bool((array == other).all())
    )


@given(st.lists(TENSORS, min_size=1, max_size=3))
def test_arrays_of_any_type_shape_and_size_arrive_as_they_are(sent: list[NDArray[Any]]) -> None:
    got = tensors(read({f"x{number}": array for number, array in enumerate(sent)}))
    assert list(got) == [f"x{number}" for number in range(len(sent))]
    assert all(same(array, got[f"x{number}"]) for number, array in enumerate(sent))


@given(TENSORS.filter(lambda array: array.ndim > 0 and len(array) > 0))
def test_rows_arrive_as_the_array_that_they_would_make(array: NDArray[Any]) -> None:
    assert read({"x": list(array)}) == read({"x": array})


@given(st.lists(st.binary(max_size=300), min_size=1))
def test_texts_arrive_with_their_lengths(texts: list[bytes]) -> None:
    array = np.empty((len(texts), 1), np.object_)
    array[:, 0] = texts
    assert tensors(read({"x": array}))["x"].ravel().tolist() == texts
    assert read({"x": list(array)}) == read({"x": array})


@pytest.mark.parametrize("step", [1, 2])
def test_an_array_that_does_not_lie_in_order_is_sent_in_order(step: int) -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4).T[::step]
    assert same(tensors(read({"x": array}))["x"], array)
    assert same(tensors(read({"x": list(array)}))["x"], array)


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 2_097_152])
def test_the_length_of_a_tensor_may_be_anything(size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    assert same(tensors(read({"x": array, "y": array}))["y"], array)


def test_model_version_outputs_and_hurry_are_told() -> None:
    request = read({"x": np.zeros(1)}, "a", "b", hurried=True)
    assert (request.model_name, request.model_version) == ("echo", "3")
    assert [output.name for output in request.outputs] == ["a", "b"]
    assert request.parameters["hurried"].bool_param
    assert not read({"x": np.zeros(1)}, "a").parameters


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", ">f4"])
def test_a_type_that_triton_does_not_know_is_refused(dtype: str) -> None:
    with pytest.raises(ModelRejected, match="input x has a type that Triton does not know"):
        read({"x": np.zeros(2, dtype)})
