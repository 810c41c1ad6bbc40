"""Postgres goes away in every way it can; the ledger says so, and works again by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from contract.errors import LedgerUnavailable
from contract.prediction import Prediction
from ledger import Ledger, connections
from standalone.postgres import Postgres
from standalone.server import running
from tests.ended import OURS, new_id, succeeded, until_blocked
from tests.services import free_ports

DEADLINE_S = 20.0


@pytest.fixture
async def observer(ledger_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own: one that watched through the ledger's would sabotage it."""
    connection = await asyncpg.connect(ledger_dsn)
    yield connection
    await connection.close()


async def recorded_at_last(ledger: Ledger, prediction: Prediction) -> None:
    """Record as a dispatcher does: again and again while the ledger is away."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(LedgerUnavailable):
                await ledger.record([prediction])
                return
            await asyncio.sleep(0.01)


async def answering(ledger: Ledger) -> None:
    """Wait until the ledger has replaced every broken connection: four pings in a row, at once."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            pings = await asyncio.gather(*[ledger.ping() for _ in range(4)], return_exceptions=True)
            if not any(pings):
                return
            assert all(isinstance(each, LedgerUnavailable) for each in pings if each is not None)


async def drop_connections(observer: asyncpg.Connection) -> int:
    return int(
        await observer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )


async def test_connections_dropped_again_and_again_lose_and_repeat_nothing(
    ledger: Ledger, observer: asyncpg.Connection
) -> None:
    predictions = [succeeded() for _ in range(100)]
    waiting = iter(predictions)
    one_more = asyncio.Event()

    async def work() -> None:
        for prediction in waiting:
            await recorded_at_last(ledger, prediction)
            one_more.set()

    async with asyncio.TaskGroup() as workers:
        tasks = [workers.create_task(work()) for _ in range(8)]
        dropped = 0
        while not all(task.done() for task in tasks):
            async with asyncio.timeout(DEADLINE_S):
                await one_more.wait()
            one_more.clear()
            dropped += await drop_connections(observer)

    assert dropped > 10
    await answering(ledger)
    assert await ledger.ended(each.id for each in predictions) == {each.id for each in predictions}
    # No connection is lost to the pool: all four can be in use at once.
    async with observer.transaction():
        await observer.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        reads = [asyncio.create_task(ledger.get(new_id())) for _ in range(4)]
        await until_blocked(observer, 4)
    assert await asyncio.gather(*reads) == [None] * 4


async def test_a_restart_of_postgres_heals_by_itself(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "state", free_ports(1)[0], "secret", (("fsync", "off"),))
    ledger = await Ledger.connect(server.dsn)  # before there is any Postgres
    with pytest.raises(LedgerUnavailable):
        await ledger.migrate()

    first = succeeded()
    async with running(server):
        await ledger.migrate()
        await asyncio.gather(*[ledger.ping() for _ in range(4)])
        await ledger.record([first])
    for _ in range(5):
        with pytest.raises(LedgerUnavailable):
            await ledger.record([first])

    async with running(server):
        assert await ledger.record([first, second := succeeded()]) == {second.id}
        assert len(await ledger.page(before=None, rows_max=10)) == 2
    await ledger.close()


async def test_a_server_that_hangs_is_given_up_on_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STATEMENT_S_MAX", 0.2)
    monkeypatch.setattr(connections, "BORROW_S_MAX", 0.4)
    server = Postgres(tmp_path / "state", free_ports(1)[0], "secret", (("fsync", "off"),))
    async with running(server):
        ledger = await Ledger.connect(server.dsn, connections_max=1)
        await ledger.migrate()
        watcher = await asyncpg.connect(server.dsn)
        frozen = await watcher.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tritonq'"
        )
        os.kill(frozen, signal.SIGSTOP)
        try:
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(LedgerUnavailable):
                    await ledger.ping()
                await recorded_at_last(ledger, prediction := succeeded())
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert await ledger.get(prediction.id) == prediction
        await watcher.close()
        await ledger.close()


async def test_more_callers_than_connections_wait_and_only_so_long(
    ledger_dsn: str, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BORROW_S_MAX", 0.2)
    ledger = await Ledger.connect(ledger_dsn, connections_max=2)
    await asyncio.gather(*[ledger.ping() for _ in range(50)])
    assert await observer.fetchval(OURS) == 2

    async with observer.transaction():
        await observer.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        blocked = [asyncio.create_task(ledger.get(new_id())) for _ in range(2)]
        await until_blocked(observer, 2)
        with pytest.raises(LedgerUnavailable):
            await ledger.ping()
    assert await asyncio.gather(*blocked) == [None, None]
    await ledger.close()


async def test_a_caller_who_leaves_takes_no_connection_along(
    ledger: Ledger, observer: asyncpg.Connection
) -> None:
    async with observer.transaction():
        await observer.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        for _ in range(8):  # twice as many as there are connections
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ledger.get(new_id())

    assert await ledger.get(new_id()) is None


async def test_a_database_that_is_not_there_or_refuses_us_is_unavailable(
    postgres_dsn: str,
) -> None:
    base, _, _ = postgres_dsn.rpartition("/")
    nowhere = await Ledger.connect(f"{base}/nowhere")
    with pytest.raises(LedgerUnavailable):
        await nowhere.ping()
    await nowhere.close()

    credentials, _, place = postgres_dsn.rpartition("@")
    refused = await Ledger.connect(f"{credentials.rpartition(':')[0]}:wrong@{place}")
    with pytest.raises(LedgerUnavailable, match="credentials"):
        await refused.ping()
    await refused.close()


async def test_a_connection_lost_in_a_transaction_is_an_outage(
    ledger: Ledger, observer: asyncpg.Connection
) -> None:
    """The rollback that follows finds no connection either, and asyncpg words that as our fault."""
    async with observer.transaction():
        await observer.execute("LOCK TABLE schema_version IN ACCESS EXCLUSIVE MODE")
        migrating = asyncio.create_task(ledger.migrate())
        await until_blocked(observer, 1)
        await drop_connections(observer)
        with pytest.raises(LedgerUnavailable):
            await migrating

    await ledger.migrate()


async def test_a_connection_that_is_used_after_its_loss_is_an_outage_and_misuse_is_a_bug(
    ledger_dsn: str, observer: asyncpg.Connection
) -> None:
    pool = await connections.Connections.open(ledger_dsn, 1)

    async def two_statements() -> None:
        async with pool.borrow() as connection:
            with suppress(asyncpg.PostgresError):
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            await connection.fetchval("SELECT 1")

    async def one_argument_too_many() -> None:
        async with pool.borrow() as connection:
            await connection.fetchval("SELECT 1", 2)

    with pytest.raises(LedgerUnavailable):
        await two_statements()
    with pytest.raises(asyncpg.InterfaceError, match="expects 0 arguments"):
        await one_argument_too_many()
    await pool.close()


async def test_closing_waits_for_a_stuck_statement_only_so_long(
    ledger_dsn: str, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CLOSE_S_MAX", 0.1)
    ledger = await Ledger.connect(ledger_dsn)
    async with observer.transaction():
        await observer.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        stuck = asyncio.create_task(ledger.get(new_id()))
        await until_blocked(observer, 1)

        await ledger.close()

        with pytest.raises(LedgerUnavailable):
            await stuck
