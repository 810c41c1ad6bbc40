"""The right to run a suspect: one at a time within a dispatcher, whatever its model.

A suspect was begun before, and never ended: its dispatcher may have died of it. Run beside each
other, one that kills would use up the attempts of all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """Held from before a run is counted until its outcome is recorded."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        async with self._lock:
            yield

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Let others have it, while nothing happens to the one that holds it."""
        self._lock.release()
        try:
            yield
        finally:
            await self._lock.acquire()
