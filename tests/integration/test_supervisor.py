"""The supervisor, with real processes: small ones of our own, and the real servers."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from standalone.leftover import Session
from standalone.nats import Nats
from standalone.postgres import Postgres
from standalone.server import CannotStart, Launch, answers_ok
from standalone.supervisor import Event, Kind, Pace, Service, Supervisor
from tests.services import free_ports

QUICK = Pace(probe_every_s=0.05, silent_s_max=0.5, probes_min=2)
EVENT_S_MAX = 30.0

# Answers every GET with 200. argv[2]: "stubborn" ignores SIGTERM, "parent" has a child that sleeps.
SCRIPT = """
import http.server, signal, subprocess, sys
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
if sys.argv[2] == "parent": subprocess.Popen(["sleep", "600"])
end = signal.SIG_IGN if sys.argv[2] == "stubborn" else lambda *_: sys.exit(0)
signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""


@dataclass(frozen=True)
class Script:
    """A small server."""

    name: str
    folder: Path
    port: int
    manner: str = "polite"

    stop_signal = signal.SIGTERM
    start_s_max = 20.0
    stop_s_max = 5.0

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    def prepare(self) -> Launch:
        if (self.folder / "refuse").exists():
            raise CannotStart("told to refuse")
        if (self.folder / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        command = (sys.executable, "-S", "-c", SCRIPT, str(self.port), self.manner)
        return Launch(command, {"PATH": os.environ["PATH"]})

    async def probe(self) -> bool:
        return await asyncio.to_thread(answers_ok, self.port, "/")

    def clean_up(self) -> None: ...


class Told:
    """What the supervisor told, and a way to wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._heard = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._heard.set()

    async def first(self, service: str, kind: Kind, *, after: int = 0) -> Event:
        async with asyncio.timeout(EVENT_S_MAX):
            while True:
                self._heard.clear()
                for event in self.events[after:]:
                    if (event.service, event.kind) == (service, kind):
                        return event
                await self._heard.wait()


def script(root: Path, name: str, manner: str = "polite") -> Script:
    return Script(name, root / name, free_ports(1)[0], manner)


@asynccontextmanager
async def supervised(*services: Service) -> AsyncIterator[tuple[Supervisor, Told]]:
    told = Told()
    supervisor = Supervisor(services, tell=told, pace=QUICK)
    try:
        await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        try:
            yield supervisor, told
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    finally:
        await supervisor.stop()


def processes_of(folder: Path) -> list[psutil.Process]:
    """The living processes of the session noted in `folder`."""
    leader = leader_of(folder)
    return [
        process
        for process in psutil.process_iter()
        if _session(process.pid) == leader and lives(process)
    ]


def leader_of(folder: Path) -> int:
    return int(folder.joinpath(f"{folder.name}.pid").read_text().split('"pid": ')[1].split(",")[0])


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended and that nobody has asked about does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


async def test_a_service_starts_after_those_it_needs(tmp_path: Path) -> None:
    first, second = script(tmp_path, "first"), script(tmp_path, "second")
    async with supervised(Service(first), Service(second, needs=("first",))) as (_, told):
        started = [event.service for event in told.events if event.kind is Kind.STARTED]
        assert started == ["first", "second"]


async def test_a_killed_service_is_started_again_and_the_fact_is_told(tmp_path: Path) -> None:
    only = script(tmp_path, "only")
    async with supervised(Service(only)) as (_, told):
        before = leader_of(only.folder)
        os.kill(before, signal.SIGKILL)
        assert "SIGKILL" in (await told.first("only", Kind.ENDED)).detail
        await told.first("only", Kind.RESTARTED)
        assert leader_of(only.folder) != before
        assert await only.probe()


async def test_the_children_of_a_killed_service_go_with_it(tmp_path: Path) -> None:
    only = script(tmp_path, "only", "parent")
    async with supervised(Service(only)) as (_, told):
        (child,) = psutil.Process(leader_of(only.folder)).children()
        os.kill(leader_of(only.folder), signal.SIGKILL)
        await told.first("only", Kind.RESTARTED)
        assert not lives(child)


async def test_a_service_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    only = script(tmp_path, "only")
    async with supervised(Service(only)) as (_, told):
        frozen = psutil.Process(leader_of(only.folder))
        frozen.suspend()
        await told.first("only", Kind.SILENT)
        await told.first("only", Kind.RESTARTED)
        assert not lives(frozen)
        assert await only.probe()


async def test_a_service_that_ends_again_and_again_is_told_to_be_failing(tmp_path: Path) -> None:
    only = script(tmp_path, "only")
    async with supervised(Service(only)) as (_, told):
        (only.folder / "refuse").touch()
        os.kill(leader_of(only.folder), signal.SIGKILL)
        refusal = await told.first("only", Kind.NOT_STARTED)
        assert "told to refuse" in refusal.detail
        failing = await told.first("only", Kind.FAILING)
        assert "only.log" in failing.detail
        (only.folder / "refuse").unlink()
        await told.first("only", Kind.RESTARTED)


@pytest.mark.parametrize("full", ["prepare", "record"])
async def test_a_full_disk_stops_no_other_service_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    only = script(tmp_path, "only")
    async with supervised(Service(only)) as (_, told):
        if full == "prepare":
            (only.folder / "full").touch()
        else:
            no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            monkeypatch.setattr(Session, "record", Mock(side_effect=no_space))
        os.kill(leader_of(only.folder), signal.SIGKILL)
        assert "No space left" in (await told.first("only", Kind.NOT_STARTED)).detail
        (only.folder / "full").unlink(missing_ok=True)
        monkeypatch.undo()
        await told.first("only", Kind.RESTARTED)
        assert await only.probe()


async def test_a_service_that_cannot_start_leaves_nothing_running(tmp_path: Path) -> None:
    good, bad = script(tmp_path, "good"), script(tmp_path, "bad")
    bad.folder.mkdir()
    (bad.folder / "refuse").touch()
    told = Told()
    supervisor = Supervisor((Service(good), Service(bad, needs=("good",))), tell=told)
    with pytest.raises(CannotStart, match="told to refuse"):
        await supervisor.start()
    members = processes_of(good.folder)
    assert members
    await supervisor.stop()
    assert not any(map(lives, members))


async def test_services_stop_in_reverse_order_and_leave_no_process(tmp_path: Path) -> None:
    first, second = script(tmp_path, "first", "parent"), script(tmp_path, "second")
    async with supervised(Service(first), Service(second)) as (_, told):
        members = processes_of(first.folder) + processes_of(second.folder)
        assert len(members) == 3
    stopped = [event.service for event in told.events if event.kind is Kind.STOPPED]
    assert stopped == ["second", "first"]
    assert not any(map(lives, members))


async def test_a_service_that_will_not_stop_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    only = script(tmp_path, "only", "stubborn")
    async with supervised(Service(only, stop_s_max=0.3)):
        members = processes_of(only.folder)
    assert not any(map(lives, members))


async def test_kill_makes_a_slow_stop_fast(tmp_path: Path) -> None:
    only = script(tmp_path, "only", "stubborn")
    async with supervised(Service(only, stop_s_max=600.0)) as (supervisor, _):
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)  # it has begun, and would wait for five seconds
        await asyncio.to_thread(supervisor.kill)
        async with asyncio.timeout(4.0):
            await stopping


async def test_postgres_and_nats_are_back_after_kill_9(tmp_path: Path) -> None:
    postgres_port, nats_port, monitor_port = free_ports(3)
    postgres = Postgres(tmp_path / "postgres", postgres_port, "secret", (("fsync", "off"),))
    nats = Nats(tmp_path / "nats", nats_port, monitor_port, "token", "2m")
    async with supervised(Service(postgres), Service(nats)) as (_, told):
        for server in (postgres, nats):
            os.kill(leader_of(server.folder), signal.SIGKILL)
            await told.first(server.name, Kind.RESTARTED)
            assert await server.probe()


@dataclass
class Mended:
    """A remedy for an ailment that a file stands for."""

    file: Path
    works: bool

    async def take_stock(self, pid: int) -> None: ...

    async def alarm(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def ailment(self, pid: int) -> str:
        return "a part is dead" if self.file.exists() else ""

    async def heal(self) -> bool:
        self.file.unlink()
        return self.works


@pytest.mark.parametrize(("works", "then"), [(True, Kind.HEALED), (False, Kind.RESTARTED)])
async def test_an_ailing_service_is_healed_and_started_again_only_if_that_fails(
    tmp_path: Path, works: bool, then: Kind
) -> None:
    only = script(tmp_path, "only")
    ill = tmp_path / "ill"
    async with supervised(Service(only, remedy=Mended(ill, works))) as (_, told):
        before = leader_of(only.folder)
        ill.touch()
        await told.first("only", Kind.AILING)
        await told.first("only", then)
        assert (leader_of(only.folder) == before) is works


class Endless:
    """A remedy that never comes to an end, since nobody is there to be mended."""

    def __init__(self, ill: Path) -> None:
        self._ill = ill

    async def take_stock(self, pid: int) -> None: ...

    async def alarm(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def ailment(self, pid: int) -> str:
        return "a part is dead" if self._ill.exists() else ""

    async def heal(self) -> bool:
        self._ill.unlink()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def test_a_service_that_ends_while_it_is_healed_is_started_again_at_once(
    tmp_path: Path,
) -> None:
    only = script(tmp_path, "only")
    ill = tmp_path / "ill"
    async with supervised(Service(only, remedy=Endless(ill))) as (_, told):
        ill.touch()
        await told.first("only", Kind.AILING)
        os.kill(leader_of(only.folder), signal.SIGKILL)
        await told.first("only", Kind.RESTARTED)
        assert await only.probe()
