"""The checker reports each broken promise by its own word, and nothing where all were kept."""

from typing import Any

import pytest

from contract.moves import State
from tests.chaos.checker import Kind, alike, check
from tests.chaos.history import Announced, Call, End, Known, Record, Row, Rules, Seen

ID, OTHER = "a" * 26, "b" * 26
ASKED = "text:hello"


def succeeded(output: Any = None, **fields: Any) -> dict[str, Any]:
    answer = {"OUTPUT0": ["hello"]} if output is None else output
    return {"status": "succeeded", "output": answer, "attempts": 1, **fields}


def failed(code: str) -> dict[str, Any]:
    return {"status": "failed", "error_code": code, "attempts": 1}


CANCELED = {"status": "canceled", "attempts": 0}


def sight(state: State, outcome: dict[str, Any] | None = None, of: str = ID) -> Seen:
    return Seen(of, state, outcome)


WAITING, RUNNING = sight(State.WAITING), sight(State.RUNNING)
ENDED = sight(State.SUCCEEDED, succeeded())


def submit(at: float = 1.0, seen: Seen = WAITING, **fields: Any) -> Call:
    told: dict[str, Any] = {"kind": "submit", "status": 202, "asked": ASKED, **fields}
    return Call(began=at, ended=at + 0.1, seen=[seen], **told)


def get(at: float, *seen: Seen, status: int = 200, **fields: Any) -> Call:
    told: dict[str, Any] = {"kind": "get", "id": ID, "ended": at + 0.1, **fields}
    return Call(began=at, status=status, seen=list(seen), **told)


def row(outcome: dict[str, Any] | None = None, of: str = ID) -> Row:
    return Row(of, ASKED, outcome or succeeded())


def judged(*records: Record, **end: Any) -> set[Kind]:
    """The kinds of violation in a history with a fault from second 10 to second 20."""
    told: dict[str, Any] = {"queued": [], "missing": {}, **end}
    names = ("attempts_max", "submits", "reads")
    rules = Rules("a cell", 1, **{name: told.pop(name) for name in names if name in told})
    found = check([rules, *records, End(fault_began=10.0, recovered=20.0, **told)])
    return {violation.kind for violation in found}


def test_a_history_in_which_all_went_well_has_no_violation() -> None:
    assert judged(submit(), get(2.0, RUNNING), get(3.0, ENDED), Announced(3.0, ID), row()) == set()


def test_an_accepted_prediction_that_is_nowhere_is_lost() -> None:
    assert judged(submit()) == {Kind.LOST}


def test_an_accepted_prediction_that_is_still_queued_is_stuck() -> None:
    assert judged(submit(), queued=[ID]) == {Kind.STUCK}
    assert judged(queued=[OTHER]) == {Kind.STUCK}


def test_a_ticket_that_outlives_its_prediction_is_a_leftover() -> None:
    assert judged(submit(), row(), queued=[ID]) == {Kind.LEFTOVER}


def test_two_outcomes_of_one_prediction_are_a_double() -> None:
    later = sight(State.SUCCEEDED, succeeded(completed_at="later"))
    assert judged(submit(), get(2.0, ENDED), get(3.0, later), row()) == {Kind.DOUBLE}
    assert judged(submit(), get(2.0, later), row()) == {Kind.DOUBLE}


def test_an_end_that_is_announced_twice_is_a_double() -> None:
    assert judged(submit(), Announced(2.0, ID), Announced(3.0, ID), row()) == {Kind.DOUBLE}


def test_an_output_that_the_model_would_not_give_is_wrong() -> None:
    assert judged(submit(), row(succeeded({"OUTPUT0": ["hullo"]}))) == {Kind.WRONG}
    image = submit(asked="image:cat")
    known = Known("image:cat", [{"label": "tabby", "score": 0.5}])
    near = row(succeeded([{"label": "tabby", "score": 0.50001}]))
    far = row(succeeded([{"label": "tabby", "score": 0.6}]))
    assert judged(known, image, near) == set()
    assert judged(known, image, far) == {Kind.WRONG}


def test_a_failure_that_nobody_asked_for_is_one() -> None:
    assert judged(submit(), row(failed("inference_failed"))) == {Kind.FAILED}
    assert judged(submit(), row(failed("deadline_exceeded"))) == {Kind.FAILED}
    assert judged(submit(), row(CANCELED)) == {Kind.FAILED}


def test_an_end_that_was_asked_for_is_none() -> None:
    assert judged(submit(cancel_after_s=1.0), row(failed("deadline_exceeded"))) == set()
    assert judged(submit(), get(2.0, kind="cancel"), row(CANCELED)) == set()


def test_a_state_that_cannot_follow_is_backwards() -> None:
    assert judged(submit(), get(2.0, RUNNING), get(3.0, WAITING), row()) == {Kind.BACKWARDS}
    assert judged(submit(), get(2.0, ENDED), get(3.0, RUNNING), row()) == {Kind.BACKWARDS}


def test_calls_that_overlap_have_no_order() -> None:
    held = get(2.0, WAITING, kind="wait", wait_s=5.0, ended=7.0)
    assert judged(submit(), held, get(3.0, RUNNING), row()) == set()


@pytest.mark.parametrize("status", [404, 410])
def test_an_accepted_prediction_that_is_not_found_is_unknown(status: int) -> None:
    assert judged(submit(), get(2.0, status=status), row()) == {Kind.UNKNOWN}


def test_not_found_before_it_was_accepted_is_right() -> None:
    assert judged(get(0.5, status=404), submit(), row()) == set()


def test_one_key_for_two_predictions_is_split() -> None:
    other = sight(State.WAITING, of=OTHER)
    twice = (submit(key="k"), submit(2.0, seen=other, key="k"))
    assert judged(*twice, row(), row(of=OTHER)) == {Kind.SPLIT}
    # The second was never answered, and its text is in the ledger all the same.
    assert judged(submit(key="k"), row(), row(of=OTHER)) == {Kind.SPLIT}


def test_a_refusal_without_a_fault_is_dishonest() -> None:
    busy: dict[str, Any] = {"status": 503, "retry_after": "5"}
    assert judged(get(2.0, **busy)) == {Kind.DISHONEST}
    assert judged(get(12.0, **busy)) == set()
    assert judged(get(12.0, status=0, failure="refused")) == set()
    assert judged(get(22.0, status=0, failure="refused")) == {Kind.DISHONEST}


def test_a_refusal_without_retry_after_is_dishonest() -> None:
    assert judged(get(12.0, status=503)) == {Kind.DISHONEST}
    assert judged(get(12.0, status=429, retry_after="soon")) == {Kind.DISHONEST}


@pytest.mark.parametrize("status", [400, 409, 422, 500, 502])
def test_a_fault_makes_no_request_wrong_and_no_500(status: int) -> None:
    assert judged(get(12.0, status=status)) == {Kind.DISHONEST}


def test_an_answer_after_its_limit_is_late() -> None:
    assert judged(get(1.0, kind="wait", wait_s=2.0, ended=9.9)) == set()
    assert judged(get(1.0, kind="wait", wait_s=0.5, ended=9.9)) == {Kind.LATE}
    assert judged(get(12.0, kind="wait", wait_s=2.0, ended=60.0)) == {Kind.LATE}


def test_an_outage_that_counts_as_an_attempt_is_reported() -> None:
    twice = {**succeeded(), "attempts": 2}
    assert judged(submit(), row(twice), attempts_max=1) == {Kind.ATTEMPTS}
    assert judged(submit(), row(twice)) == set()


def test_a_submit_that_does_without_the_part_that_is_away_must_be_accepted() -> None:
    refused = Call("submit", 12.0, 12.1, 503, asked=ASKED, retry_after="5")
    assert judged(refused) == set()
    assert judged(refused, submits=True) == {Kind.OUTAGE}


def test_what_has_ended_must_be_readable_without_the_queue() -> None:
    refused: dict[str, Any] = {"status": 503, "retry_after": "5"}
    before = (submit(), get(2.0, ENDED), row())
    assert judged(*before, get(12.0, **refused)) == set()
    assert judged(*before, get(12.0, **refused), reads=True) == {Kind.OUTAGE}
    assert judged(submit(), row(), get(12.0, **refused), reads=True) == set()


def test_memory_that_grows_without_bound_is_reported() -> None:
    assert judged(grown_mb=20.0) == set()
    assert judged(grown_mb=2000.0) == {Kind.MEMORY}


def test_a_part_that_does_not_come_back_is_reported() -> None:
    assert judged(missing={"ledger": "it does not answer"}) == {Kind.UNREADY}


def test_numbers_may_differ_a_little_and_words_not_at_all() -> None:
    assert alike({"a": [1.0, "x"]}, {"a": [1.0000001, "x"]})
    assert not alike({"a": [1.0]}, {"a": [1.0, 2.0]})
    assert not alike({"a": 1.0}, {"b": 1.0})
    assert not alike("x", "y")
