"""tensor: JSON becomes exactly the tensors it says, or is refused by name; and back."""

import base64
import math
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contract.catalog import Model, Tensor
from contract.errors import InvalidInput, UnusableOutput
from contract.ids import PredictionId
from contract.limits import OUTPUT_BYTES_MAX
from contract.prediction import JSON, File, Ticket
from tasks.registry import task
from tasks.tensor import TensorTask
from tasks.tensor_values import DTYPES, _json_bytes_least

TASK = TensorTask()
NUMERIC = sorted(set(DTYPES) - {"BYTES"})


def model(*inputs: Tensor, outputs: tuple[Tensor, ...] = ()) -> Model:
    return Model("m", (1,), "tensor", 8, inputs, outputs or inputs)


def read(tensor: Tensor, value: JSON) -> Any:
    """What the tensor holds for a JSON value; `check` and `encode` agree on it."""
    given = Ticket(PredictionId("0" * 26), "m", 1, {tensor.name: value})
    TASK.check(model(tensor), given)
    return TASK.encode(model(tensor), given)[tensor.name]


def read_file(tensor: Tensor, content: bytes) -> Any:
    file = File("application/octet-stream", len(content), "0" * 64, content)
    given = Ticket(PredictionId("0" * 26), "m", 1, {}, {tensor.name: file})
    TASK.check(model(tensor), given)
    return TASK.encode(model(tensor), given)[tensor.name]


def written(tensor: Tensor, array: Any) -> JSON:
    given = Ticket(PredictionId("0" * 26), "m", 1, {})
    return TASK.decode(model(tensor), given, {tensor.name: array})[tensor.name]


def refused(tensor: Tensor, value: JSON) -> str:
    """The rule by which a value is refused; the field is the tensor's in every case."""
    with pytest.raises(InvalidInput) as raised:
        read(tensor, value)
    assert raised.value.field == f"input.{tensor.name}"
    return raised.value.rule


@given(st.sampled_from(NUMERIC), arrays.array_shapes(max_dims=4, max_side=4), st.data())
def test_numbers_are_read_exactly_and_come_back_as_they_were(
    datatype: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    finite: dict[str, Any] = {"allow_nan": False, "allow_infinity": False}
    options = finite if datatype.startswith("FP") else {}
    elements = arrays.from_dtype(DTYPES[datatype], **options)
    array = data.draw(arrays.arrays(DTYPES[datatype], shape, elements=elements))
    tensor = Tensor("x", datatype, shape)
    value = array.tolist()
    result = read(tensor, value)
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(result, array)
    assert written(tensor, result) == value


@given(st.recursive(st.text(), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=8))
def test_texts_are_read_as_utf_8_or_refused(value: JSON) -> None:
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value, depth = value[0], depth + 1
    tensor = Tensor("x", "BYTES", (1,))
    if isinstance(value, str):
        assert read(tensor, [value]).tolist() == [value.encode()]
        assert written(tensor, read(tensor, value)) in ([value], [data_uri(value.encode())])
    else:
        assert refused(tensor, value) == "shape"


def data_uri(content: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"\x80"])
def test_bytes_that_are_no_text_come_out_as_a_data_uri(content: bytes) -> None:
    array = np.array([content], dtype=np.object_)
    assert written(Tensor("x", "BYTES", (1,)), array) == [data_uri(content)]


def test_a_single_value_stands_for_a_tensor_of_one_element() -> None:
    assert read(Tensor("x", "FP32", (1,)), 2).tolist() == [2.0]
    assert read(Tensor("x", "INT8", (-1, 1)), -3).tolist() == [[-3]]
    assert read(Tensor("x", "BYTES", (1,)), "né").tolist() == [b"n\xc3\xa9"]
    assert refused(Tensor("x", "FP32", (2,)), 2) == "shape"


def test_sizes_left_open_take_any_size() -> None:
    tensor = Tensor("x", "INT64", (-1, 2))
    assert read(tensor, [[1, 2], [3, 4], [5, 6]]).shape == (3, 2)
    assert refused(tensor, [[1, 2, 3]]) == "shape"
    assert refused(tensor, [1, 2]) == "shape"


def deep(levels: int) -> JSON:
    value: JSON = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[str, JSON, str]] = [
    ("INT32", [1, 2.5], "type"),
    ("INT32", [1, 2.0], "type"),
    ("INT32", [1, True], "type"),
    ("INT32", [1, "2"], "type"),
    ("INT32", [1, None], "type"),
    ("INT32", [{}, {}], "type"),
    ("INT32", "12", "type"),
    ("FP32", [1, True], "type"),
    ("FP32", ["1", "2"], "type"),
    ("BOOL", [0, 1], "type"),
    ("BYTES", [1, 2], "type"),
    ("BYTES", ["a", None], "type"),
    ("UINT8", [0, 256], "range"),
    ("UINT8", [-1, 0], "range"),
    ("INT8", [-129, 0], "range"),
    ("INT64", [2**63, 0], "range"),
    ("UINT64", [2**64, 0], "range"),
    ("UINT64", [-1, 2**63], "range"),
    ("FP16", [65520, 0], "range"),
    ("FP32", [1e39, 0], "range"),
    ("FP64", [10**400, 0], "range"),
    ("FP32", [math.nan, 0], "range"),
    ("FP32", [math.inf, 0], "range"),
    ("FP32", [], "not_empty"),
    ("FP32", [[], []], "shape"),
    ("FP32", [[1], [2, 3]], "shape"),
    ("FP32", [[1, 2], 3], "shape"),
    ("FP32", [1, 2, 3], "shape"),
    ("FP32", [[1, 2]], "shape"),
    ("FP32", deep(100), "shape"),
    ("BYTES", ["a", ["b"]], "shape"),
    ("BYTES", ["\ud800", "b"], "unicode"),
]


@pytest.mark.parametrize(("datatype", "value", "rule"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_rule(datatype: str, value: JSON, rule: str) -> None:
    assert refused(Tensor("x", datatype, (2,)), value) == rule


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=10,
)


@given(st.sampled_from(sorted(DTYPES)), Json, st.lists(st.sampled_from([-1, 1, 2]), max_size=3))
def test_any_json_becomes_the_tensor_it_says_or_is_refused(
    datatype: str, value: JSON, dims: list[int]
) -> None:
    tensor = Tensor("x", datatype, tuple(dims))
    try:
        array = read(tensor, value)
    except InvalidInput:
        return
    assert array.dtype == DTYPES[datatype]
    assert array.ndim == len(dims)
    assert all(size in (1, 2, 3) for size in array.shape)


def test_a_long_string_among_many_numbers_costs_no_memory() -> None:
    """numpy's own reading would make each of the elements as long as the longest string."""
    value = [1] * 100_000 + ["x" * 1_000_000]  # 400 GB that way
    assert refused(Tensor("x", "INT32", (-1,)), value) == "type"


def test_a_field_that_is_no_tensor_is_refused_and_a_missing_one_too() -> None:
    tensor = Tensor("x", "INT32", (1,))
    for fields, field, rule in (
        ({"x": 1, "y": 1}, "input.y", "known_field"),
        ({}, "input.x", "required"),
    ):
        with pytest.raises(InvalidInput) as raised:
            TASK.check(model(tensor), Ticket(PredictionId("0" * 26), "m", 1, fields))
        assert (raised.value.field, raised.value.rule) == (field, rule)


def test_a_file_is_the_element_of_a_bytes_tensor() -> None:
    content = b"\x00\xff any bytes"
    assert read_file(Tensor("x", "BYTES", (1,)), content).tolist() == [content]
    assert read_file(Tensor("x", "BYTES", (1, -1)), content).tolist() == [[content]]


def test_a_file_is_the_elements_of_a_uint8_tensor() -> None:
    assert read_file(Tensor("x", "UINT8", (2, -1)), b"abcdef").tolist() == [
        [97, 98, 99],
        [100, 101, 102],
    ]


@pytest.mark.parametrize(
    ("tensor", "rule"),
    [
        (Tensor("x", "UINT8", (4,)), "shape"),
        (Tensor("x", "UINT8", (-1, 2)), "shape"),
        (Tensor("x", "UINT8", (-1, -1)), "shape"),
        (Tensor("x", "BYTES", (2,)), "shape"),
        (Tensor("x", "FP32", (-1,)), "file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tensor: Tensor, rule: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read_file(tensor, b"abc")
    assert (raised.value.field, raised.value.rule) == ("input.x", rule)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_json_cannot_hold_are_no_answer(wrong: float) -> None:
    with pytest.raises(UnusableOutput, match="x holds NaN or infinity"):
        written(Tensor("x", "FP32", (2,)), np.array([0, wrong], np.float32))


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        ("FP32", (OUTPUT_BYTES_MAX // 4 + 1,)),
        ("UINT8", (OUTPUT_BYTES_MAX // 2 + 1,)),
        ("BOOL", (OUTPUT_BYTES_MAX // 5 + 1,)),
        ("FP32", (OUTPUT_BYTES_MAX // 3 + 1, 0)),  # so many empty lists
        ("FP32", (1, 200 * 1024 * 1024 // 4)),
    ],
)
def test_an_output_that_cannot_fit_is_refused_before_anything_is_made_of_it(
    datatype: str, shape: tuple[int, ...]
) -> None:
    tensor = Tensor("x", datatype, (-1,) * len(shape))
    array = np.lib.stride_tricks.as_strided(  # takes no memory itself
        np.zeros(1, DTYPES[datatype]), shape, (0,) * len(shape)
    )
    tracemalloc.start()
    try:
        with pytest.raises(UnusableOutput, match="at most 8388608 are kept"):
            written(tensor, array)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_long_texts_count_as_well() -> None:
    array = np.empty(2, np.object_)
    array[:] = [b"x" * (OUTPUT_BYTES_MAX // 2)] * 2
    with pytest.raises(UnusableOutput, match="at most"):
        written(Tensor("x", "BYTES", (2,)), array)


@given(
    st.sampled_from(["FP32", "INT8", "BOOL"]),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_nothing_that_fits_is_refused(datatype: str, shape: list[int]) -> None:
    array = np.zeros(shape, DTYPES[datatype])
    value = written(Tensor("x", datatype, (-1,) * len(shape)), array)
    assert _json_bytes_least(array) <= len(msgspec.json.encode(value)) + 1


def test_an_output_of_another_shape_is_no_answer() -> None:
    with pytest.raises(UnusableOutput, match=r"x is \[0\], not \[2\]"):
        written(Tensor("x", "FP32", (2,)), np.zeros(0, np.float32))


def test_a_model_with_a_type_that_json_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="BF16, which x of m is"):
        TASK.check_model(model(Tensor("x", "BF16", (1,))))


def test_it_is_found_by_its_name_and_has_no_file_of_its_own() -> None:
    assert task("tensor").main_file is None
