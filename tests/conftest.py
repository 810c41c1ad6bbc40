"""Fixtures: the real servers, once per run and only if asked for, and what each test has alone."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from standalone.triton import Triton
from tests import services

if TYPE_CHECKING:
    from broker import Broker
    from ledger import Ledger

BROKER_MODELS = ("efficientnet_lite0", "identity")  # what the `broker` fixture is declared for


@pytest.fixture(scope="session")
async def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A superuser's DSN of a running Postgres."""
    async with services.postgres(tmp_path_factory.mktemp("postgres")) as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def nats_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[services.NatsAddress]:
    async with services.nats(tmp_path_factory.mktemp("nats")) as address:
        yield address


@pytest.fixture(scope="session")
async def triton_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    """A Triton that serves everything in model_repository/ that is built."""
    server = services.triton(tmp_path_factory.mktemp("triton"))
    async with services.running_triton(server):
        assert server.models, "no model is built: `make weights` builds them"
        assert await server.unready_models() == {}
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace in NATS that nobody else uses."""
    return f"test_{uuid4().hex}"


@pytest.fixture(scope="session")
async def migrated_template(postgres_dsn: str) -> str:
    """The name of a database with our schema, to copy from: a copy is cheaper than a migration."""
    from ledger import Ledger

    name = f"template_{uuid4().hex}"
    await _execute(postgres_dsn, f"CREATE DATABASE {name}")
    ledger = await Ledger.connect(_with_database(postgres_dsn, name))
    try:
        await ledger.migrate()
    finally:
        await ledger.close()
    return name


@pytest.fixture
async def ledger_dsn(postgres_dsn: str, migrated_template: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with our schema."""
    name = f"test_{uuid4().hex}"
    await _execute(postgres_dsn, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield _with_database(postgres_dsn, name)
    await _execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def ledger(ledger_dsn: str) -> "AsyncIterator[Ledger]":
    from ledger import Ledger

    ledger = await Ledger.connect(ledger_dsn)
    yield ledger
    await ledger.close()


@pytest.fixture
async def broker(nats_server: services.NatsAddress, namespace: str) -> "AsyncIterator[Broker]":
    """A connected broker on a fresh namespace, declared for BROKER_MODELS."""
    from broker import Broker
    from contract.queue import QueueNames

    names = QueueNames(namespace)
    broker = await Broker.connect(
        nats_server.url, names=names, token=nats_server.token, client_name="test"
    )
    await broker.declare(BROKER_MODELS)
    yield broker
    await broker.close()


def _with_database(dsn: str, name: str) -> str:
    return f"{dsn.rpartition('/')[0]}/{name}"


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
