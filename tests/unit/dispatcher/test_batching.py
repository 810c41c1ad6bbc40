"""Which rows run together: promises that hold for every order of arrival."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from contract.catalog import Lane
from contract.prediction import Priority
from dispatcher.batching import SHARES, Batch, Batcher

LANES = [Lane("m", 1), Lane("m", 2)]
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW

# An arrival (lane, priority), or None: a call has room, take a batch.
Step = tuple[Lane, Priority] | None
steps = st.lists(
    st.none() | st.tuples(st.sampled_from(LANES), st.sampled_from(Priority)), max_size=80
)


def played(script: list[Step], rows_max: int) -> list[Batch[int]]:
    """Every batch of a script; rows are numbered by their step. What is left comes at the end."""
    batcher: Batcher[int] = Batcher(rows_max)
    batches = []
    for number, step in enumerate(script):
        if step is not None:
            batcher.add(number, *step)
        elif (batch := batcher.take()) is not None:
            batches.append(batch)
    while (batch := batcher.take()) is not None:
        batches.append(batch)
    assert len(batcher) == 0
    return batches


@given(steps, st.integers(1, 7))
def test_every_row_comes_out_exactly_once(script: list[Step], rows_max: int) -> None:
    out = [row for batch in played(script, rows_max) for row in batch.rows]
    assert sorted(out) == [number for number, step in enumerate(script) if step is not None]


@given(steps, st.integers(1, 7))
def test_rows_keep_their_order_within_lane_and_priority(script: list[Step], rows_max: int) -> None:
    out = [row for batch in played(script, rows_max) for row in batch.rows]
    for lane in LANES:
        for priority in Priority:
            family = [n for n in out if (it := script[n]) and it[:2] == (lane, priority)]
            assert family == sorted(family)


@given(steps, st.integers(1, 7))
def test_a_batch_is_of_one_lane_and_within_its_bound(script: list[Step], rows_max: int) -> None:
    for batch in played(script, rows_max):
        assert 1 <= len(batch.rows) <= rows_max
        assert {it[0] for n in batch.rows if (it := script[n])} == {batch.lane}


@given(st.integers(1, 20), st.integers(1, 64))
def test_a_batch_is_as_full_as_what_waits_allows(rows_max: int, waiting: int) -> None:
    batcher: Batcher[int] = Batcher(rows_max)
    for number in range(waiting):
        batcher.add(number, LANES[0], list(Priority)[number % 3])
    batch = batcher.take()
    assert batch is not None
    assert len(batch.rows) == min(rows_max, waiting)


def saturated(batcher: Batcher[Priority], classes: list[Priority], rows: int) -> Counter[Priority]:
    """Whose rows come out first, of `rows` rows, when every class always has more waiting."""
    for priority in classes:
        for _ in range(rows):
            batcher.add(priority, LANES[0], priority)
    taken: Counter[Priority] = Counter()
    while taken.total() < rows:
        batch = batcher.take()
        assert batch is not None
        taken.update(batch.rows)
    return taken


@given(st.integers(1, 64))
def test_busy_classes_get_their_shares(rows_max: int) -> None:
    taken = saturated(Batcher(rows_max), [HIGH, NORMAL, LOW], 1000)
    for priority, share in SHARES.items():
        assert abs(taken[priority] / taken.total() - share / 10) < 0.01


@given(st.integers(1, 64))
def test_an_idle_class_leaves_its_share_to_the_others(rows_max: int) -> None:
    taken = saturated(Batcher(rows_max), [NORMAL, LOW], 1000)
    assert abs(taken[NORMAL] / taken.total() - 3 / 4) < 0.01


@given(st.integers(1, 16), st.integers(0, 2000))
def test_a_class_that_was_idle_cannot_shut_the_others_out(rows_max: int, before: int) -> None:
    """However long only high was served, afterwards normal and high share as if both were new."""
    batcher: Batcher[Priority] = Batcher(rows_max)
    for _ in range(before):
        batcher.add(HIGH, LANES[0], HIGH)
    while batcher.take() is not None:
        pass
    taken = saturated(batcher, [NORMAL, HIGH], 900)
    assert abs(taken[HIGH] / taken.total() - 6 / 9) < 0.02


@given(st.integers(1, 16), st.sampled_from(LANES))
def test_low_never_starves_whatever_the_others_send(rows_max: int, low_lane: Lane) -> None:
    """A low row waits for at most ten rows' worth of turns, and for the batch it falls into."""
    batcher: Batcher[Priority] = Batcher(rows_max)
    batcher.add(LOW, low_lane, LOW)
    ahead = 0
    while True:
        for priority in (HIGH, NORMAL):
            for _ in range(rows_max):
                batcher.add(priority, LANES[0], priority)
        batch = batcher.take()
        assert batch is not None
        if LOW in batch.rows:
            break
        ahead += len(batch.rows)
        assert ahead <= 10 + rows_max


@given(st.integers(1, 16))
def test_lanes_share_a_priority_by_age(rows_max: int) -> None:
    """A version with a flood before it is reached once that flood's older rows are out."""
    batcher: Batcher[str] = Batcher(rows_max)
    for _ in range(rows_max):
        batcher.add("older", LANES[0], NORMAL)
    batcher.add("other", LANES[1], NORMAL)
    for _ in range(5 * rows_max):
        batcher.add("newer", LANES[0], NORMAL)
    first, second = batcher.take(), batcher.take()
    assert first is not None
    assert second is not None
    assert set(first.rows) == {"older"}
    assert second.rows == ("other",)


def test_an_empty_batcher_has_no_batch() -> None:
    assert Batcher[int](8).take() is None
