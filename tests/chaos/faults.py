"""How each fault is done to a site, and undone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random

import asyncpg
import psutil
from nats.aio.client import Client

from contract.queue import QueueNames
from tests.chaos.matrix import IN_TRITON, Fault, Target
from tests.chaos.proxy import Slowness
from tests.chaos.site import Site

SLOWNESS = Slowness(delay_s=0.15, bytes_per_s=256 * 1024)
ENDED_S_MAX = 60.0
STREAM_ROOM = 15  # tickets that still fit when the stream is made full
BALLAST_CHUNK = 1 << 20


@asynccontextmanager
async def afflicted(
    site: Site, target: Target, fault: Fault, random: Random
) -> AsyncIterator[None]:
    """The fault is there while the block runs; where it ends a process, until that has ended."""
    async with AsyncExitStack() as undone:
        match fault:
            case Fault.KILL | Fault.TERMINATE:
                await undone.enter_async_context(_struck(site, target, fault, random))
            case Fault.FREEZE | Fault.LONG_FREEZE | Fault.RIVAL:
                await undone.enter_async_context(_frozen(_family(site, target, random)))
            case Fault.CUT | Fault.SILENCE | Fault.SLOW:
                await undone.enter_async_context(_bad_network(site, target, fault))
            case Fault.READ_ONLY:
                await undone.enter_async_context(_read_only(site))
            case Fault.CONNECTIONS:
                await undone.enter_async_context(_no_connections(site))
            case Fault.FULL_DISK:
                await undone.enter_async_context(_full_disk(site.state.path / target))
            case Fault.FULL_STREAM:
                await undone.enter_async_context(_full_stream(site))
                await undone.enter_async_context(_frozen([site.leader(Target.DISPATCHER)]))
            case Fault.DOWN:
                await undone.enter_async_context(_down(site, target))
            case Fault.NONE:
                pass
        yield


def _victim(site: Site, target: Target, random: Random) -> psutil.Process:
    if target in IN_TRITON:
        found = site.stubs() if target is Target.STUB else site.workers()
        return random.choice(sorted(found, key=lambda it: it.pid))
    return site.leader(target)


def _family(site: Site, target: Target, random: Random) -> list[psutil.Process]:
    """All that must stand still for the target to stand still."""
    victim = _victim(site, target, random)
    if target is Target.POSTGRES:  # each connection has a process of its own
        return [victim, *victim.children(recursive=True)]
    return [victim]


@asynccontextmanager
async def _struck(site: Site, target: Target, fault: Fault, random: Random) -> AsyncIterator[None]:
    victim = _victim(site, target, random)
    victim.send_signal(signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM)
    yield
    if fault is Fault.KILL or target not in IN_TRITON:  # a stub heeds no SIGTERM: Triton ends it
        await _ended(victim)


async def _ended(process: psutil.Process) -> None:
    """Wait until it has ended: told to terminate, it may have something to finish."""
    async with asyncio.timeout(ENDED_S_MAX):
        while _is_alive(process):
            await asyncio.sleep(0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def _frozen(processes: list[psutil.Process]) -> AsyncIterator[None]:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@asynccontextmanager
async def _bad_network(site: Site, target: Target, fault: Fault) -> AsyncIterator[None]:
    proxies = site.proxies_of(target)
    for proxy in proxies:
        match fault:
            case Fault.CUT:
                proxy.cut()
            case Fault.SILENCE:
                proxy.silence()
            case _:
                proxy.slow(SLOWNESS)
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.restore()


@asynccontextmanager
async def _read_only(site: Site) -> AsyncIterator[None]:
    """Every transaction from now on is refused its writes, as by a standby."""
    connection = await asyncpg.connect(site.postgres.dsn)
    try:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


@asynccontextmanager
async def _no_connections(site: Site) -> AsyncIterator[None]:
    """Somebody else takes every connection there is, also those that we had."""
    held: list[asyncpg.Connection] = []
    try:
        held.append(await asyncpg.connect(site.postgres.dsn))
        for _ in range(3):  # ours come back while the last ones are being taken
            await held[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tritonq'"
            )
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    held.append(await asyncpg.connect(site.postgres.dsn))
        yield
    finally:
        for connection in held:
            connection.terminate()


@asynccontextmanager
async def _full_disk(folder: Path) -> AsyncIterator[None]:
    """A file takes all the room that is left."""
    ballast = folder / "ballast"
    await asyncio.to_thread(_fill, ballast)
    try:
        yield
    finally:
        ballast.unlink()


def _fill(path: Path) -> None:
    chunk = bytes(BALLAST_CHUNK)
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(chunk)
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@asynccontextmanager
async def _full_stream(site: Site) -> AsyncIterator[None]:
    """Hardly a ticket more fits into the queue."""
    client = Client()
    await client.connect(f"nats://127.0.0.1:{site.nats.port}", token=site.nats.token)
    try:
        jetstream = client.jetstream()
        info = await jetstream.stream_info(QueueNames().stream)
        usual = info.config.max_msgs
        info.config.max_msgs = info.state.messages + STREAM_ROOM
        await jetstream.update_stream(info.config)
        try:
            yield
        finally:
            info.config.max_msgs = usual
            await jetstream.update_stream(info.config)
    finally:
        await client.close()


@asynccontextmanager
async def _down(site: Site, target: Target) -> AsyncIterator[None]:
    """Killed, and not started again before the end."""
    gate = site.gates[target].gate
    gate.clear()
    try:
        os.kill(site.leader(target).pid, signal.SIGKILL)
        yield
    finally:
        gate.set()
