import math

from hypothesis import given
from hypothesis import strategies as st

from broker.drain_rate import DrainRate

SMALL = 100  # bytes of a ticket


def measured(*samples: tuple[float, int, int]) -> DrainRate:
    """After samples of (time, tickets ever stored, tickets waiting)."""
    rate = DrainRate()
    for now, last_sequence, waiting in samples:
        rate.sample(now=now, last_sequence=last_sequence, waiting=waiting, size=SMALL * waiting)
    return rate


def wait_s(*samples: tuple[float, int, int], size: int = SMALL) -> int:
    return measured(*samples).retry_after_s(size)


def test_nothing_measured_asks_for_a_short_wait() -> None:
    assert wait_s() == 5
    assert wait_s((0, 100, 100)) == 5
    assert measured().sampled_at == -math.inf


def test_the_wait_is_the_time_in_which_one_in_a_hundred_leaves() -> None:
    # 50 a second leave; of 10,000 waiting, 100 are one in a hundred: 2 s.
    assert wait_s((0, 10_000, 10_000), (10, 10_500, 10_000)) == 2


def test_a_large_ticket_waits_until_as_many_bytes_have_left() -> None:
    # 5 a second leave, of 100 bytes each: room for 10,000 bytes takes 20 s.
    assert wait_s((0, 1000, 1000), (10, 1050, 1000), size=10_000) == 20


def test_arrivals_do_not_hide_departures() -> None:
    steady = wait_s((0, 10_000, 10_000), (10, 10_500, 10_000))
    shrinking = wait_s((0, 10_000, 10_500), (10, 10_000, 10_000))
    assert steady == shrinking


def test_while_nothing_leaves_the_wait_is_as_long_as_nothing_has_left() -> None:
    waits = [
        wait_s(*[(float(at), 10, 10) for at in range(0, until + 1, 5)]) for until in (5, 30, 90)
    ]
    assert waits == [5, 30, 60]


def test_a_pause_after_a_fast_drain_is_not_taken_for_a_fast_drain() -> None:
    drained = [(float(at), 1000 + 100 * at, 10) for at in range(20)]
    paused = [(20.0 + at, 2900, 10) for at in range(30)]
    assert wait_s(*drained) == 1
    assert wait_s(*drained, *paused) == 30


def test_a_drain_that_goes_on_after_a_pause_is_believed_at_once() -> None:
    paused = [(float(at), 1000, 100) for at in range(60)]
    resumed = [(60.0 + at, 1000 + 20 * at, 100) for at in range(4)]
    assert wait_s(*paused) == 59
    assert wait_s(*paused, *resumed) == 1


def test_an_idle_time_before_says_nothing_of_how_fast_the_queue_drains() -> None:
    idle = [(float(at), 100, 0) for at in range(0, 60, 5)]
    assert wait_s(*idle, (60, 1100, 1000)) == 5
    assert wait_s(*idle, (60, 1100, 1000), (63, 1400, 1000)) == 1


def test_a_slow_queue_is_measured_over_a_longer_time() -> None:
    # One leaves each 15 s, the last one just now.
    assert wait_s(*[(float(at), 100 + at // 15, 50) for at in range(91)]) == 15


def test_a_fast_queue_still_asks_for_a_second() -> None:
    assert wait_s((0, 1000, 10), (2, 6000, 10)) == 1


def test_samples_too_close_together_say_nothing() -> None:
    assert wait_s((0, 10, 10), (0.1, 20, 10)) == 5


def test_old_samples_are_forgotten() -> None:
    assert wait_s((0, 10, 10), (1000, 20, 10)) == 5


def test_a_new_stream_by_the_same_name_starts_the_measurement_anew() -> None:
    assert wait_s((0, 5000, 10), (10, 20, 10)) == 5


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 10**6), st.integers(0, 10**6)), max_size=20
    ),
    st.integers(0, 2**21),
)
def test_the_wait_is_always_between_one_second_and_a_minute(
    steps: list[tuple[float, int, int]], size: int
) -> None:
    rate, now, last = DrainRate(), 0.0, 0
    for pause, arrived, waiting in steps:
        now, last, waiting = now + pause, last + arrived, min(waiting, last + arrived)
        rate.sample(now=now, last_sequence=last, waiting=waiting, size=SMALL * waiting)
        assert 1 <= rate.retry_after_s(size) <= 60
