"""Finds dead stubs of Triton, and has Triton replace them.

Triton neither restarts a stub that died nor reports it: the server stays ready while every request
to that stub fails.
"""

import asyncio
import logging
from collections import Counter

from standalone.triton import Triton, TritonNotHealed, living_stubs, stubs_alive

log = logging.getLogger(__name__)

STUBS_S_MAX = 10.0  # a model is loaded again in half a second on an idle machine


class StubRemedy:
    """The `Remedy` of Triton: one reload of the model instead of a restart of the server."""

    def __init__(self, triton: Triton) -> None:
        self._triton = triton
        self._pid = 0
        self._expected: Counter[str] = Counter()

    async def ailment(self, pid: int) -> str:
        alive = await asyncio.to_thread(living_stubs, pid)
        if pid != self._pid:  # a new run of the server: what it began with is what it should have
            self._pid, self._expected = pid, alive
        missing = self._expected - alive
        return f"dead stubs of {', '.join(sorted(missing))}" if missing else ""

    async def heal(self) -> bool:
        alive = await asyncio.to_thread(living_stubs, self._pid)
        for model in self._expected - alive:
            try:
                await self._triton.heal(model)
            except TritonNotHealed as error:
                log.warning("triton.not_healed", extra={"model": model, "reason": str(error)})
                return False
        return await stubs_alive(self._pid, self._expected, STUBS_S_MAX)
