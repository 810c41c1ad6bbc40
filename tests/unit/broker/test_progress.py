from hypothesis import given
from hypothesis import strategies as st

from broker.progress import Progress


def test_what_the_consumer_has_handed_out_is_running_and_has_no_position() -> None:
    progress = Progress(delivered=10, pending=5)
    assert progress.is_running(10)
    assert progress.position(10) is None


def test_the_first_ticket_not_handed_out_is_next() -> None:
    progress = Progress(delivered=10, pending=5)
    assert not progress.is_running(11)
    assert progress.position(11) == 1


def test_tickets_of_other_lanes_in_between_do_not_count_beyond_what_is_pending() -> None:
    assert Progress(delivered=10, pending=3).position(1_000) == 3


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 10**9))
def test_a_position_counts_from_one(delivered: int, pending: int, sequence: int) -> None:
    progress = Progress(delivered, pending)
    position = progress.position(sequence)
    assert (position is None) == progress.is_running(sequence)
    assert position is None or 1 <= position <= max(1, sequence - delivered)
