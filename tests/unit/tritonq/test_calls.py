"""The calls without a network: the test plays the service, one reply at a time."""

import pytest

from tests.played_calls import BODY, Play, answer, prediction, refusal
from tritonq.calls import POLL_S, model_path
from tritonq.errors import (
    Expired,
    InvalidInput,
    KeyReused,
    NotFound,
    NotRetryable,
    PredictionFailed,
    StillRunning,
    TritonqError,
    UnexpectedAnswer,
)
from tritonq.terms import Terms
from tritonq.wire import Response


def test_a_submit_is_one_post_that_does_not_wait() -> None:
    play = Play([prediction("starting")])

    accepted = play.submit()

    (request,) = play.sent
    assert (request.method, request.path) == ("POST", "/v1/models/triton/m/predictions")
    assert request.headers["X-Priority"] == "normal"
    assert request.body == BODY
    assert request.hold_s == 0
    assert accepted.id == "p1"
    assert not accepted.has_ended


def test_waiting_for_a_submit_is_a_second_request_by_id() -> None:
    play = Play([prediction("starting"), prediction(output=7)])

    assert play.submit(wait_s=60.0).output == 7
    assert [request.method for request in play.sent] == ["POST", "GET"]
    assert play.sent[1].path == "/v1/predictions/p1"


def test_a_long_wait_is_made_of_slices_the_service_allows() -> None:
    play = Play([prediction("starting"), prediction("starting"), prediction()])

    call = play.calls.get("p1", wait_s=48.0)
    assert play.carry_out(call, hold=[20, 20, 3]).has_succeeded

    assert [request.query["wait"] for request in play.sent] == ["20", "20", "8"]
    assert play.paused_s == []


def test_a_service_that_does_not_wait_is_not_asked_in_a_busy_loop() -> None:
    play = Play([prediction("processing")] * 5)

    assert not play.carry_out(play.calls.get("p1", wait_s=2.0)).has_ended

    assert play.paused_s == [POLL_S] * 4


def test_an_id_cannot_reach_another_path() -> None:
    play = Play([prediction()])

    play.carry_out(play.calls.get("../models?x=#", wait_s=0.0))

    assert play.sent[0].path == "/v1/predictions/..%2Fmodels%3Fx%3D%23"


def test_run_returns_only_success() -> None:
    failed = Play([prediction("failed", error="not an image")])
    with pytest.raises(PredictionFailed, match="not an image"):
        failed.carry_out(failed.calls.run("m", BODY, Terms("low"), wait_s=1.0))

    slow = Play([prediction("starting"), prediction("starting")])
    with pytest.raises(StillRunning) as caught:
        slow.carry_out(slow.calls.run("m", BODY, Terms("low"), wait_s=1.0), hold=[0, 1])
    assert caught.value.prediction.id == "p1"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refusal(422, "invalid_input"), InvalidInput),
        (refusal(404, "unknown_model"), NotFound),
        (refusal(410, "expired"), Expired),
        (refusal(409, "key_reused"), KeyReused),
        (refusal(409, "not_retryable"), NotRetryable),
        (refusal(409, "already_accepted"), InvalidInput),
        (refusal(500, "internal_error"), UnexpectedAnswer),
        (answer(302, {"location": "https://elsewhere.invalid/"}), UnexpectedAnswer),
        (answer(200, surprise=True), UnexpectedAnswer),
        (Response(200, {}, b"<html>"), UnexpectedAnswer),
        (Response(404, {}, b"nginx"), UnexpectedAnswer),
    ],
)
def test_every_other_answer_is_an_error_of_its_kind_at_once(
    reply: Response, kind: type[TritonqError]
) -> None:
    play = Play([reply])

    with pytest.raises(kind):
        play.submit()


def test_a_refused_field_is_named_with_its_rule() -> None:
    errors = [{"field": "input.image", "rule": "decodable_image", "message": "no"}]
    play = Play([refusal(422, "invalid_input", errors=errors)])

    with pytest.raises(InvalidInput) as caught:
        play.submit()

    assert (caught.value.field, caught.value.rule) == ("input.image", "decodable_image")
    assert str(caught.value) == "input.image: it is invalid_input"


def test_an_unknown_priority_is_refused_before_anything_is_sent() -> None:
    play = Play([])

    with pytest.raises(InvalidInput, match="priority"):
        play.submit(priority="urgent")

    assert play.sent == []


def test_only_the_cursor_of_a_next_page_is_followed_never_its_host() -> None:
    page = answer(results=[], next="https://elsewhere.invalid/v1/predictions?cursor=c%2F2&x=1")
    play = Play([page])

    _, cursor = play.carry_out(play.calls.predictions_page("c1"))

    assert play.sent[0].query == {"cursor": "c1"}
    assert cursor == "c/2"


def test_a_next_page_without_a_cursor_is_an_error_rather_than_an_endless_loop() -> None:
    play = Play([answer(results=[], next="/v1/models?page=2")])

    with pytest.raises(UnexpectedAnswer, match="cursor"):
        play.carry_out(play.calls.models())


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("m", "/v1/models/triton/m"),
        ("triton/m", "/v1/models/triton/m"),
        ("m@3", "/v1/models/triton/m@3"),
        ("triton/m:3", "/v1/models/triton/m@3"),
        ("triton.m.3", "/v1/models/triton/m@3"),
    ],
)
def test_a_model_may_be_named_in_every_spelling_the_service_knows(
    reference: str, path: str
) -> None:
    assert model_path(reference) == path


@pytest.mark.parametrize("reference", ["3", "", "a/b/c", "m@x", "../m"])
def test_a_reference_that_names_no_model_is_refused_here(reference: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        model_path(reference)
    assert caught.value.field == "model"
