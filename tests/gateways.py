"""A real gateway on loopback, and a dispatcher that answers without Triton.

The dispatcher keeps the order of effects (record, announce, ack) on the real queue and ledger, and
lets a test stop between any two of them. What it answers is what the identity model would.
"""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker import Broker, Delivery, Intake
from contract.announcements import DispatcherStatus
from contract.prediction import Failure, Outcome, Prediction, Priority, Status
from contract.queue import QueueNames
from gateway.app import open_gateway
from gateway.server import listen, make_server
from gateway.settings import GatewaySettings
from ledger import Ledger
from tests.services import MODEL_REPOSITORY, NatsAddress
from tests.tickets import until

TOKENS = "alice:alice-token-1,bob:bob-token-22"
ALICE = {"Authorization": "Bearer alice-token-1"}
BOB = {"Authorization": "Bearer bob-token-22"}
MODELS = ("efficientnet_lite0", "identity")
ECHO = "/v1/models/triton/identity/predictions"
TEXT = {"input": {"INPUT0": "hello"}}  # for `identity`
NOBODY_LISTENS = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"
ROOM = 64
DEADLINE_S = 15.0


@dataclass(frozen=True)
class RunningGateway:
    url: str
    settings: GatewaySettings
    client: httpx.AsyncClient  # speaks as alice


def make_repository(folder: Path) -> Path:
    """A model repository as the gateway reads it: configurations, and weights nobody loads."""
    for model in MODELS:
        shutil.copytree(
            MODEL_REPOSITORY / model, folder / model, ignore=shutil.ignore_patterns("[0-9]*")
        )
        (folder / model / "1").mkdir()
        (folder / model / "1" / "model.onnx").touch()
    return folder


def make_settings(
    folder: Path, nats: NatsAddress, dsn: str, namespace: str, **others: Any
) -> GatewaySettings:
    repository = folder / "models"
    if not repository.exists():
        make_repository(repository)
    values = {
        "port": 0,
        "tokens": TOKENS,
        "nats_url": nats.url,
        "nats_token": nats.token,
        "namespace": namespace,
        "postgres_dsn": dsn,
        "blobs_url": (folder / "blobs").as_uri(),
        "model_repository": repository,
        **others,
    }
    return GatewaySettings(**values)


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[RunningGateway]:
    """Serve on a free port, in this process."""
    async with open_gateway(settings) as gateway:
        listener = listen(settings.host, settings.port)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = make_server(
            gateway.asgi,
            listener,
            connections_max=settings.connections_max,
            drain_s_max=settings.drain_s_max,
            when_stopping=gateway.stop_waiting,
        )
        serve = asyncio.create_task(server.run_until_stopped())
        try:
            async with httpx.AsyncClient(base_url=url, headers=ALICE, timeout=70) as client:
                yield RunningGateway(url, settings, client)
        finally:
            server.stop()
            await serve


async def connect(settings: GatewaySettings) -> Broker:
    return await Broker.connect(
        settings.nats_url,
        names=QueueNames(settings.namespace),
        token=settings.nats_token.get_secret_value() if settings.nats_token else None,
        client_name="test",
    )


async def declared(gateway: RunningGateway) -> None:
    """Wait until the queue is prepared."""
    broker = await connect(gateway.settings)
    try:
        await broker.declare(MODELS)
    finally:
        await broker.close()


async def until_waiting(gateway: RunningGateway, count: int) -> None:
    """Wait until so many callers are held."""

    async def is_so() -> bool:
        metrics = (await gateway.client.get("/metrics")).text
        return f"tritonq_waiters {float(count)}" in metrics

    await until(is_so)


class PlayedDispatcher:
    """Ends every prediction: succeeded with its input, or failed where the text says `fail`.

    `may_take`, `may_ack` hold it back before and after recording; `announces` says whether it
    tells anybody.
    """

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        self.broker = broker
        self.ledger = ledger
        self.announces = True
        self.may_record = asyncio.Event()
        self.may_ack = asyncio.Event()
        self.may_record.set()
        self.may_ack.set()
        self.recorded = asyncio.Event()  # at least one
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["PlayedDispatcher"]:
        intakes = [
            self.broker.intake(priority, model, room=ROOM)
            for priority in Priority
            for model in MODELS
        ]
        for intake in intakes:
            await intake.start(partial(self._take, intake))
        try:
            yield self
        finally:
            for intake in intakes:
                await intake.stop()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _take(self, intake: Intake, delivery: Delivery) -> None:
        task = asyncio.create_task(self._end(delivery, intake))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, delivery: Delivery, intake: Intake) -> None:
        await self.may_record.wait()
        ticket = delivery.ticket
        outcome = outcome_of(delivery)
        kept = await self.ledger.record([Prediction(ticket.without_contents(), outcome)])
        self.recorded.set()
        if self.announces and kept:
            await self.broker.announce([outcome])
        await self.may_ack.wait()
        await delivery.ack()
        intake.release(delivery)

    async def tell_ready(self) -> None:
        await self.broker.tell_status(DispatcherStatus("played", dict.fromkeys(MODELS, "")))


def outcome_of(delivery: Delivery) -> Outcome:
    ticket = delivery.ticket
    now = time.time_ns() // 1_000_000
    common: dict[str, Any] = {
        "id": ticket.id,
        "started_at_ms": now,
        "completed_at_ms": now + 3,
        "attempts": delivery.attempt,
        "queue_ms": 1.5,
        "compute_ms": 0.75,
    }
    if ticket.input.get("INPUT0") == "fail":
        failure = Failure("model_rejected", "the model rejected it")
        return Outcome(status=Status.FAILED, error=failure, **common)
    output = {"OUTPUT0": [ticket.input.get("INPUT0", "")]}
    return Outcome(status=Status.SUCCEEDED, output=json.dumps(output).encode(), **common)


@pytest.fixture
def settings(
    tmp_path: Path, nats_server: NatsAddress, ledger_dsn: str, namespace: str
) -> GatewaySettings:
    return make_settings(tmp_path, nats_server, ledger_dsn, namespace)


@pytest.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[RunningGateway]:
    """A gateway with all its services, and no dispatcher."""
    async with serving(settings) as running:
        await declared(running)
        yield running


@pytest.fixture
async def gateway_broker(gateway: RunningGateway) -> AsyncIterator[Broker]:
    """Another process's connection to the gateway's queue."""
    broker = await connect(gateway.settings)
    yield broker
    await broker.close()


@pytest.fixture
def dispatcher(gateway_broker: Broker, ledger: Ledger) -> PlayedDispatcher:
    """Not running yet: `async with dispatcher.running()`."""
    return PlayedDispatcher(gateway_broker, ledger)


@pytest.fixture
async def running(dispatcher: PlayedDispatcher) -> AsyncIterator[PlayedDispatcher]:
    async with dispatcher.running() as played:
        yield played
