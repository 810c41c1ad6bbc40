"""What happens while a part we rely on is away: whoever needs it waits, and nothing new begins."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from contract.errors import DependencyError, ServiceError
from telemetry import metrics

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRY_S_FIRST = 0.1
RETRY_S_MAX = 0.5  # work resumes so much later than the part is back, at the most


class Outage:
    """Whether one part is away, and why.

    `reason` is a sentence while it is away, and empty otherwise. An outage is nobody's failed
    attempt: what is held waits for its end, and its length is not bounded.
    """

    def __init__(self, part: str, *, reason: str = "") -> None:
        self._part = part
        self.reason = reason
        self._hooks: list[Callable[[], None]] = []

    def when_changed(self, hook: Callable[[], None]) -> None:
        """Call `hook` whenever the part goes away, or is back."""
        self._hooks.append(hook)

    def begin(self, reason: str) -> None:
        if not self.reason:
            metrics.OUTAGES.labels(self._part).inc()
            log.warning("outage.begun", extra={"part": self._part, "reason": reason})
        self._change(reason)

    def end(self) -> None:
        if self.reason:
            log.info("outage.over", extra={"part": self._part})
        self._change("")

    def _change(self, reason: str) -> None:
        if reason == self.reason:
            return
        self.reason = reason
        for hook in self._hooks:
            hook()

    async def ride_out(self, effect: Callable[[], Awaitable[T]]) -> T:
        """Repeat `effect` until the part answers. The effect must bear being done twice.

        Raises:
            ServiceError: any but a DependencyError: that is an answer too.
        """
        pause_s = RETRY_S_FIRST
        while True:
            try:
                result = await effect()
            except DependencyError as error:
                self.begin(str(error))
            except ServiceError:
                self.end()
                raise
            else:
                self.end()
                return result
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S_MAX)
