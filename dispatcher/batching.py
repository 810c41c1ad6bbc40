"""Decides which rows run together, and in which order.

Pure: no clock, no task, no I/O. There is nothing to wait for either: a batch is made when a call is
about to be free, of whatever is there by then. At low load that is one row at once; under load rows
gather while the calls are busy, and batches are full.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from contract.catalog import Lane
from contract.prediction import Priority

T = TypeVar("T")

# Of ten rows of a model that has more work of every priority than it can do: who gets how many.
SHARES: Mapping[Priority, int] = {Priority.HIGH: 6, Priority.NORMAL: 3, Priority.LOW: 1}


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Rows of one lane that go into one Triton request."""

    lane: Lane
    rows: tuple[T, ...]


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    row: T
    arrival: int  # counts up over the whole batcher


@dataclass(slots=True)
class _Class(Generic[T]):
    """The rows of one priority, by lane; lanes without rows are not in it."""

    cost: float  # of one row
    spent: float = 0.0
    lanes: dict[Lane, deque[_Waiting[T]]] = field(default_factory=dict)

    def oldest_lane(self) -> Lane:
        return min(self.lanes, key=lambda lane: self.lanes[lane][0].arrival)

    def pop(self, lane: Lane) -> _Waiting[T]:
        waiting = self.lanes[lane]
        first = waiting.popleft()
        if not waiting:
            del self.lanes[lane]
        self.spent += self.cost
        return first


class Batcher(Generic[T]):
    """Holds the rows of one model until a call has room for them.

    Every row added comes out exactly once, in order of arrival within its lane and priority; no
    batch exceeds `rows_max`, and none mixes lanes.

    Priorities compete by credit: each row costs its class the inverse of its share, and the class
    that has spent least goes next. So under load the shares are `SHARES`, a class without rows
    leaves its share to the others, and no class waits for ever. A class that was idle starts from
    where the others are: it cannot save credit up and then shut the others out.

    Source: Waldspurger and Weihl 1995, "Stride Scheduling", section 2.
    """

    def __init__(self, rows_max: int) -> None:
        assert rows_max >= 1
        self._rows_max = rows_max
        self._classes: dict[Priority, _Class[T]] = {
            priority: _Class(1 / share) for priority, share in SHARES.items()
        }
        self._arrivals = 0
        self._size = 0
        self._spent = 0.0  # by the class that had spent least when it was last served

    def __len__(self) -> int:
        return self._size

    def add(self, row: T, lane: Lane, priority: Priority) -> None:
        """Queue `row`."""
        chosen = self._classes[priority]
        if not chosen.lanes:
            chosen.spent = max(chosen.spent, self._spent)
        waiting = _Waiting(row, self._arrivals)
        chosen.lanes.setdefault(lane, deque()).append(waiting)
        self._arrivals += 1
        self._size += 1

    def take(self) -> Batch[T] | None:
        """Hand out the next batch, or None when nothing waits."""
        busy = [it for it in self._classes.values() if it.lanes]
        if not busy:
            return None
        first_class = min(busy, key=_spent)
        self._spent = first_class.spent
        lane = first_class.oldest_lane()
        rows = [first_class.pop(lane).row, *self._company(lane, busy)]
        self._size -= len(rows)
        return Batch(lane, tuple(rows))

    def _company(self, lane: Lane, busy: list[_Class[T]]) -> list[T]:
        """Rows of `lane` for the rest of a batch."""
        rows: list[T] = []
        while len(rows) < self._rows_max - 1:
            joining = [it for it in busy if lane in it.lanes]
            if not joining:
                break
            rows.append(min(joining, key=_spent).pop(lane).row)
        return rows


def _spent(it: _Class[T]) -> float:
    return it.spent
