"""The real servers that tests run against.

Started by standalone from its wheels, or, with TRITONQ_TEST_SERVICES=containers, Postgres and NATS
from their official images. The tests are the same.
"""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil

from standalone.nats import Nats
from standalone.postgres import Postgres
from standalone.server import LOOPBACK, Process, running, start
from standalone.triton import Triton

ROOT = Path(__file__).parents[1]
MODEL_REPOSITORY = ROOT / "model_repository"
TRITON_ENVIRONMENT = Path(os.environ.get("TRITON_ENVIRONMENT", ROOT / ".venv-triton"))
IN_CONTAINERS = os.environ.get("TRITONQ_TEST_SERVICES", "") == "containers"

POSTGRES_IMAGE = "postgres:18"
NATS_IMAGE = "nats:2.15"
SERVER_PORTS = (20_000, 32_000)  # Linux hands out 32768 and above

# Streams reserve what they may grow to. Each test has its own, and none of them ever grows.
STORE_BYTES_MAX = 1 << 50


@dataclass(frozen=True)
class NatsAddress:
    url: str
    token: str


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing uses, all different.

    Below those that the system hands to outgoing connections: one of these could take a port away
    between two starts of a server.
    """
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(*SERVER_PORTS)
            try:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        return found


async def is_gone(process: psutil.Process, *, wait_s_max: float = 20.0) -> bool:
    """Wait for the end of a process that is nobody's child here; zombies have ended."""
    deadline = time.monotonic() + wait_s_max
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        await asyncio.sleep(0.01)
    return False


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[str]:
    """Run a Postgres that forgets its last writes in a power failure; yields a superuser's DSN."""
    settings = (("fsync", "off"), ("max_connections", "200"))
    password = uuid4().hex
    if not IN_CONTAINERS:
        server = Postgres(folder, free_ports(1)[0], password, settings)
        async with running(server):
            yield server.dsn
        return
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import ExecWaitStrategy

    options = [part for key, value in settings for part in ("-c", f"{key}={value}")]
    container = DockerContainer(POSTGRES_IMAGE).with_exposed_ports(5432)
    container = container.with_env("POSTGRES_PASSWORD", password)
    container = container.with_command(["postgres", *options])
    # By TCP: while the image makes the database, its server listens on a Unix socket only.
    ready = ExecWaitStrategy(["pg_isready", "-q", "-h", "127.0.0.1"])
    with container.waiting_for(ready) as started:
        host = f"{started.get_container_host_ip()}:{started.get_exposed_port(5432)}"
        yield f"postgresql://postgres:{password}@{host}/postgres"


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[NatsAddress]:
    """Run a NATS with JetStream that leaves it to the system when to sync its files."""
    token = uuid4().hex
    port, monitor_port = free_ports(2)
    server = Nats(folder, port, monitor_port, token, "2m", STORE_BYTES_MAX)
    if not IN_CONTAINERS:
        async with running(server):
            yield NatsAddress(server.url, token)
        return
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # The image's server reads the very configuration that standalone writes, on other addresses.
    inside = replace(server, folder=Path("/tmp"), port=4222, monitor_port=8222)
    path = folder / "container.conf"
    path.write_text(inside.config_text().replace(LOOPBACK, "0.0.0.0"))
    container = DockerContainer(NATS_IMAGE).with_exposed_ports(4222)
    container = container.with_volume_mapping(str(path), "/etc/tritonq.conf", "ro")
    container = container.with_command(["-c", "/etc/tritonq.conf"])
    with container.waiting_for(LogMessageWaitStrategy("Server is ready")) as started:
        host = started.get_container_host_ip()
        yield NatsAddress(f"nats://{host}:{started.get_exposed_port(4222)}", token)


@asynccontextmanager
async def running_triton(server: Triton) -> AsyncIterator[Process]:
    """Run `server`, and kill it in the end: its own end takes four seconds."""
    process = await start(server)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.stop()


def triton(
    folder: Path,
    repository: Path = MODEL_REPOSITORY,
    models: tuple[str, ...] | None = None,
    *,
    environment: Path = TRITON_ENVIRONMENT,
    auto_complete: bool = False,
) -> Triton:
    """A Triton that serves `models`, or all of `repository` that is built."""
    http_port, grpc_port, metrics_port = free_ports(3)
    return Triton(
        folder=folder,
        repository=repository,
        models=built_models(repository) if models is None else models,
        environment=environment,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        secret=uuid4().hex,
        auto_complete=auto_complete,
    )


def built_models(repository: Path) -> tuple[str, ...]:
    """The models whose weights are there."""
    return tuple(sorted({path.parts[-3] for path in repository.glob("*/[1-9]*/model.onnx")}))


async def pending(server: Triton, model: str) -> int:
    """How many requests wait in Triton for `model`."""
    pattern = rf'nv_inference_pending_request_count{{model="{model}",[^}}]*}} ([0-9]+)'
    found = re.search(pattern, await fetch(server.metrics_url))
    assert found is not None
    return int(found[1])


async def fetch(url: str) -> str:
    """The body of what is there."""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read()).decode()

    return await asyncio.to_thread(read)
