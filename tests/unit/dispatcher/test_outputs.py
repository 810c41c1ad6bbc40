"""From a task's plain values to the JSON that is recorded."""

import json

import pytest

from contract.errors import InvalidInput, ModelRejected, UnusableOutput
from contract.limits import OUTPUT_BYTES_MAX
from contract.prediction import Failure
from dispatcher.outputs import failure_of, output_json


def test_an_output_is_json_in_utf_8() -> None:
    value = {"label": "Käse", "scores": [0.5, 1], "none": None}
    assert json.loads(output_json(value)) == value


@pytest.mark.parametrize("value", ["\ud800", {"a": object()}, [{1, 2}, 1j]])
def test_what_has_no_json_form_is_unusable(value: object) -> None:
    with pytest.raises(UnusableOutput, match="no JSON form"):
        output_json(value)


def test_an_output_may_be_as_large_as_a_record_holds_and_no_larger() -> None:
    assert len(output_json("x" * (OUTPUT_BYTES_MAX - 2))) == OUTPUT_BYTES_MAX
    with pytest.raises(UnusableOutput, match=str(OUTPUT_BYTES_MAX)):
        output_json("x" * (OUTPUT_BYTES_MAX - 1))


def test_a_failure_names_the_field_that_is_wrong() -> None:
    error = InvalidInput("not an image", field="input.image")
    assert failure_of(error) == Failure("invalid_input", "input.image: not an image")
    assert failure_of(ModelRejected("no")) == Failure("model_rejected", "no")
