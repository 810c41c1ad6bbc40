"""Runs the peer with servers of its own until SIGTERM."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import ROOT
from standalone.server import LOOPBACK, Launch, answers_ok, running
from tests.services import free_ports

MISSING = "the peer needs {} on the PATH: apt-get install rabbitmq-server redis-server"
WORKERS = 2
RABBITMQ = "bench@localhost"


@dataclass(frozen=True)
class Part:
    """A server of the peer, as standalone runs servers."""

    name: str
    folder: Path
    ports: tuple[int, ...]
    command: tuple[str, ...]
    settings: dict[str, str]
    answers: Callable[[], Awaitable[bool]]

    stop_signal = signal.SIGTERM
    start_s_max = 60.0  # RabbitMQ boots for some five seconds
    stop_s_max = 15.0

    def prepare(self) -> Launch:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        return Launch(self.command, environment | self.settings)

    async def probe(self) -> bool:
        return await self.answers()

    def clean_up(self) -> None:
        """Nothing: all of it is in a temporary folder."""


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


def parts(folder: Path, api_port: int) -> list[Part]:
    amqp_port, names_port, distribution_port, redis_port = free_ports(4)
    places = {
        "PEER_BROKER": f"amqp://guest:guest@{LOOPBACK}:{amqp_port}//",
        "PEER_RESULTS": f"redis://{LOOPBACK}:{redis_port}/0",
        "PEER_PORT": str(api_port),
        "PYTHONPATH": str(ROOT),
    }
    at_work = folder / "celery" / "at-work"  # the worker makes this file

    async def worker_answers() -> bool:
        return at_work.exists()

    return [
        Part(
            "epmd",  # Erlang's directory of nodes: else it starts one of its own that stays behind
            folder / "epmd",
            (names_port,),
            (tool("epmd"), "-address", LOOPBACK, "-port", str(names_port)),
            {},
            lambda: accepts(names_port),
        ),
        Part(
            "rabbitmq",
            folder / "rabbitmq",
            (amqp_port,),
            (rabbitmq(), "-noinput"),
            rabbitmq_settings(folder / "rabbitmq", amqp_port, names_port, distribution_port),
            lambda: accepts(amqp_port),
        ),
        Part(
            "redis",
            folder / "redis",
            (redis_port,),
            (tool("redis-server"), "--port", str(redis_port), "--bind", LOOPBACK, "--save", ""),
            {},
            lambda: accepts(redis_port),
        ),
        Part(
            "celery",
            folder / "celery",
            (),
            (sys.executable, "-m", "celery", "-A", "benchmarks.peer.worker", "worker", "-O", "fair",
             "--concurrency", str(WORKERS), "--loglevel", "warning", "--without-gossip",
             "--without-mingle", "--without-heartbeat"),
            # Celery unpickles as root only when told to.
            {**places, "PEER_AT_WORK": str(at_work), "C_FORCE_ROOT": "1"},
            worker_answers,
        ),
        Part(
            "gateway",
            folder / "gateway",
            (api_port,),
            (sys.executable, "-m", "benchmarks.peer.gateway"),
            places,
            lambda: asyncio.to_thread(answers_ok, api_port, "/openapi.json"),
        ),
    ]  # fmt: skip


def rabbitmq_settings(folder: Path, port: int, names_port: int, own_port: int) -> dict[str, str]:
    folder.mkdir(parents=True)
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n")
    return {
        "RABBITMQ_NODENAME": RABBITMQ,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(own_port),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_ALLOW_INPUT": "1",  # its script becomes the server, which minds SIGTERM itself
        "ERL_EPMD_PORT": str(names_port),
    }


def rabbitmq() -> str:
    """Its own script: Debian's on the PATH would become the user rabbitmq, in /var."""
    return str(Path(tool("rabbitmq-server")).resolve().with_name("rabbitmq-server"))


def tool(name: str) -> str:
    places = f"{os.environ['PATH']}:/usr/sbin"  # Debian puts rabbitmq-server there
    found = shutil.which(name, path=places)
    if found is None:
        raise SystemExit(MISSING.format(name))
    return found


async def main(folder: Path) -> None:
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    (port,) = free_ports(1)
    async with AsyncExitStack() as opened:
        for part in parts(folder, port):
            await opened.enter_async_context(running(part))
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()
        await told_to_stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
