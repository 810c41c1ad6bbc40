"""The product on this machine in pieces: each service is started, stopped and killed by hand.

`tritonq up` runs the same services with the same settings, but all of them, and at once. Here a
queue can fill while no dispatcher runs, and there can be two of a kind.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import Connection, closed_loop, connections, get
from benchmarks.results import ROOT, tell
from broker import Broker
from contract.queue import QueueNames
from ledger import Ledger
from standalone.installation import Installation, Options, plan
from standalone.models import choose_models
from standalone.nats import Nats
from standalone.ports import choose
from standalone.postgres import Postgres
from standalone.program import Program
from standalone.readiness import missing_parts
from standalone.server import Process, Server, start
from standalone.state import State, owned
from tests.services import free_ports

READY_S_MAX = 60.0


@dataclass
class Pieces:
    """One installation; nothing of it runs until it is started."""

    installation: Installation
    state: State
    processes: dict[str, Process] = field(default_factory=dict)
    _other_ports: dict[str, int] = field(default_factory=dict)  # of second ones, by name

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return self.installation.ports.api

    @property
    def nats(self) -> Nats:
        found = self._server("nats")
        assert isinstance(found, Nats)
        return found

    @property
    def dsn(self) -> str:
        found = self._server("postgres")
        assert isinstance(found, Postgres)
        return found.dsn

    async def start(self, *names: str) -> None:
        """Start services and wait until each answers. "gateway-2" is a second gateway."""
        for name in names:
            self.processes[name] = await start(self._server(name))
            tell(f"{name} answers")

    async def stop(self, *names: str) -> None:
        for name in names:
            await self.processes.pop(name).stop()

    async def kill(self, name: str) -> None:
        """End a service as the kernel does when memory is short."""
        process = self.processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await process.stop()  # its session and its record

    async def stop_all(self) -> None:
        await self.stop(*reversed(list(self.processes)))

    def port_of(self, name: str) -> int:
        return self._server(name).ports[0]

    async def ready(self) -> None:
        """Wait until the gateway says that an inference would succeed."""
        async with asyncio.timeout(READY_S_MAX):
            while await asyncio.to_thread(missing_parts, self.port):  # noqa: ASYNC110 - HTTP
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[Broker]:
        """The queue, as a process of the product sees it."""
        broker = await Broker.connect(
            self.nats.url, names=QueueNames(), token=self.nats.token, client_name="benchmark"
        )
        try:
            yield broker
        finally:
            await broker.close()

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        ledger = await Ledger.connect(self.dsn)
        try:
            yield ledger
        finally:
            await ledger.close()

    def _server(self, name: str) -> Server:
        kind, _, number = name.partition("-")
        (server,) = [it.server for it in self.installation.services if it.name == kind]
        if not number:
            return server
        assert isinstance(server, Program), "of the others there can be only one"
        if name not in self._other_ports:
            self._other_ports[name] = free_ports(1)[0]
        port = self._other_ports[name]
        setting = "PORT" if kind == "gateway" else "METRICS_PORT"
        return replace(
            server,
            folder=self.state.folder(name),
            probe_port=port,
            settings={**server.settings, setting: str(port)},
        )


@asynccontextmanager
async def pieces(
    folder: Path | None,
    models: tuple[str, ...],
    *,
    sync_interval: str = "always",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Pieces]:
    """Lay out an installation in a temporary folder; in the end all of it is stopped and removed.

    Args:
        environment: settings of gateway and dispatcher, as whoever calls `tritonq up` gives them.
    """
    with TemporaryDirectory(prefix="tritonq-bench-", dir=folder) as name:
        place = Path(name)
        place.chmod(0o755)  # noqa: ASYNC240 - Postgres, run as nobody, passes through it
        options = Options(
            state=place / "state",
            repository=ROOT / "model_repository",
            triton_environment=ROOT / ".venv-triton",
            models=models,
            sync_interval=sync_interval,
        )
        os.environ.update(environment or {})
        with owned(options.state) as state:
            chosen = choose_models(options.repository, wanted=models)
            laid_out = Pieces(plan(options, state, choose({}), chosen), state)
            try:
                yield laid_out
            finally:
                await laid_out.stop_all()


async def fetched(
    port: int, paths: list[str], at_once: int, *, pause_s: float = 0.0
) -> list[float]:
    """GET all paths, each of which must be there; the seconds that each took."""
    requests = [get(path) for path in paths]
    took_s: list[float] = []

    async def work(link: Connection, number: int) -> None:
        if pause_s:
            await asyncio.sleep(pause_s)
        began_s = time.perf_counter()
        status, body = await link.ask(requests[number])
        took_s.append(time.perf_counter() - began_s)
        assert status == 200, (status, body[:300])

    async with connections(port, at_once) as links:
        await closed_loop(links, len(requests), work)
    return took_s
