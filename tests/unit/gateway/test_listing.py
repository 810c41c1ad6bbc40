from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Queued
from contract.errors import InvalidInput
from contract.ids import PredictionId, new_prediction_id
from contract.prediction import Outcome, Prediction, Status, Ticket
from gateway.listing import TRAIL_MAX, Position, Scan, merge, read_cursor, write_cursor

FIRST = Position()


def an_id(number: int) -> PredictionId:
    return new_prediction_id(1_000_000 + number, bytes(10))


def a_ticket(number: int) -> Ticket:
    return Ticket(an_id(number), "identity", 1, {})


def queued(number: int, sequence: int) -> Queued:
    return Queued(a_ticket(number), sequence, running=False, position=None)


def ended(number: int) -> Prediction:
    return Prediction(a_ticket(number), Outcome(an_id(number), Status.CANCELED, 1, 2, 0))


class World:
    """A queue and a ledger as lists, paged the way `Listing` pages the real ones.

    Tickets of `others` fill the queue too, and are not shown; a page reads the queue once.
    """

    def __init__(self, numbers: set[int], waiting: set[int], others: set[int]) -> None:
        self.others = set(map(an_id, others))
        in_queue = sorted(waiting | others)
        self.queue = [queued(n, s) for s, n in zip(count(1), in_queue, strict=False)]
        self.ledger = [ended(n) for n in sorted(numbers) if n not in waiting]

    def end(self, number: int, *, is_acked: bool) -> None:
        if is_acked:
            self.queue = [each for each in self.queue if each.ticket.id != an_id(number)]
        self.ledger.append(ended(number))

    def page(self, here: Position, rows_max: int) -> tuple[list[str], Position, bool]:
        before = here.before_sequence
        left = [q for q in reversed(self.queue) if before is None or q.sequence < before]
        read = left[:rows_max]
        scan = Scan(
            [q for q in read if q.ticket.id not in self.others],
            read[-1].sequence if read else before,
            read[-1].ticket.id if len(left) >= rows_max else None,
        )
        rows = sorted(self.ledger, key=lambda each: each.id, reverse=True)
        page = [p for p in rows if here.before_id is None or p.id < here.before_id][:rows_max]
        merged, after = merge(scan, page, here, rows_max=rows_max)
        is_last = scan.is_complete and len(merged) < rows_max
        return [row.ticket.id for row in merged], after, is_last


NUMBERS = st.integers(0, 60)


@given(
    st.sets(NUMBERS, max_size=40),
    st.sets(NUMBERS, max_size=40),
    st.sets(NUMBERS, max_size=20),
    st.integers(1, 9),
    st.lists(NUMBERS, max_size=6),
)
def test_walking_all_pages_shows_every_prediction_once_and_newest_first(
    numbers: set[int], waiting: set[int], others: set[int], rows_max: int, ending: list[int]
) -> None:
    """Also while predictions move from the queue to the ledger between two pages."""
    waiting &= numbers
    world = World(numbers, waiting, others - numbers)
    here, is_last, shown = FIRST, False, list[str]()
    while not is_last:
        rows, here, is_last = world.page(here, rows_max)
        shown += rows
        if ending and (number := ending.pop()) in waiting:
            waiting.discard(number)
            world.end(number, is_acked=number % 2 == 0)
    assert shown == sorted(map(an_id, numbers), reverse=True)


def test_what_ended_between_the_two_reads_is_shown_once_as_ended() -> None:
    scan = Scan([queued(1, 7)], 7, None)
    rows, _ = merge(scan, [ended(1)], FIRST, rows_max=10)
    assert [row.outcome is not None for row in rows] == [True]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=TRAIL_MAX))
def test_a_cursor_comes_back_as_it_went_out(numbers: list[int]) -> None:
    trail = tuple(Position(an_id(number), number) for number in numbers)
    cursor = write_cursor(trail)
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert read_cursor(cursor) == trail


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.hex()))
def test_anything_else_is_no_cursor(text: str) -> None:
    with suppress(InvalidInput):
        trail = read_cursor(text)
        assert text == "" or read_cursor(write_cursor(trail)) == trail


@pytest.mark.parametrize(
    "trail",
    [
        (),
        (Position(PredictionId("x" * 26), 1),),
        (FIRST,) * (TRAIL_MAX + 1),
    ],
)
def test_a_cursor_that_was_tampered_with_is_refused(trail: tuple[Position, ...]) -> None:
    with pytest.raises(InvalidInput):
        read_cursor(write_cursor(trail))
