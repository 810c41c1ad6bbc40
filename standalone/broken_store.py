"""Finds a nats-server whose store broke on a full disk, and has it started again.

JetStream remembers the first write that failed (nats-server 2.15) and fails every later one on that
stream by it, without an answer to the publisher, also once the disk has room again. Its health
stays ok. Only a start of the server, which reads the files anew, ends it.
"""

import asyncio
import logging
import re
import shutil

from standalone.nats import FREE_BYTES_MIN, Nats
from standalone.server import log_path

log = logging.getLogger(__name__)

# The first failure is logged as the first of these, unless the log is on the same full disk; each
# later one as the second.
BROKEN = re.compile(rb"Critical write error|failed to store a msg on stream [^\n]*: write ")


class StoreRemedy:
    """The `Remedy` of a nats-server: a restart, as soon as the disk has room for one.

    Until then it is left alone: what it holds can still be read.
    """

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._read_to = 0  # of the log, in bytes
        self._is_broken = False

    async def take_stock(self, pid: int) -> None:  # noqa: ARG002 -- one interface for all remedies
        self._read_to, self._is_broken = self._end_of_log(), False

    async def alarm(self) -> None:
        """Nothing tells of it: it is found by looking."""
        await asyncio.get_running_loop().create_future()

    async def ailment(self, pid: int) -> str:  # noqa: ARG002
        return await asyncio.to_thread(self._ailment)

    async def heal(self) -> bool:
        """Nothing mends it while it runs."""
        return False

    def _ailment(self) -> str:
        self._is_broken = self._is_broken or self._broke_lately()
        if not self._is_broken or shutil.disk_usage(self._nats.store).free < FREE_BYTES_MIN:
            return ""
        return "its store broke when a write failed, and stays so though the disk has room again"

    def _broke_lately(self) -> bool:
        """Whether its log says so, in what was written since the last look."""
        try:
            with log_path(self._nats).open("rb") as file:
                file.seek(min(self._read_to, self._end_of_log()))
                written = file.read()
        except OSError:
            return False
        # A line that is not complete yet is read again the next time.
        complete = written.rfind(b"\n") + 1
        self._read_to += complete
        return BROKEN.search(written[:complete]) is not None

    def _end_of_log(self) -> int:
        try:
            return log_path(self._nats).stat().st_size
        except OSError:
            return 0
