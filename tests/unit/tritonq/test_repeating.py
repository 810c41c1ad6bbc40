"""What is sent again, when, and when never: nothing is submitted twice and no wait is lost."""

from typing import Any

import pytest

from tests.played_calls import Play, answer, prediction, refusal
from tritonq.calls import FOR_EVER
from tritonq.errors import (
    AcceptanceUnknown,
    InvalidInput,
    KeyReused,
    Overloaded,
    ServiceUnavailable,
    TritonqError,
    UnexpectedAnswer,
)
from tritonq.retry import BACKOFF_S_MAX, RETRY_AFTER_S_MAX, retry_delay_s
from tritonq.wire import NoResponse, Request, Response


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


LOST_ANSWERS = [
    NoResponse("server disconnected", was_sent=True),
    refusal(503, "acceptance_unknown", retry_after="1"),
    answer(503, {"content-type": "text/html"}),
    answer(502),
    answer(504),
    Response(201, {}, b'{"id": "p1", "mod'),
]


@pytest.mark.parametrize("reply", LOST_ANSWERS)
def test_a_submit_with_a_key_is_sent_again_under_the_same_key(
    reply: Response | NoResponse,
) -> None:
    play = Play([reply, prediction("starting")])

    assert play.submit(idempotency_key="order 17").id == "p1"

    first, second = play.sent
    assert first == second
    assert first.headers["Idempotency-Key"] == "order 17"


@pytest.mark.parametrize("reply", LOST_ANSWERS)
def test_what_may_have_been_accepted_stays_in_doubt_whatever_comes_later(
    reply: Response | NoResponse,
) -> None:
    refused = NoResponse("connection refused", was_sent=False)
    play = Play([reply] + [refused] * 50, patience_s=5.0)

    with pytest.raises(AcceptanceUnknown, match="k17") as caught:
        play.submit(idempotency_key="k17")

    assert caught.value.idempotency_key == "k17"


def test_what_the_service_refuses_in_the_end_is_that_refusal() -> None:
    lost = NoResponse("server disconnected", was_sent=True)

    with pytest.raises(KeyReused):
        Play([lost, refusal(409, "key_reused")]).submit(idempotency_key="k")


def test_a_submit_whose_answer_was_cut_short_is_in_doubt_and_not_sent_again() -> None:
    play = Play([Response(201, {}, b'{"id": "p1", "mod')])

    with pytest.raises(AcceptanceUnknown):
        play.submit()

    assert len(play.sent) == 1


def test_terms_travel_as_headers() -> None:
    play = Play([prediction("starting", deadline="2026-11-21T10:01:30Z", retry_of="p0")])

    accepted = play.submit(priority="low", cancel_after=89.5)

    headers = play.sent[0].headers
    assert (headers["X-Priority"], headers["Cancel-After"]) == ("low", "90s")
    assert "Idempotency-Key" not in headers
    assert str(accepted.deadline) == "2026-11-21 10:01:30+00:00"
    assert accepted.retry_of == "p0"


@pytest.mark.parametrize(
    "terms",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 256},
        {"idempotency_key": "a\nX-Priority: high"},
        {"idempotency_key": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"},
        {"cancel_after": 0},
        {"cancel_after": -1.0},
        {"cancel_after": float("nan")},
        {"cancel_after": "90 s\n"},
        {"cancel_after": ""},
    ],
)
def test_terms_that_no_header_can_carry_are_refused_before_anything_is_sent(
    terms: dict[str, Any],
) -> None:
    play = Play([])

    with pytest.raises(InvalidInput) as caught:
        play.submit(**terms)

    assert [caught.value.field] == list(terms)
    assert play.sent == []


def test_a_cancel_is_repeated_until_it_is_answered() -> None:
    lost = NoResponse("server disconnected", was_sent=True)
    play = Play([lost, refusal(503, "ledger_unavailable"), answer(502), prediction("canceled")])

    assert play.carry_out(play.calls.cancel("p/1")).status == "canceled"

    assert {(one.method, one.path) for one in play.sent} == {
        ("POST", "/v1/predictions/p%2F1/cancel")
    }
    away = Play([lost], patience_s=0)
    with pytest.raises(ServiceUnavailable) as caught:
        away.carry_out(away.calls.cancel("p1"))
    assert not isinstance(caught.value, AcceptanceUnknown)


def test_a_retry_has_a_key_and_waits_for_the_new_prediction() -> None:
    lost = NoResponse("server disconnected", was_sent=True)
    new = prediction("starting", retry_of="p0")
    play = Play([lost, new, prediction("succeeded")])

    call = play.calls.retry("p0", idempotency_key="k", wait_s=9.0)
    assert play.carry_out(call).has_succeeded

    assert [one.path for one in play.sent] == ["/v1/predictions/p0/retry"] * 2 + [
        "/v1/predictions/p1"
    ]
    assert [one.headers.get("Idempotency-Key") for one in play.sent] == ["k", "k", None]


def test_a_wait_that_breaks_late_is_taken_up_again() -> None:
    """However long it took to notice that the connection had broken; the patience is 30 s."""
    broken = NoResponse("server disconnected", was_sent=True)
    play = Play([broken, broken, prediction()])

    call = play.calls.get("p1", wait_s=FOR_EVER)
    assert play.carry_out(call, hold=[50, 20, 1]).has_succeeded


def test_patience_begins_anew_with_each_answer() -> None:
    away = [NoResponse("refused", was_sent=False)] * 4
    waiting = prediction("starting")
    play = Play([*away, waiting, *away, waiting, *away, prediction()], patience_s=5.0)

    call = play.calls.get("p1", wait_s=FOR_EVER)
    assert play.carry_out(call, hold=[1.0] * 20).has_succeeded
    assert play.clock.now - 1000.0 > 10.0


def test_after_an_outage_only_the_rest_of_the_wait_is_asked_for() -> None:
    play = Play([NoResponse("broken", was_sent=True), prediction("starting")])

    play.carry_out(play.calls.get("p1", wait_s=20.0), hold=[12, 9])

    assert [one.query["wait"] for one in play.sent] == ["20", "8"]


@pytest.mark.parametrize(
    "reply",
    [
        NoResponse("connection refused", was_sent=False),
        refusal(404, "unknown_prediction"),
        refusal(401, "unauthorized"),
        refusal(429, "overloaded", retry_after="3600"),
        answer(500),
    ],
)
def test_whatever_breaks_a_wait_names_the_prediction_that_goes_on(
    reply: Response | NoResponse,
) -> None:
    play = Play([prediction("starting"), reply], patience_s=0.0)

    with pytest.raises(TritonqError, match="p1 was accepted") as caught:
        play.submit(wait_s=9.0)

    assert caught.value.prediction_id == "p1"


@pytest.mark.parametrize(
    "reply", [refusal(500, "internal_error"), answer(200, surprise=True), Response(200, {}, b"<h")]
)
def test_a_fault_of_the_service_may_pass_but_is_told_when_it_stays(reply: Response) -> None:
    passing = Play([reply, reply, prediction()])
    assert passing.carry_out(passing.calls.get("p1", wait_s=0.0)).has_succeeded

    staying = Play([reply] * 3)
    with pytest.raises(UnexpectedAnswer):
        staying.carry_out(staying.calls.get("p1", wait_s=0.0))


def test_a_very_long_outage_overflows_nothing() -> None:
    away = NoResponse("refused", was_sent=False)

    delay_s = retry_delay_s(Request("GET", "/"), away, attempt=100_000, random=1.0)

    assert delay_s == BACKOFF_S_MAX


def test_pages_that_lead_in_a_circle_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonq.calls.MODEL_PAGES_MAX", 3)
    play = Play([answer(results=[], next="/v1/models?cursor=same")] * 3)

    with pytest.raises(UnexpectedAnswer, match="3 pages"):
        play.carry_out(play.calls.models())


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


def test_a_service_that_is_away_is_told_with_the_reason() -> None:
    play = Play([NoResponse("connection refused", was_sent=False)], patience_s=0)

    with pytest.raises(ServiceUnavailable, match="connection refused"):
        play.submit()
