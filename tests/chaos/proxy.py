"""A TCP connection that can be cut, fall silent, or become slow, between two processes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from standalone.server import LOOPBACK

CHUNK_BYTES = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close means RST


@dataclass(frozen=True, slots=True)
class Slowness:
    """What a bad network adds to each piece of data that passes."""

    delay_s: float
    bytes_per_s: float

    def delays(self, size: int) -> float:
        return self.delay_s + size / self.bytes_per_s


class Proxy:
    """Passes a port on to another, for as long as it is told to."""

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.port = 0
        self._target = target
        self._refuses = False
        self._slowness: Slowness | None = None
        self._ways = _Ways()
        self._links: set[_Link] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.reset()
            for link in list(self._links):
                await link.ended()

    def cut(self) -> None:
        """Reset every connection, and each new one as soon as it is made."""
        self._refuses = True
        self.reset()

    def reset(self) -> None:
        for link in self._links:
            link.reset()

    def silence(self) -> None:
        """Accept everything and pass on nothing, in either direction."""
        self._ways.there.clear()
        self._ways.back.clear()

    def hold_answers(self) -> None:
        """Pass on what is asked, and keep what is answered."""
        self._ways.kept.clear()
        self._ways.back.clear()

    async def answer_kept(self, wait_s: float) -> None:
        """Wait until there is an answer that was not passed on. Raises TimeoutError."""
        async with asyncio.timeout(wait_s):
            await self._ways.kept.wait()

    def lose_answers(self) -> None:
        """Drop what was kept, with the connections that it belongs to."""
        self.reset()
        self._ways.back.set()

    def slow(self, slowness: Slowness) -> None:
        self._slowness = slowness

    def restore(self) -> None:
        """Be a good network again. What was kept is passed on."""
        self._refuses = False
        self._slowness = None
        self._ways.there.set()
        self._ways.back.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (writer, far_writer))
        self._links.add(link)
        link.pumps = (
            asyncio.create_task(self._pump(reader, far_writer, self._ways.there)),
            asyncio.create_task(self._pump(far_reader, writer, self._ways.back)),
        )
        try:
            await link.ended()
        finally:
            self._links.discard(link)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, open_: asyncio.Event
    ) -> None:
        """Pass on data until one side ends; then end the other."""
        try:
            while data := await source.read(CHUNK_BYTES):
                if not open_.is_set():
                    if open_ is self._ways.back:
                        self._ways.kept.set()
                    await open_.wait()
                if self._slowness is not None:
                    await asyncio.sleep(self._slowness.delays(len(data)))
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
        except OSError:
            _reset(sink)


class _Ways:
    """Whether data passes, in either direction."""

    def __init__(self) -> None:
        self.there = asyncio.Event()
        self.back = asyncio.Event()
        self.kept = asyncio.Event()  # data came that may not pass back
        self.there.set()
        self.back.set()


class _Link:
    """One connection through the proxy: two sockets."""

    def __init__(self, proxy: Proxy, writers: tuple[asyncio.StreamWriter, ...]) -> None:
        self._writers = writers
        self.pumps: tuple[asyncio.Task[None], ...] = ()

    def reset(self) -> None:
        for pump in self.pumps:
            pump.cancel()
        for writer in self._writers:
            _reset(writer)

    async def ended(self) -> None:
        await asyncio.wait(self.pumps)
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
