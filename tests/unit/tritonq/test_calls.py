"""The calls without a network: the test plays the service, one reply at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tritonq.calls import POLL_S, Call, Calls, Pause, model_path
from tritonq.errors import (
    AcceptanceUnknown,
    Expired,
    InvalidInput,
    KeyReused,
    NotFound,
    NotRetryable,
    Overloaded,
    PredictionFailed,
    ServiceUnavailable,
    StillRunning,
    TritonqError,
    UnexpectedAnswer,
)
from tritonq.retry import RETRY_AFTER_S_MAX
from tritonq.terms import Terms
from tritonq.wire import Body, NoResponse, Request, Response

BODY = Body(b"...", "image/jpeg")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(
    http_status: int = 200, headers: dict[str, str] | None = None, **members: Any
) -> Response:
    return Response(http_status, headers or {}, json.dumps(members).encode())


def prediction(status: str = "succeeded", **members: Any) -> Response:
    plain: dict[str, Any] = {
        "id": "p1",
        "model": "triton/m",
        "version": "triton.m.1",
        "status": status,
    }
    return answer(created_at="2026-11-21T10:00:00Z", **plain, **members)


def refusal(status: int, code: str, *, retry_after: str = "", **members: Any) -> Response:
    headers = {"content-type": "application/problem+json", "retry-after": retry_after}
    return answer(status, headers, code=code, detail=f"it is {code}", **members)


@dataclass
class Play:
    """Carries a call out against given replies, on a clock that only pauses and waits move."""

    replies: list[Response | NoResponse]
    patience_s: float = 30.0
    clock: Clock = field(default_factory=Clock)
    sent: list[Request] = field(default_factory=list)
    paused_s: list[float] = field(default_factory=list)

    @property
    def calls(self) -> Calls:
        return Calls(self.clock, lambda: 0.5, self.patience_s)

    def carry_out(self, call: Call[Any], hold: Sequence[float] = ()) -> Any:
        """`hold`: how long each request takes; 0 where it is not said."""
        holds = iter(hold)
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    self.paused_s.append(step.seconds)
                    self.clock.now += step.seconds
                    step = call.send(None)
                else:
                    self.sent.append(step)
                    self.clock.now += next(holds, 0.0)
                    step = call.send(self.replies.pop(0))
        except StopIteration as ended:
            return ended.value

    def submit(self, **options: Any) -> Any:
        wait_s = options.pop("wait_s", 0.0)
        return self.carry_out(self.calls.submit("m", BODY, Terms(**options), wait_s=wait_s))


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

    call = play.calls.get("p1", wait_s=120.0)
    assert play.carry_out(call, hold=[50, 50, 3]).has_succeeded

    assert [request.query["wait"] for request in play.sent] == ["50", "50", "20"]
    assert play.paused_s == []


def test_a_service_that_does_not_wait_is_not_asked_in_a_busy_loop() -> None:
    play = Play([prediction("processing")] * 5)

    assert not play.carry_out(play.calls.get("p1", wait_s=2.0)).has_ended

    assert play.paused_s == [POLL_S] * 4


def test_an_id_cannot_reach_another_path() -> None:
    play = Play([prediction()])

    play.carry_out(play.calls.get("../models?x=#", wait_s=0.0))

    assert play.sent[0].path == "/v1/predictions/..%2Fmodels%3Fx%3D%23"


@pytest.mark.parametrize(
    "reply",
    [
        NoResponse("connection refused", was_sent=False),
        refusal(429, "overloaded", retry_after="1"),
        refusal(503, "queue_unavailable", retry_after="5"),
    ],
)
def test_a_submit_that_changed_nothing_is_sent_again(reply: Response | NoResponse) -> None:
    play = Play([reply, reply, prediction("starting")])

    assert play.submit().id == "p1"
    assert len(play.sent) == 3


@pytest.mark.parametrize(
    "reply",
    [
        NoResponse("server disconnected", was_sent=True),
        refusal(503, "acceptance_unknown", retry_after="1"),
        answer(503, {"content-type": "text/html"}),
        answer(502),
        answer(504),
    ],
)
def test_a_submit_that_may_have_been_accepted_is_never_sent_again(
    reply: Response | NoResponse,
) -> None:
    play = Play([reply])

    with pytest.raises(AcceptanceUnknown):
        play.submit()

    assert len(play.sent) == 1


@pytest.mark.parametrize(
    "reply",
    [
        NoResponse("server disconnected", was_sent=True),
        refusal(503, "acceptance_unknown"),
        answer(502),
    ],
)
def test_a_fetch_is_always_safe_to_repeat(reply: Response | NoResponse) -> None:
    play = Play([reply, prediction()])

    assert play.carry_out(play.calls.get("p1", wait_s=0.0)).has_succeeded


def test_the_pause_before_a_retry_is_what_the_service_asks_for_or_a_little_more() -> None:
    play = Play([refusal(429, "overloaded", retry_after="7"), prediction("starting")])

    play.submit()

    assert play.paused_s == [pytest.approx(7.35)]


def test_pauses_grow_where_the_service_asks_for_nothing() -> None:
    play = Play([NoResponse("refused", was_sent=False)] * 7 + [prediction("starting")])

    play.submit()

    assert play.paused_s == pytest.approx([0.075 * 2**n for n in range(6)] + [3.75])


def test_retries_end_when_patience_does_and_the_error_says_when_to_return() -> None:
    full = refusal(429, "overloaded", retry_after="4")
    play = Play([full] * 9, patience_s=10.0)

    with pytest.raises(Overloaded) as caught:
        play.submit()

    assert caught.value.retry_after_s == 4.0
    assert len(play.sent) == 3
    assert play.clock.now <= 1010.0


def test_a_service_that_asks_for_a_very_long_pause_is_believed_and_told_to_the_caller() -> None:
    full = refusal(429, "overloaded", retry_after=str(int(RETRY_AFTER_S_MAX) + 1))

    with pytest.raises(Overloaded):
        Play([full], patience_s=1e9).submit()


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


def test_a_service_that_is_away_is_told_with_the_reason() -> None:
    play = Play([NoResponse("connection refused", was_sent=False)], patience_s=0)

    with pytest.raises(ServiceUnavailable, match="connection refused"):
        play.submit()
