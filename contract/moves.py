"""The states of a prediction and the moves between them: the one table. Pure.

No process stores a state. Each follows from where the prediction is (in the queue, handed out or
not; in the ledger, with its outcome), so a move is an effect, and this table says which effects
there are. The documents draw their picture from it, and the chaos tests judge by it what callers
have seen.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a prediction stands, as anybody can see it."""

    WAITING = "waiting"  # its ticket is in the queue
    RUNNING = "running"  # its ticket was delivered to a dispatcher, now or earlier
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"  # its outcome was removed, at the end of the retention


@dataclass(frozen=True, slots=True)
class Move:
    """One way to get from one state to another; `before` is None for the first."""

    before: State | None
    after: State
    cause: str
    effect: str  # the one write that makes it so


MOVES = (
    Move(None, State.WAITING, "submit, retry of a failed one", "ticket published"),
    Move(State.WAITING, State.RUNNING, "a dispatcher has room", "ticket delivered"),
    Move(State.RUNNING, State.SUCCEEDED, "the model answered", "row inserted"),
    Move(State.RUNNING, State.FAILED, "refused, attempts or time used up", "row inserted"),
    Move(State.RUNNING, State.CANCELED, "cancel", "row inserted"),
    Move(State.WAITING, State.FAILED, "its deadline has passed", "row inserted"),
    Move(State.WAITING, State.CANCELED, "cancel", "row inserted"),
    Move(State.SUCCEEDED, State.EXPIRED, "retention", "partition dropped"),
    Move(State.FAILED, State.EXPIRED, "retention", "partition dropped"),
    Move(State.CANCELED, State.EXPIRED, "retention", "partition dropped"),
)

ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED})


def may_follow(before: State | None, after: State) -> bool:
    """Whether an observer who saw `before` may see `after` next, having missed what lay between.

    Seeing the same state again is always possible.
    """
    if before is after:
        return True
    onward = [move.after for move in MOVES if move.before is before]
    return any(may_follow(step, after) for step in onward)
