"""When a full queue will have room: the measured rate at which tickets leave it. Pure."""

import math
from collections import deque

WINDOW_S = 60.0  # older samples say little about now
SPAN_S_MIN = 0.5  # samples closer together say little at all
RETRY_AFTER_S_MIN = 1
RETRY_AFTER_S_MAX = 60
RETRY_AFTER_S_UNKNOWN = 5  # until two samples are there
SHARE_WORTH_RETURNING = 0.01  # of the queue; the callers sent away share this much room


class DrainRate:
    """Samples of how many tickets have ever left the queue, and what follows from them."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()  # (time, tickets gone so far)
        self._waiting = 0

    @property
    def sampled_at(self) -> float:
        """When the last sample was taken; minus infinity before the first."""
        return self._samples[-1][0] if self._samples else -math.inf

    def sample(self, *, now: float, last_sequence: int, waiting: int) -> None:
        """Note the state of the stream.

        Every sequence number was a ticket once; those no longer waiting have left. So the rate
        does not depend on how many arrive meanwhile.
        """
        gone = last_sequence - waiting
        if self._samples and (gone < self._samples[-1][1] or now - self._samples[-1][0] > WINDOW_S):
            self._samples.clear()  # another stream by the same name, or too long ago
        self._samples.append((now, gone))
        self._waiting = waiting
        while self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()

    def retry_after_s(self) -> int:
        """Seconds in which one ticket in a hundred of those waiting will have left.

        Between 1 and 60; 5 while nothing is known; 60 while nothing leaves.
        """
        if len(self._samples) < 2:
            return RETRY_AFTER_S_UNKNOWN
        (began, gone_then), (ended, gone_now) = self._samples[0], self._samples[-1]
        if ended - began < SPAN_S_MIN:
            return RETRY_AFTER_S_UNKNOWN
        rate = (gone_now - gone_then) / (ended - began)
        wanted = max(1.0, self._waiting * SHARE_WORTH_RETURNING)
        if rate * RETRY_AFTER_S_MAX <= wanted:
            return RETRY_AFTER_S_MAX
        return max(RETRY_AFTER_S_MIN, math.ceil(wanted / rate))
