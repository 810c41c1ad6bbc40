"""Dispatchers on real servers, here or in a process of their own, and what they brought about."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from nats.aio.client import Client

from blobs import Blobs
from broker import Broker
from contract.announcements import DispatcherStatus
from contract.ids import PredictionId
from contract.prediction import File, Outcome, Prediction, Priority, Ticket
from contract.queue import QueueNames
from dispatcher.encode import Encoder
from dispatcher.execute import ExecutionLimits, Parts
from dispatcher.outages import Outage
from dispatcher.serve import Dispatcher, DispatcherLimits
from inference import Triton, read_catalog
from ledger import Ledger
from standalone.triton import Triton as TritonServer
from tests.services import MODEL_REPOSITORY, ROOT, NatsAddress
from tests.tickets import fresh_id

DEADLINE_S = 30.0
ACCEPTED_AT_ONCE = 256
EXECUTION = ExecutionLimits(attempts_max=5, infer_timeout_s=20.0, keep_inputs="all")
LIMITS = DispatcherLimits(EXECUTION)


@dataclass(frozen=True)
class House:
    """The servers of one test, and an observer's own connections to them."""

    nats: NatsAddress
    namespace: str
    dsn: str
    triton_address: str
    folder: Path
    broker: Broker
    ledger: Ledger
    repository: Path = MODEL_REPOSITORY
    models: tuple[str, ...] = ("efficientnet_lite0", "identity")
    limits: DispatcherLimits = field(default=LIMITS)

    @property
    def blobs_url(self) -> str:
        return (self.folder / "blobs").as_uri()

    def with_limits(self, **changes: object) -> "House":
        return replace(self, limits=replace(self.limits, **changes))  # type: ignore[arg-type]

    async def accept(self, tickets: Iterable[Ticket]) -> list[PredictionId]:
        tickets = list(tickets)
        for start in range(0, len(tickets), ACCEPTED_AT_ONCE):
            some = tickets[start : start + ACCEPTED_AT_ONCE]
            await asyncio.gather(*(self.broker.publish(ticket) for ticket in some))
        return [ticket.id for ticket in tickets]

    async def outcomes(
        self, ids: Sequence[PredictionId], *, deadline_s: float = DEADLINE_S
    ) -> list[Outcome]:
        """Wait until all of `ids` have ended; their outcomes, in order."""
        ended: dict[PredictionId, Prediction] = {}
        async with asyncio.timeout(deadline_s):
            while len(ended) < len(set(ids)):
                await asyncio.sleep(0.02)
                ended = await self.ledger.get_many(ids)
        return [outcome for each in ids if (outcome := ended[each].outcome) is not None]

    async def emptied(self, *, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the queue holds no ticket."""
        async with asyncio.timeout(deadline_s):
            while (await self.broker.depth()).tickets:
                await asyncio.sleep(0.02)


async def short_leases(house: House, lease_s: float, *, model: str = "identity") -> None:
    """Shorten the lease, which is 6 s, to what a test can wait for again and again."""
    client = Client()
    await client.connect(house.nats.url, token=house.nats.token)
    names = QueueNames(house.namespace)
    for priority in Priority:
        consumer = names.consumer(priority, model)
        config = (await client.jetstream().consumer_info(names.stream, consumer)).config
        await client.jetstream().add_consumer(names.stream, replace(config, ack_wait=lease_s))
    await client.close()


@pytest.fixture
def house(
    nats_server: NatsAddress,
    namespace: str,
    ledger_dsn: str,
    triton_server: TritonServer,
    tmp_path: Path,
    broker: Broker,
    ledger: Ledger,
) -> House:
    return House(
        nats_server, namespace, ledger_dsn, triton_server.grpc_address, tmp_path, broker, ledger
    )


@asynccontextmanager
async def dispatching(
    house: House, *, name: str = "d1", wait_until_well: bool = True
) -> AsyncIterator[Dispatcher]:
    """A dispatcher in this process, with connections of its own; stopped at the end."""
    async with AsyncExitStack() as opened:
        ledger = await Ledger.connect(house.dsn)
        opened.push_async_callback(ledger.close)
        broker = await Broker.connect(
            house.nats.url,
            names=QueueNames(house.namespace),
            token=house.nats.token,
            client_name="dispatcher",
        )
        opened.push_async_callback(broker.close)
        triton = Triton(house.triton_address)
        opened.push_async_callback(triton.close)
        blobs, blobs_outage = Blobs.open(house.blobs_url), Outage("blobs")
        encoder = Encoder(2, blobs, blobs_outage)
        opened.callback(encoder.close)
        parts = Parts(
            triton=triton,
            ledger=ledger,
            blobs=blobs,
            broker=broker,
            encoder=encoder,
            ledger_outage=Outage("ledger"),
            blobs_outage=blobs_outage,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        catalog = read_catalog(house.repository, offered=house.models, config_name="cpu")
        dispatcher = Dispatcher(name, catalog, house.repository, parts, house.limits)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(dispatcher.run(stop))
            try:
                if wait_until_well:
                    await _well(dispatcher, running)
                yield dispatcher
            finally:
                stop.set()


async def _well(dispatcher: Dispatcher, running: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(DEADLINE_S):
        while any(dispatcher.health()[1]["models"].values()) and not running.done():
            await asyncio.sleep(0.01)


class Statuses:
    """What a dispatcher tells about itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._latest: DispatcherStatus | None = None
        self._heard = asyncio.Event()

    def heard(self, status: DispatcherStatus) -> None:
        if status.dispatcher == self._name:
            self._latest = status
            self._heard.set()

    async def until(self, fulfilled: Callable[[DispatcherStatus], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self._latest is None or not fulfilled(self._latest):
                self._heard.clear()
                await self._heard.wait()


_LISTENERS = WeakKeyDictionary[Broker, list[Statuses]]()


async def _listening(broker: Broker, statuses: Statuses) -> Statuses:
    """A broker subscribes once; a test may start several dispatchers."""

    def heard(status: DispatcherStatus) -> None:
        for each in _LISTENERS[broker]:
            each.heard(status)

    if broker not in _LISTENERS:
        _LISTENERS[broker] = []
        await broker.subscribe_dispatchers(heard)
    _LISTENERS[broker].append(statuses)
    return statuses


def is_well(status: DispatcherStatus) -> bool:
    return not any(status.models.values())


class DispatcherProcess:
    """`python -m dispatcher`, as in production."""

    def __init__(self, process: asyncio.subprocess.Process, statuses: "Statuses") -> None:
        self._process = process
        self.statuses = statuses

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    async def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        async with asyncio.timeout(deadline_s):
            return await self._process.wait()

    async def log(self) -> str:
        """Everything it wrote; call once, after it has ended."""
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def dispatcher_process(
    house: House,
    *,
    name: str = "p1",
    module: str = "dispatcher",
    wait_until_well: bool = True,
    **settings: object,
) -> AsyncIterator[DispatcherProcess]:
    """A dispatcher in a process of its own; killed at the end if it is still there."""
    environment = {
        "DISPATCHER_NATS_URL": house.nats.url,
        "DISPATCHER_NATS_TOKEN": house.nats.token,
        "DISPATCHER_POSTGRES_DSN": house.dsn,
        "DISPATCHER_BLOBS_URL": house.blobs_url,
        "DISPATCHER_TRITON_ADDRESS": house.triton_address,
        "DISPATCHER_MODEL_REPOSITORY": str(house.repository),
        "DISPATCHER_MODEL_CONFIG_NAME": "cpu",
        "DISPATCHER_MODELS": ",".join(house.models),
        "DISPATCHER_NAMESPACE": house.namespace,
        "DISPATCHER_NAME": name,
        "DISPATCHER_LOG_LEVEL": "warning",
        **{f"DISPATCHER_{key.upper()}": str(value) for key, value in settings.items()},
    }
    statuses = await _listening(house.broker, Statuses(name))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if wait_until_well:
            await statuses.until(is_well)
        yield DispatcherProcess(process, statuses)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def text_ticket(
    text: str = "hello", *, priority: Priority = Priority.NORMAL, version: int = 1
) -> Ticket:
    """A ticket for `identity`."""
    return Ticket(fresh_id(), "identity", version, {"INPUT0": text}, priority=priority)


def image_ticket(content: bytes, *, inline: bool = True) -> Ticket:
    """A ticket for `efficientnet_lite0`; without `inline` its image is in the blobs."""
    file = File(
        "image/jpeg", len(content), sha256(content).hexdigest(), content if inline else None
    )
    return Ticket(fresh_id(), "efficientnet_lite0", 1, {}, {"image": file})
