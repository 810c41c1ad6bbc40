"""Tickets and small tools for tests of the queue."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from broker import Broker, Delivery, Intake
from contract.ids import PredictionId, new_prediction_id
from contract.prediction import File, Priority, Ticket

DEADLINE_S = 15.0


def fresh_id() -> PredictionId:
    return new_prediction_id(time.time_ns() // 1_000_000, os.urandom(10))


def a_ticket(
    *, model: str = "identity", priority: Priority = Priority.NORMAL, size: int = 100
) -> Ticket:
    """A ticket that carries one file of `size` random bytes."""
    content = os.urandom(size)
    file = File("application/octet-stream", size, "0" * 64, content)
    return Ticket(fresh_id(), model, 1, {"n": 1}, {"file": file}, priority)


async def until(fulfilled: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a state that only asking can show; fail after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not await fulfilled():
            await asyncio.sleep(0.01)


async def until_left(broker: Broker, tickets: int) -> None:
    """Wait until acks have had their effect; that the server has read them does not say so."""

    async def are_left() -> bool:
        return (await broker.depth()).tickets == tickets

    await until(are_left)


class Arrivals:
    """Receives what an intake hands over."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.all: list[Delivery] = []
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()

    async def start(self) -> "Arrivals":
        await self.intake.start(self._arrived)
        return self

    async def next(self, *, deadline_s: float = DEADLINE_S) -> Delivery:
        async with asyncio.timeout(deadline_s):
            return await self._queue.get()

    async def take(self, count: int) -> list[Delivery]:
        return [await self.next() for _ in range(count)]

    async def finish(self, count: int) -> list[Delivery]:
        """Take, ack and release `count` deliveries."""
        taken = []
        for _ in range(count):
            delivery = await self.next()
            await delivery.ack()
            self.intake.release(delivery)
            taken.append(delivery)
        return taken

    def _arrived(self, delivery: Delivery) -> None:
        self.all.append(delivery)
        self._queue.put_nowait(delivery)
