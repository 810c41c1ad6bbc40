"""When a full queue will have room: the measured rate at which tickets leave it. Pure."""

import math
from collections import deque

WINDOW_S = 120.0  # older samples say nothing about now
SPAN_S_MIN = 2.0  # departures of less say little: they come in batches
DEPARTURES = 8  # that make a rate; of a slow queue as many as the window holds
RETRY_AFTER_S_MIN = 1
RETRY_AFTER_S_MAX = 60
RETRY_AFTER_S_UNKNOWN = 5  # until something was measured
SHARE_WORTH_RETURNING = 0.01  # of the queue; the callers sent away share this much room


class DrainRate:
    """Samples of how many tickets have ever left the queue, and what follows from them.

    The rate is that of the latest departures: one of a minute ago would promise room to callers
    long after everything has stopped, and refuse it to them when it goes on.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()  # (time, tickets gone so far)
        self._waiting = 0
        self._bytes = 0

    @property
    def sampled_at(self) -> float:
        """When the last sample was taken; minus infinity before the first."""
        return self._samples[-1][0] if self._samples else -math.inf

    def sample(self, *, now: float, last_sequence: int, waiting: int, size: int) -> None:
        """Note the state of the stream: `waiting` tickets of `size` bytes together.

        Every sequence number was a ticket once; those no longer waiting have left. So the rate
        does not depend on how many arrive meanwhile.
        """
        gone = last_sequence - waiting
        if self._samples and gone < self._samples[-1][1]:
            self._samples.clear()  # another stream by the same name
        if not waiting:
            self._samples.clear()  # what leaves an empty queue says nothing of what could have
        self._samples.append((now, gone))
        self._waiting, self._bytes = waiting, size
        while self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()

    def retry_after_s(self, size: int) -> int:
        """Seconds in which there will be room for `size` bytes, and for others sent away as well.

        That is, until one ticket in a hundred of those waiting will have left, or as many as hold
        `size` bytes; never less than nothing has left for. Between 1 and 60; 5 while nothing is
        known.
        """
        wait_s = max(self._expected_s(size), self._silence_s())
        return max(RETRY_AFTER_S_MIN, min(math.ceil(wait_s), RETRY_AFTER_S_MAX))

    def _expected_s(self, size: int) -> float:
        if not (rate := self._rate()):
            return RETRY_AFTER_S_UNKNOWN
        room = size * self._waiting / self._bytes if self._bytes else 0.0  # in tickets, as they are
        return max(1.0, room, self._waiting * SHARE_WORTH_RETURNING) / rate

    def _rate(self) -> float:
        """Tickets a second in the shortest time that shows a rate; 0 where none does."""
        left = span_s = 0.0
        for at, gone in reversed(self._samples):
            span_s, left = self._samples[-1][0] - at, self._samples[-1][1] - gone
            if span_s >= SPAN_S_MIN and left >= DEPARTURES:
                break
        return left / span_s if span_s >= SPAN_S_MIN else 0.0

    def _silence_s(self) -> float:
        """For how long nothing has left."""
        since = next((at for at, gone in self._samples if gone == self._samples[-1][1]), 0.0)
        return self._samples[-1][0] - since if self._samples else 0.0
