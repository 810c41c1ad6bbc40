"""Finds and ends what a killed run left behind.

Each server leads a session of its own (setsid), and all its children stay in it. A file records
which session that was. The record identifies a process by more than its number, because numbers
are used again: an innocent process must never be ended.
"""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

KILL_S_MAX = 5.0  # a killed process is gone in milliseconds, unless it waits for a broken disk
ORPHAN_GRACE_S = 1.0  # Triton's stubs notice its death within 0.3 s, if they are idle
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Session:
    """The session led by process `pid`, which began at `started_at` (Unix time)."""

    pid: int
    started_at: float
    place: str  # boot and pid namespace: elsewhere the same number means another process

    @classmethod
    def record(cls, pid: int, path: Path) -> Self:
        """Describe the session of a child just started, and note it in the file `path`."""
        try:
            started_at = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:  # it has ended already; its children may not have
            started_at = time.time()
        session = cls(pid, started_at, _place())
        path.write_text(json.dumps(asdict(session)))
        return session

    def members(self) -> list[psutil.Process]:
        """The processes of this session that are alive; zombies are not."""
        if self.place != _place():
            return []
        found = []
        for pid in psutil.pids():
            try:
                if os.getsid(pid) != self.pid:
                    continue
                process = psutil.Process(pid)
                if pid == self.pid and not self._is_leader(process):
                    return []  # the number belongs to somebody else now
                if self._is_living_member(process):
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def _is_leader(self, process: psutil.Process) -> bool:
        return abs(process.create_time() - self.started_at) < 1.0

    def _is_living_member(self, process: psutil.Process) -> bool:
        younger = process.create_time() >= self.started_at - 1.0
        return younger and process.status() != psutil.STATUS_ZOMBIE


def remember_session(path: Path) -> Session | None:
    """Read the record of the last run; None when it ended properly or the record is torn."""
    try:
        return Session(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def forget_session(path: Path) -> None:
    path.unlink(missing_ok=True)


def end_session(
    session: Session | None, *, ask: signal.Signals | None = None, grace_s: float = 1.0
) -> bool:
    """End every process of `session`; True if there was one. Blocks until they are gone.

    Args:
        ask: sent to the leader first, since only it knows how to end its children in order.
        grace_s: time for all of them to end by themselves; after it they are killed. Where the
            leader is dead nobody ends the children, and they get ORPHAN_GRACE_S at most.
    """
    if session is None or not (members := session.members()):
        return False
    leader = [process for process in members if process.pid == session.pid]
    if ask is not None:
        _signal(leader, ask)
    if not _gone(session, grace_s if leader else min(grace_s, ORPHAN_GRACE_S)):
        _signal(session.members(), signal.SIGKILL)
        _gone(session, KILL_S_MAX)
    return True


def kill_titled(title: str) -> None:
    """Kill every process whose command line begins with `title`. Blocks until they are gone."""
    deadline = time.monotonic() + KILL_S_MAX
    while (found := _titled(title)) and time.monotonic() < deadline:
        _signal(found, signal.SIGKILL)
        time.sleep(POLL_S)


def _titled(title: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "".join(process.cmdline()[:1]).startswith(title):  # a zombie has none
                found.append(process)
        except psutil.Error:
            continue
    return found


def _signal(members: list[psutil.Process], number: signal.Signals) -> None:
    for process in members:
        try:
            process.send_signal(number)  # psutil checks that the number was not used again
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _gone(session: Session, wait_s_max: float) -> bool:
    deadline = time.monotonic() + wait_s_max
    while session.members():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
