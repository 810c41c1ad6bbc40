import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidInput, TooLarge
from gateway.rest.strict_json import DEPTH_MAX, VALUES_MAX, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_whatever_is_accepted_can_be_kept_in_a_ticket_and_in_postgres(
    value: dict[str, Any],
) -> None:
    body = json.dumps(value).encode()
    try:
        read = read_object(body)
    except InvalidInput:
        return
    assert read == value
    msgspec.msgpack.encode(read)
    assert "\\u0000" not in json.dumps(read)
    json.dumps(read, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"", "body", "json"),
        (b"{", "body", "json"),
        (b'{"a": 1,}', "body", "json"),
        (b'{"a": NaN}', "body", "json"),
        (b'{"a": -Infinity}', "body", "json"),
        (b'{"a": "tab\tinside"}', "body", "json"),
        (b"\xef\xbb\xbf{}", "body", "json"),
        (b'{"a": "\xff"}', "body", "utf8"),
        ('{"a": 1}'.encode("utf-16"), "body", "utf8"),
        (b"[1]", "body", "object"),
        (b'"text"', "body", "object"),
        (b"null", "body", "object"),
        (b"7", "body", "object"),
        (b'{"a": 1, "a": 2}', "body", "unique_names"),
        (b'{"input": {"text": "a\\u0000b"}}', "input.text", "no_nul"),
        (b'{"input": {"text": "\\ud800"}}', "input.text", "unicode"),
        (b'{"input": {"\\udfff": 1}}', "input", "unicode"),
        (b'{"input": {"list": [1, {"x": "\\u0000"}]}}', "input.list[1].x", "no_nul"),
        (b'{"input": {"n": 1e999}}', "input.n", "number_range"),
        (b'{"input": {"n": [0.5, 1e999]}}', "input.n[1]", "number_range"),
        (b'{"input": {"n": 18446744073709551616}}', "input.n", "number_range"),
        (b'{"input": {"n": -9223372036854775809}}', "input.n", "number_range"),
        (b'{"n": ' + b"9" * 5000 + b"}", "body", "number_range"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "a", "depth"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body", "depth"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "body", "depth"),
    ],
)
def test_json_that_could_not_be_kept_is_refused_by_field_and_rule(
    body: bytes, field: str, rule: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_object(body)
    assert refused.value.field.startswith(field)
    assert refused.value.rule == rule


def test_nesting_up_to_the_limit_is_read() -> None:
    depth = DEPTH_MAX - 1  # the object itself is one level
    assert read_object(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")


def test_more_values_than_a_ticket_can_hold_are_refused_before_they_take_memory() -> None:
    with pytest.raises(TooLarge) as refused:
        read_object(b'{"a": [' + b"[]," * VALUES_MAX + b"[]]}")
    assert refused.value.rule == "values_max"


def test_the_path_in_a_refusal_can_always_be_printed() -> None:
    with pytest.raises(InvalidInput) as refused:
        read_object(b'{"a\\u000ab": "\\u0000"}')
    assert refused.value.field.isprintable()


def test_broken_json_is_described_in_a_sentence() -> None:
    with pytest.raises(InvalidInput) as refused:
        read_object(b'{"a": "\n"}')
    assert str(refused.value) == "not JSON: Invalid control character at line 1, column 8"
