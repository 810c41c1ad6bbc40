"""A client that costs little: HTTP over connections that stay open, one request at a time on each.

What a load generator takes of a machine it shares with the server is missing in the result. This
one takes some 40 us of CPU a request; httpx takes 1 to 10 ms.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import msgspec

ANSWER_S_MAX = 120.0


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection to a server that states the length of each answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._received.clear()
        assert self._answer is not None
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), bytes(body)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server hung up"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return the answer's status and body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._answer

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


@asynccontextmanager
async def connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def post(path: str, body: bytes, media_type: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


@dataclass(frozen=True)
class Loaded:
    """What a load came to."""

    count: int
    wall_s: float
    client_cpu_s: float
    latencies_s: list[float]  # sorted

    def quantile_ms(self, share: float) -> float:
        return 1000 * self.latencies_s[round(share * (len(self.latencies_s) - 1))]


Link = TypeVar("Link")
Work = Callable[[Connection, int], Awaitable[None]]


async def closed_loop(
    links: Iterable[Link], count: int, work: Callable[[Link, int], Awaitable[None]]
) -> Loaded:
    """Do work 0 to `count` - 1, on each link (a connection, a client) one after the other."""
    numbers = iter(range(count))
    took_s: list[float] = []
    clock = time.perf_counter

    async def drive(link: Link) -> None:
        for number in numbers:
            began_s = clock()
            await work(link, number)
            took_s.append(clock() - began_s)

    began_s, own_s = clock(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for link in links:
            tasks.create_task(drive(link))
    return Loaded(count, clock() - began_s, time.process_time() - own_s, sorted(took_s))


class Answer(msgspec.Struct, frozen=True):
    """What a benchmark reads of a prediction."""

    id: str
    status: str
    output: msgspec.Raw = msgspec.Raw(b"null")


_ANSWERS = msgspec.json.Decoder(Answer)


def read_answer(body: bytes) -> Answer:
    return _ANSWERS.decode(body)
