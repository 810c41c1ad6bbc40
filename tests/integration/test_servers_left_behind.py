"""What standalone promises when the program that started a server is killed, at any moment."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from standalone.leftover import Session, end_session, remember_session
from standalone.nats import Nats
from standalone.server import CannotStart, running, start
from tests.services import free_ports, is_gone

WAIT_S_MAX = 20.0

# Starts a NATS server and waits to be killed.
STARTER = """
import asyncio, pathlib, sys
from standalone.nats import Nats
from standalone.server import start
async def main():
    folder, port, monitor_port = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    process = await start(Nats(folder, port, monitor_port, "token", "2m"))
    print(process.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def nats(tmp_path: Path) -> Nats:
    port, monitor_port = free_ports(2)
    return Nats(tmp_path, port, monitor_port, "token", "2m")


async def test_a_server_ends_when_the_program_that_started_it_is_killed(nats: Nats) -> None:
    arguments = [str(nats.folder), str(nats.port), str(nats.monitor_port)]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments], stdout=subprocess.PIPE, text=True
    )
    with starter:
        assert starter.stdout is not None
        server = psutil.Process(int(await asyncio.to_thread(starter.stdout.readline)))
        starter.kill()
    try:
        assert await is_gone(server)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()


async def test_a_server_that_a_killed_run_left_behind_is_ended_before_the_next_start(
    nats: Nats,
) -> None:
    leftover = await start(nats)  # nobody stops it: its starter is thought to be dead
    async with running(nats) as process:
        assert process.pid != leftover.pid
        assert leftover.returncode is not None or await leftover.wait() is not None


async def test_an_innocent_process_that_got_the_number_of_a_dead_server_lives_on(
    nats: Nats,
) -> None:
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    record = nats.folder / "nats.pid"
    session = Session.record(innocent.pid, record)
    stale = Session(innocent.pid, session.started_at - 3600, session.place)
    try:
        assert not end_session(stale, grace_s=0)
        assert not end_session(Session(innocent.pid, session.started_at, "another boot"), grace_s=0)
        assert innocent.poll() is None
        assert end_session(remember_session(record), grace_s=0)  # while its own record ends it
    finally:
        innocent.kill()
        innocent.wait()


async def test_the_children_of_a_server_end_with_it_even_when_it_is_killed(tmp_path: Path) -> None:
    """`sh` stands for Triton, whose stubs survive it when they are busy."""
    parent = subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with parent:
        session = Session.record(parent.pid, tmp_path / "sh.pid")
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        assert child.status() != psutil.STATUS_ZOMBIE
        assert end_session(session, grace_s=0)
    assert await is_gone(child)


def test_a_record_torn_by_a_crash_is_no_record(tmp_path: Path) -> None:
    record = tmp_path / "nats.pid"
    assert remember_session(record) is None
    record.write_text('{"pid": 1')
    assert remember_session(record) is None
    record.write_text('{"unknown": 1}')
    assert remember_session(record) is None


async def test_a_start_that_is_cancelled_leaves_nothing_running(nats: Nats) -> None:
    task = asyncio.create_task(start(nats))
    record = nats.folder / "nats.pid"
    async with asyncio.timeout(WAIT_S_MAX):
        while (session := remember_session(record)) is None and not task.done():
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session is not None
    assert session.members() == []


async def test_a_server_that_dies_while_starting_is_reported_with_the_end_of_its_log(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nats, "config_text", lambda _: "no { such configuration")
    with pytest.raises(CannotStart, match=r"nats ended with 1; the end of .*nats\.log:\n.*nats"):
        await start(nats)
    assert list(nats.folder.glob("*.pid")) == []


async def test_a_server_that_ignores_a_stop_is_killed(nats: Nats) -> None:
    process = await start(nats)
    os.kill(process.pid, signal.SIGSTOP)  # a frozen process hears no SIGTERM
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nats, "stop_s_max", 0.2)
        assert await process.stop() == -signal.SIGKILL
    assert await process.stop() == -signal.SIGKILL  # stopping twice is nothing special


async def test_a_taken_port_is_named_before_anything_is_started(nats: Nats) -> None:
    async with running(nats):
        other = Nats(nats.folder / "other", nats.port, free_ports(1)[0], "token")
        with pytest.raises(CannotStart, match=f"port {nats.port} on 127.0.0.1 .* for nats: Addr"):
            await start(other)
