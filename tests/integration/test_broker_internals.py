"""Guards the private parts of nats-py that `broker.internals` leans on."""

import asyncio
import importlib.metadata
from contextlib import suppress

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.internals import TidyClient, abandon, hang_up, publish_with_headers
from tests.services import NatsAddress

PAYLOADS = [b"", b"x", bytes(range(256)) * 4, b"\r\n" * 1000, b"y" * 3_000_000]


def test_the_version_of_nats_py_is_the_one_whose_private_parts_were_read() -> None:
    assert importlib.metadata.version("nats-py").startswith("2.16."), (
        "read Client._send_publish, _send_command and _flush_pending again, then adapt this"
    )


async def connected(nats_server: NatsAddress) -> Client:
    client = Client()
    await client.connect(nats_server.url, token=nats_server.token)
    return client


async def test_messages_arrive_bit_for_bit_and_in_order_among_those_sent_publicly(
    nats_server: NatsAddress, namespace: str
) -> None:
    client = await connected(nats_server)
    heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(message)

    await client.subscribe(namespace, cb=hear)
    for number, payload in enumerate(PAYLOADS):
        headers = {"Number": str(number), "Nats-Msg-Id": "a.b:c"}
        await publish_with_headers(client, namespace, payload, reply="to.me", headers=headers)
        await client.publish(namespace, b"between", reply="public", headers=headers)
    async with asyncio.timeout(10):
        for number, payload in enumerate(PAYLOADS):
            message, between = await heard.get(), await heard.get()
            assert (message.data, message.reply) == (payload, "to.me")
            assert message.headers == {"Number": str(number), "Nats-Msg-Id": "a.b:c"}
            assert between.data == b"between"
            assert between.headers == message.headers
    await client.close()


async def test_a_message_needs_no_other_to_be_sent(
    nats_server: NatsAddress, namespace: str
) -> None:
    client, listener = await connected(nats_server), await connected(nats_server)
    subscription = await listener.subscribe(namespace)
    await listener.flush()
    await client.flush()  # nothing of the connecting is left to be sent
    await publish_with_headers(client, namespace, b"alone", reply="to.me", headers={"A": "b"})
    command = f"HPUB {namespace} to.me 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nalone\r\n"
    assert client.pending_data_size == len(command), "or nobody would flush it"
    assert (await subscription.next_msg(timeout=10)).data == b"alone"
    await client.close()
    await listener.close()


async def test_abandoning_a_closed_client_ends_its_tasks(
    nats_server: NatsAddress, namespace: str
) -> None:
    async def hear(message: Msg) -> None:
        raise AssertionError(message)

    client = await connected(nats_server)
    before = asyncio.all_tasks()
    await client.subscribe(namespace, cb=hear)
    (task,) = asyncio.all_tasks() - before
    # Closing fails where nats-py sends what is pending: the subscriptions are left as they are.
    client._pending, client._pending_data_size = ["not bytes"], 9  # type: ignore[list-item]
    with pytest.raises(TypeError):
        await client.close()
    assert client.is_closed
    assert not task.done()
    abandon(client)
    await asyncio.wait([task], timeout=10)
    assert task.done()


async def test_a_closed_client_connects_no_more(nats_server: NatsAddress) -> None:
    client = TidyClient()
    await client.connect(nats_server.url, token=nats_server.token)
    (server,) = client._server_pool
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await client._connect_to_server(server)


async def test_nothing_stays_in_the_buffer(nats_server: NatsAddress, namespace: str) -> None:
    client = await connected(nats_server)
    for _ in range(100):
        await publish_with_headers(client, namespace, b"z" * 1000, reply="to.me", headers={})
    await client.flush()
    assert client.pending_data_size == 0
    await client.close()


async def test_headers_beyond_ascii_are_a_bug(nats_server: NatsAddress, namespace: str) -> None:
    client = await connected(nats_server)
    with pytest.raises(AssertionError):
        await publish_with_headers(client, namespace, b"", reply="r", headers={"A": "ä"})
    await client.close()


async def test_attempts_at_a_server_that_says_nothing_any_more_leave_no_socket_open() -> None:
    open_now: set[asyncio.StreamWriter] = set()
    attempts = 0

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        open_now.add(writer)
        with suppress(ConnectionError):
            if attempts == 1:
                writer.write(b'INFO {"max_payload": 1024}\r\n')
                await reader.readuntil(b"PING\r\n")
                writer.write(b"PONG\r\n")
                await writer.drain()
            else:
                await reader.read()  # ends when the other side closes
        open_now.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    client = TidyClient()
    await client.connect(
        f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        connect_timeout=0.1,  # type: ignore[arg-type]  # any number will do
        reconnect_time_wait=0.01,  # type: ignore[arg-type]
        max_reconnect_attempts=-1,
        error_cb=_nothing,
    )
    async with asyncio.timeout(15):
        while attempts < 6:
            await asyncio.sleep(0.01)
        assert len(open_now) <= 2, "the one that is tried now, and perhaps the one before"
        await client.close()
        while open_now:
            await asyncio.sleep(0.01)
    server.close()


async def _nothing(_: Exception) -> None:
    pass


async def test_hanging_up_finds_another_server_whatever_waits_to_be_sent(
    nats_server: NatsAddress,
) -> None:
    """A server that reads nothing any more: closing properly would wait for it."""
    lost, back = asyncio.Event(), asyncio.Event()

    async def has_lost() -> None:
        lost.set()

    async def is_back() -> None:
        back.set()

    client = TidyClient()
    await client.connect(
        nats_server.url, token=nats_server.token, disconnected_cb=has_lost, reconnected_cb=is_back
    )
    assert client._transport is not None
    client._transport._io_writer.transport.pause_reading()  # type: ignore[attr-defined]
    hang_up(client)
    async with asyncio.timeout(15):
        await lost.wait()
        await back.wait()
    await client.close()
