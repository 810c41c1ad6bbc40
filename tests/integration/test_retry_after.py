"""`Retry-After` against what really happens, on a real queue that really drains.

The promise, for a caller who is alone: after so many seconds there is room; and it would not have
been there in less than a third of them, but for the second that is the shortest wait.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from broker import Broker, Delivery
from contract.prediction import Priority
from gateway.problems import RETRY_AFTER_S
from tests.gateways import RunningGateway, connect, declared, make_settings, serving
from tests.outages import Restartable
from tests.services import NatsAddress

ECHO = "/v1/models/triton/identity/predictions"
TEXT = {"input": {"INPUT0": "a"}}
TICKETS_MAX = 12
FACTOR = 3
GRACE_S = 1.5  # the shortest wait, and a machine that is busy with other tests
DEADLINE_S = 30.0


@dataclass
class Drain:
    """A consumer that takes a ticket out of the queue whenever `pause_s` is over."""

    pause_s: float
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Refusal:
    said_s: int  # Retry-After
    took_s: float  # until a submit was accepted


@asynccontextmanager
async def full(
    tmp_path: Path, nats: NatsAddress, dsn: str, namespace: str
) -> AsyncIterator[tuple[RunningGateway, Broker]]:
    settings = make_settings(tmp_path, nats, dsn, namespace, queue_tickets_max=TICKETS_MAX)
    async with serving(settings) as gateway:
        await declared_with(gateway)
        broker = await connect(settings)
        for _ in range(TICKETS_MAX):
            assert (await gateway.client.post(ECHO, json=TEXT)).status_code == 202
        yield gateway, broker
        await broker.close()


async def declared_with(gateway: RunningGateway) -> None:
    """Wait until the gateway itself has declared the queue, with its limit."""
    async with asyncio.timeout(DEADLINE_S):
        while (await gateway.client.get("/readyz")).json()["missing"].get("queue"):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def draining(broker: Broker, drain: Drain) -> AsyncIterator[None]:
    held: asyncio.Queue[Delivery] = asyncio.Queue()
    intake = broker.intake(Priority.NORMAL, "identity", room=1)
    drain.goes_on.set()

    async def drain_on() -> None:
        while True:
            delivery = await held.get()
            await asyncio.sleep(drain.pause_s)  # the pace of the model
            await drain.goes_on.wait()
            await delivery.ack()
            intake.release(delivery)

    await intake.start(held.put_nowait)
    task = asyncio.create_task(drain_on())
    try:
        yield
    finally:
        task.cancel()
        await intake.stop()


async def refused_until_accepted(client: httpx.AsyncClient) -> Refusal | None:
    """Submit again and again; what the first refusal said. None if there was room at once."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    first: int | None = None
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await client.post(ECHO, json=TEXT)
            if answer.status_code == 202:
                return None if first is None else Refusal(first, loop.time() - began)
            assert answer.status_code == 429, answer.text
            first = first or int(answer.headers["retry-after"])
            await asyncio.sleep(0.03)


async def test_the_wait_after_a_refusal_is_what_it_takes_at_any_pace(
    tmp_path: Path, nats_server: NatsAddress, ledger_dsn: str, namespace: str
) -> None:
    async with full(tmp_path, nats_server, ledger_dsn, namespace) as (gateway, broker):
        drain = Drain(pause_s=1.5)
        async with draining(broker, drain):
            for pace_s, measured_by, asked in ((1.5, 2, 2), (0.1, 15, 10)):
                drain.pause_s = pace_s
                for _ in range(measured_by):
                    await refused_until_accepted(gateway.client)
                seen = [await refused_until_accepted(gateway.client) for _ in range(asked)]
                for refusal in filter(None, seen):
                    assert refusal.took_s <= refusal.said_s + GRACE_S, seen
                    assert refusal.said_s <= FACTOR * max(1.0, refusal.took_s, pace_s), seen

            # A pause: the wait grows with it, and shrinks as soon as the queue drains again.
            drain.goes_on.clear()
            said = 0
            async with asyncio.timeout(DEADLINE_S):
                while said < 4:
                    answer = await gateway.client.post(ECHO, json=TEXT)
                    said = int(answer.headers.get("retry-after", 0))
                    await asyncio.sleep(0.1)
            drain.goes_on.set()
            async with asyncio.timeout(DEADLINE_S):
                while said > 1:
                    later = await refused_until_accepted(gateway.client)
                    said = later.said_s if later else said


async def test_the_wait_while_nats_is_away_covers_its_restart(
    tmp_path: Path, ledger_dsn: str
) -> None:
    nats = Restartable(tmp_path / "nats")
    await nats.start()
    address = NatsAddress(nats.server.url, nats.server.token)
    settings = make_settings(tmp_path, address, ledger_dsn, "outages")
    try:
        async with serving(settings) as gateway:
            await declared(gateway)
            await nats.kill()
            answer = await gateway.client.post(ECHO, json=TEXT)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
            loop = asyncio.get_running_loop()
            await nats.start()
            began = loop.time()
            async with asyncio.timeout(DEADLINE_S):
                while (await gateway.client.post(ECHO, json=TEXT)).status_code != 202:
                    await asyncio.sleep(0.05)
            assert loop.time() - began <= RETRY_AFTER_S
    finally:
        nats.signal(signal.SIGCONT)
        await nats.stop()
