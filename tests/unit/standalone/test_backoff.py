"""When a service is started again."""

from hypothesis import given
from hypothesis import strategies as st

from standalone.backoff import LOOP_ENDS, STEADY_S, WAIT_S_MAX, Backoff


def test_the_first_end_is_followed_by_a_start_at_once() -> None:
    assert Backoff().wait_s(ran_s=0.1) == 0.0


def test_waits_double_until_they_reach_their_limit() -> None:
    backoff = Backoff()
    waits = [backoff.wait_s(ran_s=0.1) for _ in range(9)]
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, WAIT_S_MAX, WAIT_S_MAX, WAIT_S_MAX]


def test_a_steady_run_is_forgiven_everything() -> None:
    backoff = Backoff()
    for _ in range(LOOP_ENDS):
        backoff.wait_s(ran_s=0.1)
    assert backoff.is_loop
    assert backoff.wait_s(ran_s=STEADY_S) == 0.0
    assert not backoff.is_loop


@given(st.lists(st.floats(0, 2 * STEADY_S), max_size=3000))
def test_no_wait_is_ever_negative_or_beyond_the_limit(runs: list[float]) -> None:
    backoff = Backoff()
    assert all(0 <= backoff.wait_s(ran_s=ran_s) <= WAIT_S_MAX for ran_s in runs)


def test_a_service_may_end_for_weeks() -> None:
    backoff = Backoff()
    for _ in range(2000):
        wait_s = backoff.wait_s(ran_s=0.1)
    assert wait_s == WAIT_S_MAX
