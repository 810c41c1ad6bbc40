"""Ids are UUIDv7 in a text form that sorts like time."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import (
    PredictionId,
    accepted_at_ms,
    from_uuid,
    new_prediction_id,
    parse_prediction_id,
    to_uuid,
)

Time = st.integers(0, (1 << 48) - 1)
Random = st.binary(min_size=10, max_size=10)


@given(Time, Random)
def test_an_id_is_a_uuid_version_7_that_remembers_its_time(now_ms: int, random: bytes) -> None:
    prediction_id = new_prediction_id(now_ms, random)
    assert accepted_at_ms(prediction_id) == now_ms
    assert to_uuid(prediction_id).version == 7
    assert to_uuid(prediction_id).variant == "specified in RFC 4122"
    assert parse_prediction_id(prediction_id) == prediction_id


@given(Time, Random, Time, Random)
def test_ids_sort_as_text_like_their_uuids(a_ms: int, a: bytes, b_ms: int, b: bytes) -> None:
    first, second = new_prediction_id(a_ms, a), new_prediction_id(b_ms, b)
    assert (first < second) == (to_uuid(first) < to_uuid(second))


@given(st.uuids())
def test_any_uuid_survives_the_text_form(identifier: UUID) -> None:
    assert to_uuid(from_uuid(identifier)) == identifier


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0" * 25,
        "0" * 27,
        "0" * 25 + "w",  # beyond the alphabet
        "0" * 25 + "1",  # bits that no uuid has
        "0" * 24 + " 0",
        "0" * 25 + "é",
        "A" * 26,  # upper case
        "0" * 23 + "1_0",  # `int` reads it
        "0" * 25 + "0\n",
        "\u0660" * 26,  # digits, elsewhere
        "00000000-0000-7000-8000-00",
    ],
)
def test_an_id_of_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a prediction id is"):
        parse_prediction_id(text)


@given(st.text(max_size=40))
def test_whatever_is_accepted_is_canonical(text: str) -> None:
    try:
        prediction_id = parse_prediction_id(text)
    except ValueError:
        return
    assert from_uuid(to_uuid(prediction_id)) == text == PredictionId(text)
