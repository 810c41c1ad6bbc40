"""What is tried again, when, and what is final."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import errors
from dispatcher.infer import BroughtDown
from dispatcher.retries import (
    MAY_PASS,
    RETRY_S_FIRST,
    RETRY_S_MAX,
    WAITING_MAX,
    Waiting,
    retry_in_s,
)
from inference import Overran


def after(error: errors.ServiceError, runs: int = 1, **given: float) -> float | None:
    waiting, jitter = int(given.get("waiting", 0)), given.get("jitter", 0.0)
    return retry_in_s(error, runs=runs, attempts_max=50, waiting=waiting, jitter=jitter)


def test_what_a_model_failed_on_is_tried_again_after_twice_the_time_each_time() -> None:
    waits = [after(errors.BatchFailed("out of memory"), runs) for runs in range(1, 10)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelRejected("wrong shape"),
        errors.UnusableOutput("not a number"),
        errors.InvalidInput("not an image"),
        errors.TooLarge("too many pixels"),
        errors.UnknownModel("no such version"),
        BroughtDown("the model went down each time"),
        Overran("it overran"),
        errors.ServiceError("of a kind nobody thought of"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_end_the_same_way_again_is_final_at_once(error: errors.ServiceError) -> None:
    assert after(error) is None


def test_every_kind_of_inference_error_is_in_the_table() -> None:
    kinds = errors.InferenceError.__subclasses__()
    assert kinds
    assert set(kinds) <= set(MAY_PASS)


@given(st.integers(1, 60), st.integers(1, 50))
def test_the_last_of_the_attempts_is_final(runs: int, attempts_max: int) -> None:
    wait_s = retry_in_s(
        errors.BatchFailed("x"), runs=runs, attempts_max=attempts_max, waiting=0, jitter=0
    )
    assert (wait_s is None) == (runs >= attempts_max)


@given(st.integers(1, 49), st.floats(0, 1), st.integers(0, 2 * WAITING_MAX))
def test_a_wait_is_bounded_whatever_the_jitter(runs: int, jitter: float, waiting: int) -> None:
    wait_s = after(errors.BatchFailed("x"), runs, jitter=jitter, waiting=waiting)
    assert wait_s is not None
    assert RETRY_S_FIRST / 2 <= wait_s <= RETRY_S_MAX


def test_where_many_wait_already_the_wait_is_short() -> None:
    """They stay among those in flight; with all of them there, nothing else would be handed out."""
    assert after(errors.BatchFailed("x"), 9, waiting=WAITING_MAX) == RETRY_S_FIRST


def test_those_whose_time_has_come_wait_no_more() -> None:
    waiting = Waiting()
    for until in (5.0, 1.0, 3.0):
        waiting.add(until)
    assert [waiting.count(now) for now in (0.0, 1.0, 2.0, 4.0, 5.0)] == [3, 2, 2, 1, 0]
