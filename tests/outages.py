"""A nats-server of a test's own, to be killed and frozen, and what to watch meanwhile."""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from broker import Broker, QueueLimits
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames
from standalone.nats import Nats
from standalone.server import Process, start
from tests.services import free_ports
from tests.tickets import a_ticket, until

MODEL = "identity"
LIMITS = QueueLimits(bytes_max=1 << 28)
NAMES = QueueNames("outages")


class Restartable:
    """A nats-server of the test's own, to kill, freeze and start again."""

    def __init__(self, folder: Path) -> None:
        port, monitor_port = free_ports(2)
        self.server = Nats(folder, port, monitor_port, "token", "2m", 1 << 40)
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await start(self.server)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, which)

    async def freeze(self) -> None:
        """Stop the server where it is, and wait until all its threads have stopped."""
        assert self._process is not None
        self.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self._process.pid}/task")

        async def stopped() -> bool:
            states = [(task / "stat").read_text().rpartition(")")[2] for task in threads.iterdir()]
            return all(state.split()[0] == "T" for state in states)

        await until(stopped)

    async def connect(self, *, token: str = "token") -> Broker:
        return await Broker.connect(self.server.url, names=NAMES, token=token, client_name="test")


async def published(broker: Broker, count: int) -> list[Ticket]:
    tickets = [a_ticket() for _ in range(count)]
    for ticket in tickets:
        await broker.publish(ticket)
    return tickets


async def down(broker: Broker) -> None:
    async def is_down() -> bool:
        return not broker.is_connected

    await until(is_down)


async def up(broker: Broker) -> None:
    async def is_up() -> bool:
        return broker.is_connected

    await until(is_up)


async def in_flight(broker: Broker, count: int) -> None:
    async def is_so() -> bool:
        return len(broker._requests._waiting) == count

    await until(is_so)


async def nothing_more(tries: list[str]) -> None:
    pass


def note_tries(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answered: Callable[[list[str]], Awaitable[None]] = nothing_more,
) -> list[str]:
    """The subjects of all publishes from now on; `answered` may fail after each answer."""
    requests = broker._requests
    ask = requests.ask
    tries: list[str] = []

    async def noted(subject: str, *given: bytes, **options: Any) -> Msg:
        if subject.startswith("$JS"):
            return await ask(subject, *given, **options)
        tries.append(subject)
        answer = await ask(subject, *given, **options)
        await answered(tries)
        return answer

    monkeypatch.setattr(requests, "ask", noted)
    return tries


async def short_leases(nats: Restartable, lease_s: float) -> None:
    """Shorten the lease, which is 6 s, to what a test can wait for."""
    client = Client()
    await client.connect(nats.server.url, token="token")
    consumer = NAMES.consumer(Priority.NORMAL, MODEL)
    info = await client.jetstream().consumer_info(NAMES.stream, consumer)
    config: ConsumerConfig = info.config
    config.ack_wait = lease_s
    await client.jetstream().add_consumer(NAMES.stream, config)
    await client.close()
