"""A bug that nobody awaits ends the process; a connection that breaks does not."""

import asyncio
import logging

import pytest

from configuration.process import ended_by_bugs


async def work(cause: BaseException, done: list[str]) -> None:
    """Something in the background raises `cause` while this waits."""

    def fail() -> None:
        raise cause

    with ended_by_bugs():
        asyncio.get_running_loop().call_soon(fail)
        for _ in range(3):
            await asyncio.sleep(0)
        done.append("done")


def test_a_bug_in_a_callback_is_raised_where_everything_hangs() -> None:
    done: list[str] = []
    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(work(KeyError("a bug"), done))
    assert done == []


def test_a_connection_that_breaks_in_a_librarys_own_task_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    asyncio.run(work(ConnectionResetError("peer"), done))
    assert done == ["done"]
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_an_error_while_reading_a_connection_costs_that_connection_alone() -> None:
    class Broken(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            raise KeyError("a bug in what reads")

    async def main() -> None:
        with ended_by_bugs():
            server = await asyncio.get_running_loop().create_server(Broken, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"nonsense")
            assert await reader.read() == b"", "it is cut"
            writer.close()
            server.close()

    asyncio.run(main())


def test_being_canceled_by_others_stays_what_it_is() -> None:
    async def canceled() -> None:
        with ended_by_bugs():
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(canceled())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
