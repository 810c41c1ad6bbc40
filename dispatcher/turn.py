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
        self._holder: asyncio.Task[object] | None = None

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        await self._take()
        try:
            yield
        finally:
            if self._holder is asyncio.current_task():  # not if it was canceled while aside
                self._let_go()

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Let others have it, while nothing happens to the one that holds it.

        Who is canceled meanwhile leaves `taken` as well, without having it again.
        """
        self._let_go()
        yield
        await self._take()

    async def _take(self) -> None:
        await self._lock.acquire()
        self._holder = asyncio.current_task()

    def _let_go(self) -> None:
        self._holder = None
        self._lock.release()
