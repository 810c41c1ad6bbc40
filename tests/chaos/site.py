"""One installation under attack: the real servers, supervised as in production.

Gateway and dispatcher are started by entry points that know fault points, and reach everything
through proxies; otherwise this is what `tritonq up` runs.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import psutil

from standalone.installation import Options, plan
from standalone.leftover import remember_session
from standalone.nats import Nats
from standalone.ports import Ports
from standalone.postgres import Postgres
from standalone.program import Program
from standalone.readiness import missing_parts
from standalone.server import LOOPBACK, Launch, Server
from standalone.state import State, owned
from standalone.supervisor import Event, Service, Supervisor
from standalone.triton import stubs
from tests.chaos.controller import Controller
from tests.chaos.matrix import Target
from tests.chaos.planted import VARIABLE, Bug
from tests.chaos.points import SOCKET_VARIABLE
from tests.chaos.proxy import Proxy
from tests.services import ROOT, TRITON_ENVIRONMENT, free_ports

MODELS = ("efficientnet_lite0", "identity")
DISK_BYTES = 640 * 1024 * 1024  # of the tmpfs that holds the queue, and of the ledger's
READY_S_MAX = 90.0
THREADS = 32  # probes and starts wait in them, for every site of this process
TOGETHER_S = 1.0  # the stubs of one load of a model begin within this time

PROXIED = {  # which proxies carry the connections of a process
    Target.GATEWAY: ("client_gateway", "gateway_nats", "gateway_postgres"),
    Target.DISPATCHER: ("dispatcher_nats", "dispatcher_postgres", "dispatcher_triton"),
    Target.TRITON: ("dispatcher_triton",),
    Target.NATS: ("gateway_nats", "dispatcher_nats"),
    Target.POSTGRES: ("gateway_postgres", "dispatcher_postgres"),
}


@dataclass(frozen=True)
class FaultyProgram(Program):
    """One of our programs, started by a test's entry point."""

    module: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> Launch:
        launch = super().prepare()
        command = (sys.executable, "-P", "-m", self.module)
        variables = {**launch.environment, **self.variables, "PYTHONPATH": str(ROOT)}
        return Launch(command, variables)


class Gated:
    """A server that is started only while its gate is open."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self) -> Launch:
        self.gate.wait()
        return self._server.prepare()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class Site:
    """The installation, and the handles by which it is attacked."""

    def __init__(self, state: State, ports: Ports, controller: Controller) -> None:
        self.state = state
        self.ports = ports
        self.controller = controller
        self.proxies: dict[str, Proxy] = {}
        self.gates: dict[str, Gated] = {}
        self.postgres: Postgres
        self.nats: Nats
        self.has_disks = False
        self.is_broken = ""  # why no further cell should be run here
        self.heard: Callable[[Event], None] = lambda _: None  # what happens to services
        self.rival_program: Program

    @property
    def port(self) -> int:
        """Where callers reach the gateway."""
        return self.proxies["client_gateway"].port

    def leader(self, target: Target) -> psutil.Process:
        """The main process of a service. Raises LookupError while it has none."""
        session = remember_session(self.state.path / target / f"{target}.pid")
        if session is None:
            raise LookupError(f"{target} does not run")
        return psutil.Process(session.pid)

    def stubs(self) -> list[psutil.Process]:
        """The processes in which Triton runs its models now; those of earlier loads may linger."""
        found = stubs(self.leader(Target.TRITON).pid)
        loaded_at: dict[str, float] = {}
        for stub in found:
            began = stub.process.create_time()
            loaded_at[stub.model] = max(began, loaded_at.get(stub.model, 0.0))
        return [
            stub.process
            for stub in found
            if stub.process.create_time() > loaded_at[stub.model] - TOGETHER_S
        ]

    def workers(self) -> list[psutil.Process]:
        """The processes in which the models run, one beside each stub."""
        return [worker for stub in self.stubs() for worker in stub.children()]

    def proxies_of(self, target: Target) -> list[Proxy]:
        return [self.proxies[name] for name in PROXIED[target]]

    async def missing(self) -> dict[str, str]:
        """Parts that are not ready, and why."""
        return await asyncio.to_thread(missing_parts, self.ports.api)

    async def ready(self, wait_s: float) -> dict[str, str]:
        """Wait until nothing is missing; return what still is, after `wait_s`."""
        deadline = asyncio.get_running_loop().time() + wait_s
        while (missing := await self.missing()) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        return missing

    @asynccontextmanager
    async def rival(self) -> AsyncIterator[None]:
        """A second dispatcher, without fault points."""
        program = self.rival_program
        program.folder.mkdir(exist_ok=True)
        launch = program.prepare()
        with (program.folder / "rival.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *launch.command, env=dict(launch.environment), cwd="/", stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(READY_S_MAX):
                while not await program.probe():
                    await asyncio.sleep(0.05)
            yield
        finally:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def attacked_site(
    folder: Path, *, bug: Bug = Bug.NONE, disks: bool | None = None
) -> AsyncIterator[Site]:
    """Start an installation in `folder`; kill it at the end."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    ports = Ports(**dict(zip((it.name for it in fields(Ports)), free_ports(8), strict=True)))
    async with AsyncExitStack() as opened:
        state = opened.enter_context(owned(folder / "state"))
        socket = folder / "points"
        controller = await opened.enter_async_context(Controller.listening(socket))
        site = Site(state, ports, controller)
        if os.geteuid() == 0 if disks is None else disks:
            for service in (Target.NATS, Target.POSTGRES):
                opened.callback(_unmount, _mounted(state.folder(service)))
            site.has_disks = True
        targets = {
            "client_gateway": ports.api,
            "gateway_nats": ports.nats,
            "gateway_postgres": ports.postgres,
            "dispatcher_nats": ports.nats,
            "dispatcher_postgres": ports.postgres,
            "dispatcher_triton": ports.triton_grpc,
        }
        for name, port in targets.items():
            proxy = await opened.enter_async_context(Proxy(name, port).running())
            site.proxies[name] = proxy
        services = _services(site, bug, socket)
        supervisor = Supervisor(services, tell=lambda event: site.heard(event))
        opened.push_async_callback(_stop, site, supervisor)
        await supervisor.start()
        watching = asyncio.create_task(supervisor.watch(), name="chaos.supervisor")
        opened.push_async_callback(_cancel, watching)
        if missing := await site.ready(READY_S_MAX):
            raise TimeoutError(f"the installation is not ready: {missing}")
        yield site


def _services(site: Site, bug: Bug, socket: Path) -> tuple[Service, ...]:
    """What `tritonq up` would run, with proxies in between and our entry points."""
    options = Options(
        state=site.state.path, triton_environment=TRITON_ENVIRONMENT, sync_interval="always"
    )
    installation = plan(options, site.state, site.ports, MODELS)
    servers = {service.name: service.server for service in installation.services}
    site.postgres = cast(Postgres, servers["postgres"])
    site.nats = cast(Nats, servers["nats"])
    variables = {SOCKET_VARIABLE: str(socket), VARIABLE: bug}
    services = []
    for service in installation.services:
        server: Server = service.server
        if isinstance(server, Program):
            server = _faulty(site, server, variables)
        gated = Gated(server)
        site.gates[service.name] = gated
        services.append(replace(service, server=cast(Server, gated)))
    dispatcher = cast(Program, servers["dispatcher"])
    metrics_port = free_ports(1)[0]
    settings = {**dispatcher.settings, "NAME": "rival", "METRICS_PORT": str(metrics_port)}
    site.rival_program = FaultyProgram(
        name=dispatcher.name,
        folder=site.state.path / "rival",
        probe_port=metrics_port,
        stop_s_max=dispatcher.stop_s_max,
        settings=settings,
        module="dispatcher",
    )
    return tuple(services)


def _faulty(site: Site, program: Program, variables: Mapping[str, str]) -> Program:
    name = program.name
    through = {each: site.proxies[each].port for each in site.proxies if each.startswith(name)}
    dsn = replace(site.postgres, port=through[f"{name}_postgres"]).dsn
    settings = {
        **program.settings,
        "NATS_URL": replace(site.nats, port=through[f"{name}_nats"]).url,
        "POSTGRES_DSN_FILE": str(site.state.keep_secret(f"dsn_of_{name}", dsn)),
    }
    if name == Target.DISPATCHER:
        settings["TRITON_ADDRESS"] = f"{LOOPBACK}:{through['dispatcher_triton']}"
    return FaultyProgram(
        name=name,
        folder=program.folder,
        probe_port=program.probe_port,
        stop_s_max=program.stop_s_max,
        settings=settings,
        module=f"tests.chaos.faulty_{name}",
        variables=variables,
    )


async def _stop(site: Site, supervisor: Supervisor) -> None:
    for gated in site.gates.values():
        gated.gate.set()
    for target in PROXIED:
        try:
            os.kill(site.leader(target).pid, signal.SIGCONT)
        except (LookupError, ProcessLookupError, psutil.Error):
            continue
    await asyncio.to_thread(supervisor.kill)  # nothing of it is needed any more
    await supervisor.stop()


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


def _mounted(folder: Path) -> Path:
    options = f"size={DISK_BYTES},mode=0755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tritonq-chaos", str(folder)]
    subprocess.run(command, check=True)
    return folder


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)
