"""The connection to NATS: the only place that makes one, and that knows the client's options.

It is never given up: nats-py reconnects by itself, and where it closes for good (the server
answered with an error nats-py does not survive) a new client takes its place and the standing
subscriptions are made again. Given several servers, or told of others by the one it reached, it
goes on to the next one at once. Knows nothing of JetStream, tickets or subjects.
"""

import asyncio
import logging
import random
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker.internals import TidyClient, abandon, hang_up, publish_with_headers
from contract.errors import QueueUnavailable

log = logging.getLogger(__name__)

Heard = Callable[[Msg], Awaitable[None]]
Hook = Callable[[], None]

RECONNECT_WAIT_S = 0.1
CONNECT_TIMEOUT_S = 1
PING_INTERVAL_S = 5
PINGS_OUTSTANDING_MAX = 2  # a silent connection is given up after about 15 s
FLUSH_TIMEOUT_S = 2
CLOSED_CHECKED_EVERY_S = 1.0
CANCELED_AGAIN_S = 0.5
FAILURES_LOGGED_EVERY_S = 10.0  # a server that is down fails ten attempts a second


class NotTaken(QueueUnavailable):
    """Certainly without effect: there is no connection, or nobody listens on the subject."""


class Connection:
    """One connection, shared by everything in a process.

    Nothing is buffered while it is down: a publish then raises NotTaken, and never arrives later.
    """

    def __init__(self, url: str, *, token: str | None, client_name: str) -> None:
        """`url` names one server or, by comma, several of one cluster; all take the same token."""
        self._urls = [each.strip() for each in url.split(",")]
        self._token = token
        self._client_name = client_name
        # One prefix per role, so that a server's permissions can tell the roles apart.
        self._inbox_prefix = "_INBOX_" + re.sub(r"[^A-Za-z0-9]", "_", client_name)
        self._client: Client | None = None
        self._standing: dict[str, Heard] = {}
        self._hooks_down: list[Hook] = []
        self._hooks_up: list[Hook] = []
        self._connected = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._failure_logged_at = float("-inf")

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def has_others(self) -> bool:
        """Whether there is another server to go to. The one we reached tells of its cluster."""
        return self._client is not None and len(self._client.servers) > 1

    @property
    def client(self) -> Client:
        """The client as nats-py gives it, for its JetStream management calls.

        Raises:
            NotTaken: there is no connection.
        """
        if self._client is None or not self._client.is_connected:
            raise NotTaken("NATS is not connected")
        return self._client

    async def open(self, *, wait_s: float) -> None:
        """Begin to connect. Return once connected, or after `wait_s` while it goes on trying."""
        self._keeper = asyncio.create_task(self._keep_open(), name="broker.connection")
        self._keeper.add_done_callback(report_bug)
        await self.wait_connected(wait_s)

    async def wait_connected(self, wait_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._connected.wait()
        return self.is_connected

    async def close(self) -> None:
        """Send what is pending and disconnect for good."""
        self._closing = True
        if self._keeper is not None:
            while not self._keeper.done():  # on 3.11 `wait_for`, in nats-py, may swallow one
                self._keeper.cancel()
                await asyncio.wait([self._keeper], timeout=CANCELED_AGAIN_S)
        if self._client is not None and not self._client.is_closed:
            await self.flush()
            await self._client.close()

    async def flush(self) -> None:
        """Wait until the server has read what was published; give up in silence after 2 s."""
        if self.is_connected:
            with suppress(nats.errors.Error, TimeoutError, OSError):
                await self.client.flush(timeout=FLUSH_TIMEOUT_S)

    def move_on(self) -> None:
        """Leave this server for the next one: now, and whatever has not been sent is dropped."""
        if self._client is not None and self._client.is_connected:
            hang_up(self._client)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Hand one message to the socket.

        Raises:
            NotTaken: there is no connection; the message will not be sent later either.
        """
        client = self.client
        try:
            if headers is None:
                await client.publish(subject, payload, reply=reply)
            else:
                await publish_with_headers(client, subject, payload, reply=reply, headers=headers)
        except nats.errors.Error as error:
            raise NotTaken("NATS takes no message now") from error

    def new_inbox(self) -> str:
        """A subject for answers that nobody else uses, valid across reconnects."""
        return f"{self._inbox_prefix}.{secrets.token_hex(11)}"

    async def subscribe(self, subject: str, heard: Heard) -> Subscription:
        """Listen on `subject` for as long as this client lives, without limit on what it buffers.

        Raises:
            NotTaken: there is no connection.
        """
        try:
            return await self.client.subscribe(subject, cb=heard, pending_bytes_limit=0)
        except nats.errors.Error as error:
            raise NotTaken("NATS takes no subscription now") from error

    async def stand(self, subject: str, heard: Heard) -> None:
        """Listen on `subject` for good, also across clients; may be called before connecting."""
        assert subject not in self._standing
        self._standing[subject] = heard
        if self._client is not None and not self._client.is_closed:
            await self._client.subscribe(subject, cb=heard)

    def forget(self, hook: Hook) -> None:
        """Call `hook` no more."""
        self._hooks_down = [each for each in self._hooks_down if each != hook]
        self._hooks_up = [each for each in self._hooks_up if each != hook]

    def when_down(self, hook: Hook) -> None:
        """Call `hook` whenever the connection is lost."""
        self._hooks_down.append(hook)

    def when_up(self, hook: Hook) -> None:
        """Call `hook` whenever the connection is there again, and the first time."""
        self._hooks_up.append(hook)

    async def _keep_open(self) -> None:
        while True:
            client, closed = TidyClient(), asyncio.Event()
            try:
                await self._connect(client, closed)
                self._client = client
                for subject, heard in self._standing.items():
                    await client.subscribe(subject, cb=heard)
                await self._is_up()
            except nats.errors.Error as error:  # closed again already
                await self._failed(error)
            except asyncio.CancelledError:
                await client.close()  # it may hold a socket
                raise
            while not client.is_closed:
                # nats-py forgets its callbacks where closing itself fails: look now and then.
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSED_CHECKED_EVERY_S):
                        await closed.wait()
                if client.is_reconnecting and self._connected.is_set():
                    # It has given the server up and is still closing: see `hang_up`.
                    hang_up(client)
            abandon(client)
            log.error("broker.closed_by_server", extra={"error": str(client.last_error)})
            if self._connected.is_set():
                await self._is_down()
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def has_closed() -> None:
            closed.set()

        # nats-py goes round this list, and appends what the servers tell of their cluster. In an
        # order of our own, so that processes spread over the servers; and in a new one for each
        # client, because one that closed for good may do so again at the same server.
        await client.connect(
            random.sample(self._urls, len(self._urls)),
            dont_randomize=True,
            name=self._client_name,
            token=self._token,
            inbox_prefix=self._inbox_prefix,
            # While disconnected, nats-py would buffer publishes and send them after the caller
            # was told that they failed.
            pending_size=0,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # any number will do
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=PINGS_OUTSTANDING_MAX,
            error_cb=self._failed,
            disconnected_cb=self._is_down,
            reconnected_cb=self._is_up,
            closed_cb=has_closed,
            lame_duck_mode_cb=self._is_lame,
        )

    async def _is_up(self) -> None:
        self._connected.set()
        self._failure_logged_at = float("-inf")
        log.info("broker.connected", extra={"client": self._client_name})
        for hook in self._hooks_up:
            hook()

    async def _is_down(self) -> None:
        self._connected.clear()
        if not self._closing:
            log.warning("broker.disconnected", extra={"client": self._client_name})
        for hook in self._hooks_down:
            hook()

    async def _is_lame(self) -> None:
        log.info("broker.server_is_leaving", extra={"client": self._client_name})

    async def _failed(self, error: Exception) -> None:
        if not isinstance(error, nats.errors.Error | OSError | TimeoutError):
            _report(error)  # raised by one of our own callbacks; nats-py would swallow it
            return
        now = asyncio.get_running_loop().time()
        if now - self._failure_logged_at >= FAILURES_LOGGED_EVERY_S:
            self._failure_logged_at = now
            log.warning("broker.failed", extra={"error": f"{type(error).__name__}: {error}"})


def report_bug(task: asyncio.Task[None]) -> None:
    """Pass on what ended a background task: nobody awaits those. For `add_done_callback`."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _report(error)


def _report(bug: BaseException) -> None:
    """Hand a bug to the loop's exception handler, where a process decides to end."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a bug in the broker's background work", "exception": bug}
    )
