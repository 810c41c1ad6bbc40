"""One shape for every server that standalone runs, and how one is started, probed and stopped.

A `Server` says what to run; a `Process` is one run of it. Each run has its own session, so that its
whole family ends with it, and a record on disk, so that the next run can end what a killed one left
behind. Which servers there are, and when to restart them, is the supervisor's business.
"""

import asyncio
import contextlib
import hashlib
import http.client
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from standalone.leftover import Session, end_session, forget_session, remember_session

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOG_BYTES_MAX = 10 * 1024 * 1024  # a larger log is set aside (one generation) before a start
LOG_TAIL_LINES = 15
PROBE_S_MAX = 2.0
PROBE_EVERY_S = 0.02  # while starting; the servers are up within 0.05 to 2 s

# Environment of what handles large messages: keep freed memory. glibc gives blocks of the size of a
# batch back to the kernel each time, and pages that are new cost more than what is copied into
# them. With this tritonserver takes a fifth less CPU for an image, its three processes together
# a third less for a text of 100 KB, and gateway and dispatcher about 5 % less to accept one.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),  # the largest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024),
}


class CannotStart(Exception):
    """A server cannot start here. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute. `environment` is the whole environment: nothing is inherited."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    privileges: tuple[str, ...] = ()  # options of setpriv(1): run as whom, with which capabilities
    nice: int = 0  # how far it lets others go first where cores are short, 0 to 19


class Server(Protocol):
    """A server and its settings; immutable, so that every start of it is alike."""

    @property
    def name(self) -> str:
        """One word, in messages and as the name of the log."""

    @property
    def folder(self) -> Path:
        """Everything it keeps, its log and its record; survives restarts."""

    @property
    def ports(self) -> tuple[int, ...]:
        """What it listens on, on loopback: checked to be free before a start."""

    @property
    def stop_signal(self) -> signal.Signals:
        """Asks for a clean end; also sent by the kernel when the starting process dies."""

    @property
    def start_s_max(self) -> float: ...

    @property
    def stop_s_max(self) -> float:
        """After this a stop becomes a kill."""

    def prepare(self) -> Launch:
        """Check the environment and write what the start needs. Blocks; called before each start.

        Nothing of an earlier run is alive here, but anything may lie about on the disk.

        Raises:
            CannotStart: with the reason and what to do about it.
        """
        ...

    async def probe(self) -> bool:
        """Whether it answers properly right now. Takes about PROBE_S_MAX at most; never raises."""
        ...

    def clean_up(self) -> None:
        """Remove what the processes leave outside `folder`. Called once all of them are gone."""


class Process:
    """One run of a server: a session of processes, ended together."""

    def __init__(self, server: Server, process: asyncio.subprocess.Process, session: Session):
        self.server = server
        self._process = process
        self._session = session

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the main process has ended by itself or otherwise."""
        return await self._process.wait()

    async def stop(self) -> int:
        """End the server: cleanly, or by force after `stop_s_max`. May be called again.

        Also call it after the server died by itself: its children and files go here.
        """
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self.server.stop_signal)
        try:
            async with asyncio.timeout(self.server.stop_s_max):
                await self._process.wait()
        except TimeoutError:
            log.warning("server.killed", extra={"server": self.server.name, "pid": self.pid})
        finally:
            # Shielded: a cancelled stop must not leave half a family behind.
            await asyncio.shield(asyncio.to_thread(self._end_family))
        return await self._process.wait()

    def _end_family(self) -> None:
        end_session(self._session, grace_s=1.0 if self.returncode is not None else 0.0)
        self.server.clean_up()
        forget_session(record_path(self.server))


async def start(server: Server) -> Process:
    """Start `server` and wait until it answers.

    Raises:
        CannotStart: it refuses this environment, died, or did not answer within `start_s_max`.
            Nothing of it is left running then.
    """
    began = time.monotonic()
    try:
        offset, launch = await asyncio.to_thread(_make_ready, server)
        process = await _spawn(server, launch)
    except OSError as error:  # the disk is full, or a file belongs to somebody else
        raise CannotStart(f"{server.name} cannot start: {error}") from error
    try:
        await _answering(server, process, offset)
    except BaseException:
        await asyncio.shield(process.stop())
        raise
    seconds = round(time.monotonic() - began, 3)
    log.info("server.started", extra={"server": server.name, "pid": process.pid, "s": seconds})
    return process


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Process]:
    """Run `server` for the length of a block."""
    process = await start(server)
    try:
        yield process
    finally:
        await process.stop()


def public_name(folder: Path) -> str:
    """What names that the whole machine sees begin with, so that they are known to be ours."""
    return f"tritonq_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"


def log_path(server: Server) -> Path:
    return server.folder / f"{server.name}.log"


def set_aside_if_large(path: Path) -> None:
    """Keep the log `path` from growing for ever; one older generation stays."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))


def record_path(server: Server) -> Path:
    """Where it is noted which session the server leads, for `standalone.leftover`."""
    return server.folder / f"{server.name}.pid"


def log_tail(server: Server, *, offset: int = 0) -> str:
    """The last lines of the log after byte `offset`, for a message."""
    try:
        with log_path(server).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES:])


def answers_ok(port: int, path: str) -> bool:
    """Whether GET `path` on loopback is answered with 200. Blocks up to PROBE_S_MAX.

    http.client, because it never asks a proxy for what is on this machine.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_S_MAX)
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _make_ready(server: Server) -> tuple[int, Launch]:
    if shutil.which("setpriv") is None:
        raise CannotStart("the command setpriv is missing; install the package util-linux")
    server.folder.mkdir(parents=True, exist_ok=True)
    leftover = remember_session(record_path(server))
    if end_session(leftover, ask=server.stop_signal, grace_s=server.stop_s_max):
        log.warning("server.leftover_ended", extra={"server": server.name})
    server.clean_up()
    for port in server.ports:
        _require_free(server.name, port)
    launch = server.prepare()
    path = log_path(server)
    set_aside_if_large(path)
    return (path.stat().st_size if path.exists() else 0), launch


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = f"port {port} on {LOOPBACK} cannot be used for {name}: {error.strerror}"
            raise CannotStart(f"{reason}; stop what listens there or choose another port") from None


async def _spawn(server: Server, launch: Launch) -> Process:
    # setpriv replaces itself by the command: same pid, same session. If this process is killed,
    # the kernel passes `stop_signal` on. (It counts as killed when the thread that started the
    # child ends, so this must not run in a worker thread.)
    death = f"--pdeathsig={server.stop_signal.name.removeprefix('SIG')}"
    with log_path(server).open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            "setpriv", death, *launch.privileges, "--", *launch.command,
            env=dict(launch.environment), cwd="/", start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        session = Session.record(process.pid, record_path(server))
    except OSError:
        process.kill()  # without a record nobody would ever end it
        await process.wait()
        raise
    if launch.nice:
        _step_back(process.pid, launch.nice)
    return Process(server, process, session)


def _step_back(pid: int, nice: int) -> None:
    """Lower the priority of a process that has just started, and of all that it will start."""
    with contextlib.suppress(OSError):  # it has ended, or this system has no such groups
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        # Where the scheduler takes a session for a group, only the group's own priority counts.
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


async def _answering(server: Server, process: Process, offset: int) -> None:
    ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(server.start_s_max):
            while not await server.probe():
                if ended.done():
                    raise CannotStart(_obituary(server, f"ended with {ended.result()}", offset))
                await asyncio.wait([ended], timeout=PROBE_EVERY_S)
    except TimeoutError:
        reason = f"did not answer within {server.start_s_max:.0f} s"
        raise CannotStart(_obituary(server, reason, offset)) from None
    finally:
        ended.cancel()


def _obituary(server: Server, reason: str, offset: int) -> str:
    tail = log_tail(server, offset=offset) or "(it wrote nothing)"
    return f"{server.name} {reason}; the end of {log_path(server)}:\n{tail}"
