"""What a submit makes of texts and nameless files. Accepting is tested on the real queue."""

import pytest

from contract.catalog import Model, Tensor
from contract.errors import InvalidInput
from contract.prediction import JSON, File
from gateway.submit import LONE_FILE, Asked, given_to, typed
from tasks.registry import task

FILE = File("image/png", 3, "0" * 64, b"abc")
CLASSIFIER = Model(
    "m",
    (1,),
    "image-classification",
    8,
    (Tensor("image", "UINT8", (224, 224, 3)),),
    (Tensor("p", "FP32", (2,), ("a", "b")),),
)
ECHO = Model("e", (1,), "tensor", 8, (Tensor("T", "BYTES", (1,)),), (Tensor("O", "BYTES", (1,)),))
TWO = Model(
    "t",
    (1,),
    "tensor",
    8,
    (Tensor("A", "BYTES", (1,)), Tensor("B", "INT32", (1,))),
    (Tensor("O", "BYTES", (1,)),),
)


def given(
    model: Model, texts: dict[str, JSON], files: dict[str, File]
) -> tuple[dict[str, JSON], dict[str, File]]:
    found = given_to(task(model.task), model, Asked(None, texts, files, is_text=True))
    return found.input, found.files


def test_a_file_without_a_name_goes_to_the_field_that_the_task_reads_files_from() -> None:
    assert given(CLASSIFIER, {}, {LONE_FILE: FILE}) == ({}, {"image": FILE})
    assert given(CLASSIFIER, {}, {"upload": FILE}) == ({}, {"image": FILE})
    assert given(CLASSIFIER, {}, {"image": FILE}) == ({}, {"image": FILE})


def test_a_model_with_one_input_takes_a_file_without_a_name() -> None:
    assert given(ECHO, {}, {LONE_FILE: FILE}) == ({}, {"T": FILE})


def test_a_model_with_several_inputs_asks_for_the_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        given(TWO, {}, {LONE_FILE: FILE})
    assert refused.value.rule == "main_file"


def test_text_becomes_the_type_that_the_schema_says() -> None:
    assert given(CLASSIFIER, {"top_k": "3"}, {"image": FILE})[0] == {"top_k": 3}


@pytest.mark.parametrize("text", ["three", "3.5", "", "1e3"])
def test_text_that_is_not_of_that_type_stays_text_for_the_task_to_refuse(text: str) -> None:
    assert given(CLASSIFIER, {"top_k": text}, {"image": FILE})[0] == {"top_k": text}


def test_a_field_given_as_file_and_as_text_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        given(CLASSIFIER, {"image": "x"}, {LONE_FILE: FILE})
    assert refused.value.field == "input.image"


def test_json_is_left_as_it_is() -> None:
    asked = Asked(None, {"top_k": "3"}, {})
    assert given_to(task("image-classification"), CLASSIFIER, asked).input == {"top_k": "3"}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "-3", -3),
        ("integer", "3.0", "3.0"),
        ("integer", "1_0", "1_0"),
        ("integer", " 3", " 3"),
        ("integer", "\N{ARABIC-INDIC DIGIT THREE}", "\N{ARABIC-INDIC DIGIT THREE}"),
        ("integer", "9" * 5000, "9" * 5000),
        ("number", "0.5", 0.5),
        ("number", "1e3", 1000.0),
        ("number", "half", "half"),
        ("number", "nan", "nan"),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("boolean", "yes", "yes"),
        ("string", "3", "3"),
        (None, "3", "3"),
    ],
)
def test_each_type_of_a_schema_is_read_from_text(kind: str | None, text: str, value: JSON) -> None:
    assert typed(text, kind) == value
    assert type(typed(text, kind)) is type(value)
