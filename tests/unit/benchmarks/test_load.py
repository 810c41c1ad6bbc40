"""The load generator reads HTTP as a real server writes it, in whatever pieces it arrives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import Connection, closed_loop, connections, get, post, read_answer

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    async def served_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(served_once, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def request_of(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The first line of a request, and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.partition("content-length: ")[2].partition("\r\n")[0]
    return head.partition("\r\n")[0], await reader.readexactly(int(length or 0))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the body, one byte after the other."""
    while True:
        _, body = await request_of(reader)
        answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await asyncio.sleep(0)  # the client, in the same loop, reads it before the next


async def test_an_answer_may_come_in_pieces_and_the_connection_serves_again() -> None:
    async with served(echo) as port, connections(port, 1) as (link,):
        assert await link.ask(post("/", b"first", "text/plain")) == (202, b"first")
        assert await link.ask(post("/", b"", "text/plain")) == (202, b"")
        assert await link.ask(post("/", b"x" * 3000, "text/plain")) == (202, b"x" * 3000)


async def test_a_get_has_no_body() -> None:
    async with served(echo) as port, connections(port, 1) as (link,):
        assert await link.ask(get("/anything")) == (202, b"")


async def test_a_server_that_hangs_up_is_an_error_and_not_a_wait() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)

    async with served(hang_up) as port, connections(port, 1) as (link,):
        with pytest.raises(ConnectionError):
            await link.ask(get("/"))


async def test_each_piece_of_work_is_done_once_however_many_connections_there_are() -> None:
    done: list[int] = []

    async def work(link: Connection, number: int) -> None:
        _, body = await link.ask(post("/", str(number).encode(), "text/plain"))
        done.append(int(body))

    async with served(echo) as port, connections(port, 3) as links:
        loaded = await closed_loop(links, 10, work)
    assert sorted(done) == list(range(10))
    assert loaded.count == len(loaded.latencies_s) == 10
    assert loaded.quantile_ms(0.0) <= loaded.quantile_ms(0.5) <= loaded.quantile_ms(1.0)


def test_of_a_prediction_id_status_and_output_are_read() -> None:
    answer = read_answer(b'{"id":"a","status":"succeeded","output":[1, 2],"more":{}}')
    assert (answer.id, answer.status, bytes(answer.output)) == ("a", "succeeded", b"[1, 2]")
