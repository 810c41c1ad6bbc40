"""image-classification: what is wrong is refused by name; what is right comes out best first."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from contract.catalog import Model, Tensor
from contract.errors import InvalidInput, TooLarge, UnsupportedMedia, UnusableOutput
from contract.ids import PredictionId
from contract.prediction import JSON, File, Ticket
from tasks.image_classification import ImageClassification, _best_first
from tasks.registry import task

CLASSES = 20
LABELS = tuple(f"class {index}" for index in range(CLASSES))
IMAGE = Tensor("pixels", "UINT8", (8, 8, 3))
SCORES = Tensor("scores", "FP32", (CLASSES,), LABELS)
MODEL = Model("small", (1,), "image-classification", 4, (IMAGE,), (SCORES,))
TASK = ImageClassification()


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 10), colour).save(file, "PNG")
    return file.getvalue()


def ticket(content: bytes | None = png(), name: str = "image", **fields: JSON) -> Ticket:
    files = {} if content is None else {name: File("image/png", len(content), "0" * 64, content)}
    return Ticket(PredictionId("0" * 26), MODEL.name, 1, fields, files)


def decoded(scores: Any, **fields: JSON) -> JSON:
    return TASK.decode(MODEL, ticket(None, **fields), {"scores": np.asarray(scores, np.float32)})


def test_it_is_found_by_its_name_and_takes_a_lone_file_as_the_image() -> None:
    assert task("image-classification").main_file == "image"
    with pytest.raises(ValueError, match="there is no task 'summarize'; there are image-class"):
        task("summarize")


def test_an_image_becomes_the_pixels_of_one_row() -> None:
    given = ticket(top_k=3)
    TASK.check(MODEL, given)
    tensors = TASK.encode(MODEL, given)
    assert list(tensors) == ["pixels"]
    np.testing.assert_array_equal(tensors["pixels"], np.full((8, 8, 3), (255, 0, 0), np.uint8))


REFUSED: list[tuple[Ticket, str, str, type[InvalidInput]]] = [
    (ticket(None), "input.image", "required", InvalidInput),
    (ticket(None, image="https://example.org/a.jpg"), "input.image", "file", InvalidInput),
    (ticket(None, image=None), "input.image", "file", InvalidInput),
    (ticket(b""), "input.image", "not_empty", InvalidInput),
    (ticket(b"no image"), "input.image", "image_format", UnsupportedMedia),
    (ticket(png(), "photo"), "input.photo", "known_field", InvalidInput),
    (ticket(topk=5), "input.topk", "known_field", InvalidInput),
    (ticket(top_k=0), "input.top_k", "range", InvalidInput),
    (ticket(top_k=1001), "input.top_k", "range", InvalidInput),
    (ticket(top_k=10**400), "input.top_k", "range", InvalidInput),
    (ticket(top_k="5"), "input.top_k", "integer", InvalidInput),
    (ticket(top_k=2.5), "input.top_k", "integer", InvalidInput),
    (ticket(top_k=True), "input.top_k", "integer", InvalidInput),
    (ticket(top_k=None), "input.top_k", "integer", InvalidInput),
    (ticket(top_k=[5]), "input.top_k", "integer", InvalidInput),
]


@pytest.mark.parametrize(("given", "field", "rule", "kind"), REFUSED, ids=lambda x: str(x)[:20])
def test_wrong_input_is_refused_before_it_is_accepted(
    given: Ticket, field: str, rule: str, kind: type[InvalidInput]
) -> None:
    with pytest.raises(InvalidInput) as raised:
        TASK.check(MODEL, given)
    assert (raised.value.field, raised.value.rule) == (field, rule)
    assert type(raised.value) is kind


def test_too_many_pixels_are_refused_before_they_are_accepted() -> None:
    file = io.BytesIO()
    Image.new("1", (8000, 6000)).save(file, "PNG")
    with pytest.raises(TooLarge):
        TASK.check(MODEL, ticket(file.getvalue()))


def test_a_callers_own_words_are_repeated_short_and_harmless() -> None:
    with pytest.raises(InvalidInput) as raised:
        TASK.check(MODEL, Ticket(PredictionId("0" * 26), "small", 1, {"\ud800" + "x" * 5000: 1}))
    str(raised.value).encode()
    assert len(str(raised.value)) < 200


def test_an_image_that_is_damaged_inside_passes_the_check_and_is_refused_when_decoded() -> None:
    given = ticket(png()[:-30])
    TASK.check(MODEL, given)
    with pytest.raises(InvalidInput) as raised:
        TASK.encode(MODEL, given)
    assert (raised.value.field, raised.value.rule) == ("input.image", "decodable_image")


@given(
    arrays.arrays(np.float32, CLASSES, elements=st.floats(0, 1, width=32)),
    st.one_of(st.none(), st.integers(1, 1000)),
)
def test_classes_come_out_best_first_and_no_more_than_asked_for(
    scores: np.ndarray[Any, np.dtype[np.float32]], top_k: int | None
) -> None:
    output = decoded(scores) if top_k is None else decoded(scores, top_k=top_k)
    assert len(output) == min(top_k or 5, CLASSES)
    for one in output:
        assert one["label"] == LABELS[one["index"]]
        assert np.float32(one["score"]) == scores[one["index"]]
    shown = [one["index"] for one in output]
    assert len(set(shown)) == len(shown)
    # Best first, and equals by index, so that equal requests have equal answers.
    assert shown == sorted(range(CLASSES), key=lambda i: (-scores[i], i))[: len(shown)]


def test_a_score_has_no_more_digits_than_a_32_bit_number_needs() -> None:
    scores = np.zeros(CLASSES)
    scores[3] = 0.1
    assert decoded(scores, top_k=1) == [{"label": "class 3", "index": 3, "score": 0.1}]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_no_answer(wrong: float) -> None:
    scores = np.zeros(CLASSES)
    scores[0] = wrong
    with pytest.raises(UnusableOutput):
        decoded(scores)


@pytest.mark.parametrize("shape", [(0,), (CLASSES - 1,), (1, CLASSES)])
def test_scores_of_another_number_are_no_answer(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableOutput):
        decoded(np.zeros(shape))


WITH: list[tuple[Tensor, Tensor, str]] = [
    (Tensor("x", "FP32", (8, 8, 3)), SCORES, "UINT8"),
    (Tensor("x", "UINT8", (3, 8, 8)), SCORES, "UINT8"),
    (Tensor("x", "UINT8", (-1, -1, 3)), SCORES, "UINT8"),
    (IMAGE, Tensor("y", "INT64", (CLASSES,), LABELS), "FP32"),
    (IMAGE, Tensor("y", "FP32", (-1,), LABELS), "FP32"),
    (IMAGE, Tensor("y", "FP32", (CLASSES,), LABELS[1:]), "a label for each"),
]


@pytest.mark.parametrize(("image", "scores", "reason"), WITH)
def test_a_model_it_cannot_serve_is_refused_with_the_reason(
    image: Tensor, scores: Tensor, reason: str
) -> None:
    TASK.check_model(MODEL)
    with pytest.raises(ValueError, match=reason):
        TASK.check_model(Model("odd", (1,), TASK.name, 4, (image,), (scores,)))
    with pytest.raises(ValueError, match="one input and one output"):
        TASK.check_model(Model("odd", (1,), TASK.name, 4, (IMAGE, IMAGE), (SCORES,)))


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    st.integers(1, 50),
)
def test_the_best_classes_come_first_and_equal_ones_in_their_order(
    scores: list[float], count: int
) -> None:
    best = _best_first(np.array(scores, np.float32), count)
    expected = sorted(range(len(scores)), key=lambda place: -scores[place])[:count]
    assert best.tolist() == expected
