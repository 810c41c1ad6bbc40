import math

from hypothesis import given
from hypothesis import strategies as st

from broker.drain_rate import DrainRate


def measured(*samples: tuple[float, int, int]) -> DrainRate:
    rate = DrainRate()
    for now, last_sequence, waiting in samples:
        rate.sample(now=now, last_sequence=last_sequence, waiting=waiting)
    return rate


def test_nothing_measured_asks_for_a_short_wait() -> None:
    assert measured().retry_after_s() == 5
    assert measured((0, 100, 100)).retry_after_s() == 5
    assert measured().sampled_at == -math.inf


def test_the_wait_is_the_time_in_which_one_in_a_hundred_leaves() -> None:
    # 50 a second leave; of 10,000 waiting, 100 are one in a hundred: 2 s.
    assert measured((0, 10_000, 10_000), (10, 10_500, 10_000)).retry_after_s() == 2


def test_arrivals_do_not_hide_departures() -> None:
    steady = measured((0, 10_000, 10_000), (10, 10_500, 10_000))
    shrinking = measured((0, 10_000, 10_500), (10, 10_000, 10_000))
    assert steady.retry_after_s() == shrinking.retry_after_s()


def test_while_nothing_leaves_the_wait_is_the_longest() -> None:
    assert measured((0, 10, 10), (10, 10, 10)).retry_after_s() == 60


def test_a_fast_queue_still_asks_for_a_second() -> None:
    assert measured((0, 1000, 10), (1, 6000, 10)).retry_after_s() == 1


def test_samples_too_close_together_say_nothing() -> None:
    assert measured((0, 10, 10), (0.1, 20, 10)).retry_after_s() == 5


def test_old_samples_are_forgotten() -> None:
    # Nothing left in the first minute; since then 100 a second.
    rate = measured((0, 10, 10), (60, 10, 10), (100, 4010, 10))
    assert rate.retry_after_s() == 1
    assert measured((0, 10, 10), (1000, 20, 10)).retry_after_s() == 5


def test_a_new_stream_by_the_same_name_starts_the_measurement_anew() -> None:
    assert measured((0, 5000, 10), (10, 20, 10)).retry_after_s() == 5


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20)
)
def test_the_wait_is_always_between_one_second_and_a_minute(
    steps: list[tuple[float, int, int]],
) -> None:
    rate, now, last = DrainRate(), 0.0, 0
    for pause, arrived, waiting in steps:
        now, last = now + pause, last + arrived
        rate.sample(now=now, last_sequence=last, waiting=min(waiting, last))
        assert 1 <= rate.retry_after_s() <= 60
