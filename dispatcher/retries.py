"""Whether a row that failed by itself is tried again, and when. Pure.

What has run, it has run alone: a batch that fails is halved until the row that is the cause stands
without neighbours. A part that is away is no failure, and does not come here.
"""

from collections.abc import Mapping
from heapq import heappop, heappush

from contract.errors import (
    BatchFailed,
    InvalidInput,
    ModelRejected,
    ServiceError,
    UnknownModel,
    UnusableOutput,
)
from dispatcher.infer import BroughtDown
from inference import Overran

RETRY_S_FIRST = 0.5
RETRY_S_MAX = 30.0
# Tickets that wait for their next try stay among those in flight, of which JetStream hands out 4096
# to all dispatchers together: with many of them, the waits are short.
WAITING_MAX = 256

# By kind of error: whether the next run of the same input may end differently. The nearest parent
# of a kind that is not here speaks for it.
MAY_PASS: Mapping[type[ServiceError], bool] = {
    BatchFailed: True,  # out of memory, a CUDA error, whatever a model raises
    BroughtDown: False,  # was repeated already, each time at the price of the model's process
    Overran: False,  # would take as long again
    ModelRejected: False,
    UnusableOutput: False,
    InvalidInput: False,
    UnknownModel: False,
}


def retry_in_s(
    error: ServiceError, *, runs: int, attempts_max: int, waiting: int, jitter: float
) -> float | None:
    """How long to wait before the next run; None if `error` is how the row ends.

    The wait doubles from 0.5 s to 30 s, and is shortened by up to a half.

    Args:
        runs: how often the row has run, this time included.
        waiting: how many rows wait for their next run already.
        jitter: 0 to 1, at random, so that rows that failed together come back one by one.
    """
    if runs >= attempts_max or not _may_pass(error):
        return None
    wait_s = RETRY_S_FIRST
    if waiting < WAITING_MAX:
        wait_s = min(RETRY_S_FIRST * 2 ** min(runs - 1, 10), RETRY_S_MAX)
    return wait_s * (1 - jitter / 2)


def _may_pass(error: ServiceError) -> bool:
    return next((MAY_PASS[kind] for kind in type(error).__mro__ if kind in MAY_PASS), False)


class Waiting:
    """How many rows wait for their next run."""

    def __init__(self) -> None:
        self._until: list[float] = []  # a heap

    def count(self, now: float) -> int:
        while self._until and self._until[0] <= now:
            heappop(self._until)
        return len(self._until)

    def add(self, until: float) -> None:
        heappush(self._until, until)
