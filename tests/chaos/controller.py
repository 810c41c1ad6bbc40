"""Arms fault points in processes under attack, and hears when one is reached."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

HELLO_S_MAX = 60.0  # a process that was killed has to be started again first
ANSWER_S_MAX = 15.0


class NotReached(Exception):
    """Nobody came by an armed point in time."""


class Controller:
    """Listens on a unix socket; every process under attack connects to it when it starts."""

    def __init__(self) -> None:
        self._connected: dict[str, _Process] = {}
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def listening(cls, path: Path) -> AsyncIterator["Controller"]:
        controller = cls()
        server = await asyncio.start_unix_server(controller._serve, str(path))
        try:
            yield controller
        finally:
            server.close()
            for process in list(controller._connected.values()):
                process.writer.close()

    async def arm(self, process: str, point: str, whom: str = "") -> "Armed":
        """Have the next task that comes to `point` in `process` stop there."""
        connection = await self._connection(process)
        armed = Armed(connection, point)
        connection.armed[point] = armed
        await connection.order({"arm": point, "whom": whom})
        return armed

    async def _connection(self, name: str) -> "_Process":
        async with asyncio.timeout(HELLO_S_MAX):
            while name not in self._connected:
                self._changed.clear()
                await self._changed.wait()
        return self._connected[name]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        process, name = _Process(writer), ""
        with suppress(ConnectionError):
            async for line in reader:
                said = json.loads(line)
                if "process" in said:
                    name = said["process"]
                    self._connected[name] = process
                    self._changed.set()
                elif "reached" in said:
                    process.armed[said["reached"]].reached.set()
                else:
                    process.done(said["done"])
        process.gone()
        if self._connected.get(name) is process:
            del self._connected[name]
        writer.close()


class Armed:
    """One armed point of one process."""

    def __init__(self, process: "_Process", point: str) -> None:
        self._process = process
        self._point = point
        self.reached = asyncio.Event()

    async def wait(self, wait_s: float) -> None:
        """Wait until a task stands there. Raises NotReached."""
        try:
            async with asyncio.timeout(wait_s):
                await self.reached.wait()
        except TimeoutError:
            raise NotReached(f"nobody came by {self._point} within {wait_s:.0f} s") from None

    def let_go(self) -> None:
        """Let the task go on, or nobody be stopped any more. Harmless if the process is dead."""
        order = "release" if self.reached.is_set() else "disarm"
        self._process.send({order: self._point})


class _Process:
    """The connection of one process under attack."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.armed: dict[str, Armed] = {}
        self._numbers = 0
        self._awaited: dict[int, asyncio.Future[None]] = {}

    def send(self, order: dict[str, str]) -> int:
        self._numbers += 1
        if not self.writer.is_closing():
            self.writer.write(json.dumps({**order, "number": self._numbers}).encode() + b"\n")
        return self._numbers

    async def order(self, order: dict[str, str]) -> None:
        """Send an order and wait until it has been followed."""
        number = self.send(order)
        followed = self._awaited[number] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(ANSWER_S_MAX):
            await followed

    def done(self, number: int) -> None:
        if followed := self._awaited.pop(number, None):
            followed.set_result(None)

    def gone(self) -> None:
        for followed in self._awaited.values():
            followed.cancel()
