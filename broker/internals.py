"""The private parts of nats-py we lean on. No other file touches any; hence the pinned version.

tests/integration/test_broker_internals.py fails when they change.
"""

import asyncio

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport


class TidyClient(Client):
    """nats-py's client, less its sockets left open, its attempts after it was closed, and the time
    it takes over headers.

    It leaves the socket of each attempt at a silent server open. And on Python 3.11 `wait_for` may
    swallow the cancellation that is to end its attempts: a closed client then goes on with them.
    """

    _has_ended = False

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002  # its
        self._has_ended = self._has_ended or status == Client.CLOSED
        await super()._close(status, do_cbs)

    async def _connect_to_server(self, s: Srv) -> None:
        if self._has_ended:
            raise asyncio.CancelledError
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """A header a line, as NATS servers and we write them: 1.1 us a message instead of 4.2.

        Nobody else writes into our streams; where a line looks different, nats-py reads it.
        """
        try:
            return dict(line.split(": ", 1) for line in raw.decode("ascii").split("\r\n") if line)
        except ValueError:
            parsed: dict[str, str] = Client._parse_header_lines(raw)
            return parsed


async def publish_with_headers(
    client: Client, subject: str, payload: bytes, *, reply: str, headers: dict[str, str]
) -> None:
    """Hand a message to the socket, without copying its payload.

    `Client.publish` joins headers and payload into one string, which copies a payload three times,
    and checks each header by regular expression: 35 us of CPU against 26 at 1 KB, 170 against 95
    at 100 KB.

    Args:
        client: is connected. The server's limit on payloads is the caller's to keep.
        subject, reply, headers: ours, that is without white space at the ends or line breaks.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    header = f"NATS/1.0\r\n{lines}\r\n"
    assert header.isascii()  # or its length in bytes would be another
    sizes = f"{len(header)} {len(header) + len(payload)}"
    command = f"HPUB {subject} {reply} {sizes}\r\n{header}".encode()
    client._pending += (command, payload, b"\r\n")
    client._pending_data_size += len(command) + len(payload) + 2
    if client._flush_queue is not None and client._flush_queue.empty():
        await client._flush_pending()


def hang_up(client: Client) -> None:
    """Drop the connection at once; `client` then does what it does when a server hangs up.

    nats-py itself closes a connection by sending what is pending first: to a server that does not
    read any more that takes for ever, and so does its search for another one.
    """
    assert isinstance(client._transport, TcpTransport)
    if client._transport._io_writer is not None:
        client._transport._io_writer.transport.abort()


def abandon(client: Client) -> None:
    """End the tasks and the socket of a closed client.

    Where closing fails half-way (the server hung up while data was pending), nats-py leaves its
    socket open and one task per subscription waiting for ever.
    """
    assert client.is_closed
    for subscription in client._subs.values():
        subscription._stop_processing()
    client._subs.clear()
    if client._transport is not None:
        client._transport.close()  # type: ignore[no-untyped-call]
