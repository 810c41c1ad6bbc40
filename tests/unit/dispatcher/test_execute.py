"""The order of effects, and what each step does to the rows it finds."""

from typing import Any

import msgspec
import pytest

from contract.errors import (
    BatchFailed,
    ModelRejected,
    ModelUnavailable,
)
from contract.prediction import Failure, Status, Ticket
from tasks.registry import task
from tests.played_executor import PlayedTriton, Stage, codes, file, text
from tests.tickets import fresh_id


async def test_the_outcome_is_recorded_before_it_is_announced_and_announced_before_the_ack(
    stage: Stage,
) -> None:
    outcomes = await stage.run(text(None, **{"in": file()}), text("b"))
    assert stage.effects == [
        "infer 2", "inferred", "keep", "record", "announce", "ack", "ack",
    ]  # fmt: skip
    assert codes(outcomes) == ["succeeded", "succeeded"]
    assert stage.broker.announced == outcomes


async def test_a_row_that_cannot_be_encoded_fails_alone(stage: Stage) -> None:
    outcomes = await stage.run(text("a"), text(["too", "many"]), text("c"))
    assert codes(outcomes) == ["succeeded", "invalid_input", "succeeded"]
    assert stage.effects[0] == "infer 2"


async def test_what_the_ledger_knew_before_is_not_announced_again(stage: Stage) -> None:
    """Somebody was faster: their outcome is the outcome, and two would be two answers."""
    ticket, other = text("a"), text("b")
    await stage.run(ticket)
    await stage.run(ticket, other)
    assert [it.id for it in stage.broker.announced] == [ticket.id, other.id]


async def test_a_redelivered_prediction_that_has_ended_is_acked_unrun(stage: Stage) -> None:
    ticket = text("a")
    await stage.run(ticket)
    stage.effects.clear()
    await stage.run(ticket, attempt=2)
    assert stage.effects == ["look up", "ack", "inferred", "announce"]


async def test_a_fresh_ticket_is_run_without_counting(stage: Stage) -> None:
    (outcome,) = await stage.run(text("a"))
    assert stage.effects == ["infer 1", "inferred", "record", "announce", "ack"]
    assert outcome is not None
    assert outcome.attempts == 1


async def test_a_redelivered_one_is_counted_right_before_it_runs(stage: Stage) -> None:
    """However often it was delivered: what a dead dispatcher only held has lost nothing."""
    (outcome,) = await stage.run(text("a"), attempt=7)
    assert stage.effects[:3] == ["look up", "begin 1", "infer 1"]
    assert outcome is not None
    assert outcome.attempts == 1


async def test_fresh_and_redelivered_ones_share_a_batch(stage: Stage) -> None:
    fresh, redelivered = stage.delivery(text("a")), stage.delivery(text("b"), 2)
    assert await stage.run_batch([fresh, redelivered]) == []
    assert stage.effects[:3] == ["look up", "begin 1", "infer 2"]
    assert stage.ledger.counts == {redelivered.ticket.id: 1}


async def test_what_was_begun_before_is_set_apart_untouched(stage: Stage) -> None:
    suspect, other = stage.delivery(text("a"), 3), stage.delivery(text("b"), 3)
    stage.ledger.counts[suspect.ticket.id] = 1
    assert await stage.run_batch([suspect, other]) == [suspect]
    assert stage.ledger.counts == {suspect.ticket.id: 1, other.ticket.id: 1}
    assert stage.outcome(suspect.ticket) is None
    assert stage.effects.count("ack") == 1


async def test_a_suspect_in_its_turn_is_counted_and_run(stage: Stage) -> None:
    ticket = text("a")
    stage.ledger.counts[ticket.id] = 1
    outcome = await stage.run_suspect(ticket)
    assert outcome is not None
    assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)


async def test_past_its_attempts_a_prediction_is_recorded_as_failed_before_it_could_run(
    stage: Stage,
) -> None:
    exhausted, last = text("a"), text("b")
    stage.ledger.counts = {exhausted.id: 5, last.id: 4}
    outcome = await stage.run_suspect(exhausted)
    assert codes([outcome]) == ["attempts_exhausted"]
    assert outcome is not None
    assert outcome.attempts == 5
    assert stage.effects == ["look up", "begin 1", "inferred", "record", "announce", "ack"]
    assert codes([await stage.run_suspect(last)]) == ["succeeded"]


async def test_a_run_is_counted_once_even_if_the_ledger_goes_away_while_it_counts(
    stage: Stage,
) -> None:
    stage.ledger.answers_lost = 1
    (outcome,) = await stage.run(text("a"), attempt=2)
    assert outcome is not None
    assert outcome.attempts == 1
    assert stage.effects[:4] == ["look up", "begin 1", "begin 0", "infer 1"]


async def test_a_row_the_model_fails_on_is_given_back_for_later_and_its_run_is_counted(
    stage: Stage,
) -> None:
    ticket = text("a")
    stage.triton.failures = [BatchFailed("out of memory")]
    assert await stage.run(ticket) == [None]
    assert stage.effects == ["infer 1", "inferred", "begin 1", "announce", "give back, delayed"]
    outcome = await stage.run_suspect(ticket, 2)
    assert outcome is not None
    assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)


async def test_a_row_the_model_fails_on_each_time_ends_with_the_last_error(stage: Stage) -> None:
    ticket = text("a")
    stage.triton.failures = [BatchFailed(f"failure {number}") for number in range(1, 6)]
    assert await stage.run(ticket) == [None]
    for attempt in (2, 3, 4):
        assert await stage.run_suspect(ticket, attempt) is None
    outcome = await stage.run_suspect(ticket, 5)
    assert outcome is not None
    assert outcome.error == Failure("inference_failed", "failure 5")
    assert outcome.attempts == 5
    assert stage.ledger.counts == {ticket.id: 5}


async def test_the_neighbours_of_a_row_that_fails_end_at_once(stage: Stage) -> None:
    """The batch, then its first half; the second half is answered."""
    stage.triton.failures = [BatchFailed("out of memory"), BatchFailed("out of memory")]
    first, second = text("a"), text("b")
    assert codes(await stage.run(first, second)) == ["", "succeeded"]
    assert stage.effects.count("give back, delayed") == stage.effects.count("ack") == 1


async def test_what_the_model_refuses_is_final_at_the_first_attempt(stage: Stage) -> None:
    stage.triton.failures = [ModelRejected("wrong shape")]
    (outcome,) = await stage.run(text("a"))
    assert codes([outcome]) == ["model_rejected"]
    assert stage.ledger.counts == {}


def due(value: str, deadline_ms: int) -> Ticket:
    return msgspec.structs.replace(text(value), deadline_ms=deadline_ms)


async def test_an_overdue_prediction_ends_without_being_run(stage: Stage) -> None:
    late, in_time = due("a", stage.now_ms), due("b", stage.now_ms + 1)
    outcomes = await stage.run(late, in_time)
    assert codes(outcomes) == ["deadline_exceeded", "succeeded"]
    assert [outcome.attempts for outcome in outcomes if outcome] == [0, 1]
    assert stage.effects[0] == "infer 1"


async def test_the_deadline_is_looked_at_again_once_the_input_is_encoded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(task("tensor")).encode

    def slowly(*given: Any) -> Any:
        stage.now_ms += 10
        return encode(*given)

    monkeypatch.setattr(type(task("tensor")), "encode", slowly)
    assert codes(await stage.run(due("a", stage.now_ms + 5))) == ["deadline_exceeded"]
    assert stage.effects == ["inferred", "record", "announce", "ack"]


async def test_the_deadline_is_looked_at_again_after_an_outage_of_the_model(stage: Stage) -> None:
    stage.triton.failures = [ModelUnavailable("Triton does not answer")]
    stage.triton.meanwhile = lambda: setattr(stage, "now_ms", stage.now_ms + 10)
    outcomes = await stage.run(due("a", stage.now_ms + 5), text("b"))
    assert codes(outcomes) == ["deadline_exceeded", "succeeded"]
    assert stage.effects[:2] == ["infer 2", "infer 1"]


async def test_an_answer_that_comes_after_the_deadline_counts(stage: Stage) -> None:
    stage.triton.meanwhile = lambda: setattr(stage, "now_ms", stage.now_ms + 10)
    assert codes(await stage.run(due("a", stage.now_ms + 5))) == ["succeeded"]


async def test_what_was_withdrawn_before_it_was_begun_is_acked_unrun(stage: Stage) -> None:
    withdrawn, other = stage.delivery(text("a")), stage.delivery(text("b"))
    withdrawn.withdrawn = True
    await stage.run_batch([withdrawn, other])
    assert stage.effects == ["infer 1", "inferred", "record", "announce", "ack", "ack"]
    assert stage.ledger.kept.keys() == {other.ticket.id}


async def test_what_is_withdrawn_while_the_model_is_away_is_not_run_when_it_is_back(
    stage: Stage,
) -> None:
    delivery = stage.delivery(text("a"))
    stage.triton.failures = [ModelUnavailable("Triton does not answer")]
    stage.triton.meanwhile = lambda: setattr(delivery, "withdrawn", True)
    await stage.run_batch([delivery])
    assert stage.effects == ["infer 1", "inferred", "announce", "ack"]


async def test_what_is_withdrawn_while_it_is_inferred_is_for_the_ledger_to_decide(
    stage: Stage,
) -> None:
    delivery = stage.delivery(text("a"))
    stage.triton.meanwhile = lambda: setattr(delivery, "withdrawn", True)
    await stage.run_batch([delivery])
    assert stage.effects == ["infer 1", "inferred", "record", "announce", "ack"]


async def test_a_ticket_that_cannot_be_read_ends_as_failed_with_the_reason(stage: Stage) -> None:
    delivery = stage.delivery(Ticket(fresh_id(), "text", 1, {}), attempt=9)
    delivery.unreadable = "invalid type"
    await stage.run_batch([delivery])
    outcome = stage.outcome(delivery.ticket)
    assert outcome is not None
    assert outcome.error == Failure("unreadable_ticket", "the ticket cannot be read: invalid type")
    assert outcome.attempts == 0
    assert stage.effects == ["look up", "inferred", "record", "announce", "ack"]


async def test_outcomes_are_held_while_the_ledger_is_away(stage: Stage) -> None:
    stage.ledger.away = 2
    assert codes(await stage.run(text("a"))) == ["succeeded"]
    assert stage.effects == ["infer 1", "inferred", *["record"] * 3, "announce", "ack"]


async def test_an_output_the_ledger_refuses_fails_alone(stage: Stage) -> None:
    outcomes = await stage.run(text("a"), text("b\0b"), text("c"))
    assert codes(outcomes) == ["succeeded", "unrecordable", "succeeded"]
    assert {it.status for it in stage.broker.announced} == {Status.SUCCEEDED, Status.FAILED}
    assert stage.effects.count("ack") == 3


async def test_an_error_the_ledger_refuses_is_recorded_in_other_words(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's own words may hold anything, and there may be no input to leave out."""

    async def refuse(*_: object, **__: object) -> None:
        raise ModelRejected("what is \0?")

    monkeypatch.setattr(PlayedTriton, "infer", refuse)
    (outcome,) = await stage.run(text(None, **{"in": file()}))
    assert codes([outcome]) == ["unrecordable"]
    assert stage.effects.count("ack") == 1


async def test_a_version_that_is_not_served_fails_with_that_reason(stage: Stage) -> None:
    ticket = Ticket(fresh_id(), "text", 9, {"in": "a"})
    assert codes(await stage.run(ticket)) == ["unknown_model"]
    assert stage.effects == ["inferred", "record", "announce", "ack"]


async def test_a_bug_leaves_and_nothing_is_acked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(task("tensor")), "encode", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await stage.run(text("a"))
    assert stage.effects == ["inferred"]
