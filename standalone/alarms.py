"""Tells at once when a process ends that is not our child."""

import asyncio
import os
from collections.abc import Iterable


class Alarms:
    """Watches processes, each until it has ended. Used in one event loop."""

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}  # process -> its descriptor (pidfd_open(2))
        self._rung = asyncio.Event()

    def watch(self, pids: Iterable[int]) -> None:
        """Watch exactly these from now on."""
        wanted = set(pids)
        for pid in set(self._watched).difference(wanted):
            self._forget(pid)
        for pid in wanted.difference(self._watched):
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:  # it has ended; or this kernel is older than 5.3, and others look too
                continue
            self._watched[pid] = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self._ring, pid)

    async def wait(self) -> None:
        """Return once one of them has ended since the last time."""
        await self._rung.wait()
        self._rung.clear()

    def _ring(self, pid: int) -> None:
        self._forget(pid)
        self._rung.set()

    def _forget(self, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
