"""Starts the services in order of dependence, keeps them running, and stops them in reverse.

A service that ends, that no longer answers, or that answers though a part of it is dead, is healed
or started again; each such fact is an event, logged and told. What the services are is decided in
`standalone.installation`; how one is started and stopped, in `standalone.server`.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from standalone.backoff import Backoff
from standalone.leftover import end_session, remember_session
from standalone.server import CannotStart, Process, Server, log_path, record_path, start

log = logging.getLogger(__name__)


class Remedy(Protocol):
    """Mends what a probe does not see and a restart would be too much for."""

    async def take_stock(self, pid: int) -> None:
        """Note what belongs to the server `pid`, which has just started: all of it is alive."""

    async def alarm(self) -> None:
        """Return once there is reason to look for an ailment right now."""

    async def ailment(self, pid: int) -> str:
        """What is wrong with the server `pid` although it answers; empty if nothing."""

    async def heal(self) -> bool:
        """Mend it while it runs; False where only a restart will do."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """A server, and how it is to be kept."""

    server: Server
    needs: tuple[str, ...] = ()  # names of those that must have started before
    stop_s_max: float = 5.0  # its share of the time that stopping everything may take
    remedy: Remedy | None = None

    @property
    def name(self) -> str:
        return self.server.name


@dataclass(frozen=True, slots=True)
class Pace:
    """How closely services are watched."""

    probe_every_s: float = 1.0
    silent_s_max: float = 10.0  # without an answer for so long it hangs, however busy the machine
    probes_min: int = 3  # and at least so many must have failed: the watcher may have slept itself


class Kind(StrEnum):
    """What can happen to a service."""

    STARTED = "started"
    ENDED = "ended"  # by itself
    SILENT = "silent"  # it runs and does not answer
    AILING = "ailing"  # it answers, and a part of it is dead
    HEALED = "healed"  # mended while it ran
    RESTARTED = "restarted"
    NOT_STARTED = "not started"
    FAILING = "failing"  # again and again
    STOPPED = "stopped"


WORSE = (Kind.ENDED, Kind.SILENT, Kind.AILING, Kind.NOT_STARTED, Kind.FAILING)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a service, in one line."""

    service: str
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.service} {self.kind}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class _Trouble:
    kind: Kind
    detail: str


class Supervisor:
    """Runs `services`. Call `start`, then `watch`, and `stop` in any case, once."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        tell: Callable[[Event], None],
        pace: Pace | None = None,
    ) -> None:
        known: set[str] = set()
        for service in services:
            assert known.issuperset(service.needs), "each is listed after those it needs"
            known.add(service.name)
        self._services = tuple(services)
        self._tell_user = tell
        self._pace = pace or Pace()
        self._processes: dict[str, Process] = {}
        self._began: dict[str, float] = {}

    async def start(self) -> None:
        """Start all of them, in parallel where one does not need the other.

        Raises:
            CannotStart: of the first that could not. Others may run: call `stop`.
        """
        up = {service.name: asyncio.Event() for service in self._services}

        async def start_one(service: Service) -> None:
            for name in service.needs:
                await up[name].wait()
            seconds = await self._start(service)
            self._tell(service, Kind.STARTED, f"{seconds:.1f} s")
            up[service.name].set()

        try:
            async with asyncio.TaskGroup() as group:
                for service in self._services:
                    group.create_task(start_one(service))
        except BaseExceptionGroup as group:
            raise first_refusal(group) or group from None

    async def watch(self) -> None:
        """Keep them running until cancelled."""
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(self._keep(service))

    async def stop(self) -> None:
        """Stop all of them, the last first; none outlives this. May be cancelled, not repeated."""
        for service in reversed(self._services):
            process = self._processes.get(service.name)
            if process is None:
                continue
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(service.stop_s_max):
                    await process.stop()
            if process.returncode is None:
                await asyncio.to_thread(_kill, service.server)
                await process.stop()
            self._tell(service, Kind.STOPPED, f"{time.monotonic() - began:.1f} s")

    def kill(self) -> None:
        """End everything at once, what is just starting or stopping too. Blocks a moment.

        It does not replace `stop`, but makes it fast.
        """
        for service in self._services:
            _kill(service.server)

    async def _start(self, service: Service) -> float:
        began = time.monotonic()
        self._processes[service.name] = await start(service.server)
        self._began[service.name] = time.monotonic()
        if service.remedy:
            await service.remedy.take_stock(self._processes[service.name].pid)
        return time.monotonic() - began

    async def _keep(self, service: Service) -> None:
        backoff = Backoff()
        while True:
            trouble = await self._trouble(service)
            self._tell(service, trouble.kind, trouble.detail)
            if trouble.kind is Kind.AILING and await self._heals(service):
                self._tell(service, Kind.HEALED)
                continue
            if trouble.kind is Kind.SILENT:
                await asyncio.to_thread(_kill, service.server)  # asking it would be in vain
            await self._restart(service, backoff)

    async def _heals(self, service: Service) -> bool:
        """Mend `service`. False also if it ends meanwhile: then nobody answers the remedy."""
        assert service.remedy is not None, "only a remedy finds an ailment"
        healing = asyncio.create_task(service.remedy.heal())
        ended = asyncio.create_task(self._processes[service.name].wait())
        try:
            await asyncio.wait([healing, ended], return_when=asyncio.FIRST_COMPLETED)
            return not ended.done() and healing.result()
        finally:
            for each in (healing, ended):
                each.cancel()

    async def _trouble(self, service: Service) -> _Trouble:
        """Watch `service` until something is wrong with it."""
        process = self._processes[service.name]
        ended = asyncio.create_task(process.wait())
        answered_at, failures = time.monotonic(), 0
        try:
            while True:
                await self._pause(service, ended)
                if ended.done():
                    return _Trouble(Kind.ENDED, _manner(ended.result()))
                if await service.server.probe():
                    answered_at, failures = time.monotonic(), 0
                    if service.remedy and (ailment := await service.remedy.ailment(process.pid)):
                        return _Trouble(Kind.AILING, ailment)
                    continue
                failures += 1
                silent_s = time.monotonic() - answered_at
                if silent_s >= self._pace.silent_s_max and failures >= self._pace.probes_min:
                    return _Trouble(Kind.SILENT, f"no answer for {silent_s:.0f} s")
        finally:
            ended.cancel()

    async def _pause(self, service: Service, ended: "asyncio.Task[int]") -> None:
        """Wait until it is time to look after `service` again."""
        alarms = [asyncio.create_task(service.remedy.alarm())] if service.remedy else []
        try:
            await asyncio.wait(
                [ended, *alarms],
                timeout=self._pace.probe_every_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for alarm in alarms:
                alarm.cancel()

    async def _restart(self, service: Service, backoff: Backoff) -> None:
        await self._processes[service.name].stop()
        ran_s = time.monotonic() - self._began[service.name]
        while True:
            wait_s = backoff.wait_s(ran_s=ran_s)
            if backoff.is_loop:
                again = f"ended {backoff.ends} times in a row; next try in {wait_s:.0f} s"
                self._tell(service, Kind.FAILING, f"{again}; see {log_path(service.server)}")
            await asyncio.sleep(wait_s)
            try:
                seconds = await self._start(service)
            except CannotStart as error:
                self._tell(service, Kind.NOT_STARTED, str(error))
                ran_s = 0.0
                continue
            self._tell(service, Kind.RESTARTED, f"{seconds:.1f} s")
            return

    def _tell(self, service: Service, kind: Kind, detail: str = "") -> None:
        level = logging.WARNING if kind in WORSE else logging.INFO
        fields = {"service": service.name, "kind": kind.value, "detail": detail}
        log.log(level, "service.event", extra=fields)
        self._tell_user(Event(service.name, kind, detail))


def first_refusal(group: BaseExceptionGroup) -> CannotStart | None:
    """The refusal to show; None where a bug is among what happened."""
    refusals, others = group.split(CannotStart)
    if refusals is None or others is not None:
        return None
    return next(error for error in refusals.exceptions if isinstance(error, CannotStart))


def _kill(server: Server) -> None:
    end_session(remember_session(record_path(server)), grace_s=0.0)


def _manner(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
