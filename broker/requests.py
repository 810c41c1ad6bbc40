"""Questions and their answers over one connection: one inbox, and a future per question.

nats-py's own `request` leaves what is in flight to its time-out when the connection is lost, and
costs twice as much.
"""

import asyncio
from itertools import count

from nats.aio.msg import Msg

from broker.connection import Connection, NotTaken
from contract.errors import QueueUnavailable

STATUS = "Status"  # where nats-py puts the number of an inline status
NO_RESPONDERS = "503"
RECONNECT_S_MAX = 1.5  # to another server of the cluster; even past one that hangs


class NoAnswer(QueueUnavailable):
    """Sent, and no answer came: it may have had its effect or not."""


class Requests:
    """Asks the server, and fails what is unanswered as soon as the connection is lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox() + "."
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._numbers = count()
        connection.when_down(self._fail_all)

    async def open(self) -> None:
        await self._connection.stand(self._inbox + "*", self._arrived)

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Publish and wait for the one answer. On the way to another server, first arrive there.

        Raises:
            NotTaken: not connected, or nobody listens on `subject`.
            NoAnswer: no answer within `timeout_s`, or the connection was lost meanwhile.
        """
        if not self._connection.is_connected and self._connection.has_others:
            await self._connection.wait_connected(min(timeout_s, RECONNECT_S_MAX))
        loop = asyncio.get_running_loop()
        number = str(next(self._numbers))
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[number] = future
        expiry = loop.call_later(timeout_s, _expire, future)
        try:
            await self._connection.publish(
                subject, payload, reply=self._inbox + number, headers=headers
            )
            answer = await future
        finally:
            expiry.cancel()
            del self._waiting[number]
            if future.done() and not future.cancelled():
                future.exception()  # mark it as seen, where the publish itself has failed
        if not answer.data and (answer.headers or {}).get(STATUS) == NO_RESPONDERS:
            raise NotTaken("JetStream is not ready")
        return answer

    async def _arrived(self, answer: Msg) -> None:
        future = self._waiting.get(answer.subject[len(self._inbox) :])
        if future is not None and not future.done():
            future.set_result(answer)

    def _fail_all(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NoAnswer("the connection to NATS was lost"))


def _expire(future: asyncio.Future[Msg]) -> None:
    if not future.done():
        future.set_exception(NoAnswer("NATS did not answer in time"))
