"""Pulls the tickets of one consumer, continuously, and never more than there is room for.

Room is counted in deliveries: those asked for and not here yet, and those here and not released.
A pull request is made whenever half the room is free, so messages flow without a round trip each.

Requests belong to a `_Pull`: one inbox on one connection. After a reconnect, or when the server
falls silent, a new one takes its place, because nobody knows whether the old requests live on.
Whatever still arrives for an old one is given back at once.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker.connection import Connection, NotTaken, report_bug
from broker.delivery import Delivery, not_acknowledged, read_reply
from broker.requests import STATUS
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames

log = logging.getLogger(__name__)

EXPIRES_S = 25  # of one pull request; the server answers 408 then, and we ask again
HEARTBEAT_S = 5  # of the server, while a request is open and nothing arrives
SILENCE_S_MAX = 2 * HEARTBEAT_S + 2  # two heartbeats missed
CLOSE_S_MAX = 2.0  # for a round trip to the server
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 4.0  # after the server refused a request; doubles

HEARTBEAT, EXPIRED, CONFLICT = "100", "408", "409"
COMPLETED = ("Batch Completed", "Message Size Exceeds MaxBytes")  # conflicts that end one request


class Intake:
    """Hands over the tickets of one priority of one model, at most `room` at a time."""

    def __init__(
        self,
        connection: Connection,
        names: QueueNames,
        priority: Priority,
        model: str,
        *,
        room: int,
    ) -> None:
        assert room >= 1
        self._connection = connection
        self._consumer = names.consumer(priority, model)
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.stream}.{self._consumer}"
        self._room = room
        self._held = 0  # handed over and not released
        self._pull: _Pull | None = None
        self._renew = False  # the pull is to be replaced; set by the hook and by refusals
        self._refused = False  # the server ended a request for a reason that may persist
        self._pause_s = PAUSE_S_MIN
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._arrived: Callable[[Delivery], None] | None = None
        self.unreadable = 0  # tickets terminated because they could not be read
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self, arrived: Callable[[Delivery], None]) -> None:
        """Begin to pull. `arrived` is called on the loop, once for each delivery.

        It goes on through every outage of NATS. The caller answers for each delivery, by `ack` or
        `give_back`, and then releases it.
        """
        assert self._task is None, "an intake starts once"
        self._arrived = arrived
        self._connection.when_down(self._lost)
        self._connection.when_up(self._wake.set)
        self._task = asyncio.create_task(self._run(), name=f"intake.{self._consumer}")
        self._task.add_done_callback(report_bug)

    def release(self, count: int = 1) -> None:
        """Make room: `count` deliveries were acked or given back."""
        assert 0 <= count <= self._held
        self._held -= count
        self._wake.set()

    async def stop(self) -> None:
        """Pull no more. What has not been handed over yet is given back."""
        if self._pull is not None:
            self._pull.open_for_work = False
        self._connection.forget(self._lost)
        self._connection.forget(self._wake.set)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._pull is not None:
            await self._retire(self._pull)
            self._pull = None
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _run(self) -> None:
        """Keep as much asked for as there is room."""
        while True:
            self._wake.clear()
            try:
                await self._ask_for_more()
            except NotTaken:
                self._renew = True  # the hook wakes us when the connection is there again
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wake.wait()
            if self._refused:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
                self._refused = False

    async def _ask_for_more(self) -> None:
        if self._pull is not None and (self._renew or self._pull.is_silent):
            self._replace(self._pull)
        if not self._connection.is_connected:
            return
        self._renew = False
        if self._pull is None:
            self._pull = _Pull(self, self._connection)
            await self._pull.open()
        free = self._room - self._held - self._pull.asked
        if free >= math.ceil(self._room / 2):
            await self._pull.ask(self._subject, free)

    def _replace(self, pull: "_Pull") -> None:
        task = asyncio.create_task(self._retire(pull), name="intake.retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        self._pull = None

    async def _retire(self, pull: "_Pull") -> None:
        pull.open_for_work = False
        await pull.close()

    def _lost(self) -> None:
        self._renew = True  # whether the server still knows its requests, nobody can say

    def expired(self) -> None:
        """Called by the pull: one of its requests has ended."""
        self._pause_s = PAUSE_S_MIN
        self._wake.set()

    def refused(self, reason: str) -> None:
        """Called by the pull: the server does not do what it was asked for."""
        if self._pause_s == PAUSE_S_MIN:  # say it once
            log.warning("intake.refused", extra={"consumer": self._consumer, "reason": reason})
        self._renew = self._refused = True
        self._wake.set()

    async def take(self, message: Msg, *, wanted: bool) -> None:
        """Called by the pull: a ticket is here."""
        self._pause_s = PAUSE_S_MIN
        if not wanted or self._held >= self._room:
            with suppress(NotTaken):
                await self._connection.publish(message.reply, not_acknowledged())
            return
        try:
            ticket = Ticket.from_bytes(message.data)
        except ValueError:
            await self._terminate(message)
            return
        self._held += 1
        assert self._arrived is not None
        self._arrived(Delivery(ticket, message.reply, self._connection))

    async def _terminate(self, message: Msg) -> None:
        """Remove a ticket nobody can read: left alone, it would come back for ever."""
        self.unreadable += 1
        _, sequence = read_reply(message.reply)
        log.error("ticket.unreadable", extra={"subject": message.subject, "sequence": sequence})
        with suppress(NotTaken):
            await self._connection.publish(message.reply, b"+TERM unreadable")
        self._wake.set()


class _Pull:
    """The pull requests of one inbox on one connection."""

    def __init__(self, intake: Intake, connection: Connection) -> None:
        self._intake = intake
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()
        self.asked = 0  # requested and not here yet
        self.open_for_work = True

    @property
    def is_silent(self) -> bool:
        """Whether an open request has gone without message and heartbeat for too long."""
        return self.asked > 0 and self._clock() - self._heard_at > SILENCE_S_MAX

    async def open(self) -> None:
        self._subscription = await self._connection.subscribe(self._inbox, self._heard)

    async def ask(self, subject: str, count: int) -> None:
        request = {
            "batch": count,
            "expires": int(EXPIRES_S * 1e9),  # whole nanoseconds, or it is a bad request
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        if not self.asked:
            self._heard_at = self._clock()
        self.asked += count
        await self._connection.publish(subject, json.dumps(request).encode(), reply=self._inbox)

    async def close(self) -> None:
        """Stop listening once everything the server has sent is dealt with."""
        if self._subscription is None:
            return
        with suppress(nats.errors.Error, TimeoutError, OSError):
            if self._connection.is_connected:
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
            else:
                await self._subscription.unsubscribe()

    async def _heard(self, message: Msg) -> None:
        self._heard_at = self._clock()
        if not message.reply and message.headers and STATUS in message.headers:
            self._status(message.headers)
            return
        self.asked = max(0, self.asked - 1)
        await self._intake.take(message, wanted=self.open_for_work)

    def _status(self, headers: dict[str, str]) -> None:
        status, description = headers[STATUS], headers.get("Description", "")
        if status == HEARTBEAT or not self.open_for_work:
            return
        if status == EXPIRED or (status == CONFLICT and description in COMPLETED):
            self.asked = max(0, self.asked - int(headers.get("Nats-Pending-Messages", "0")))
            self._intake.expired()
            return
        # Consumer deleted or missing, leader changed, server leaving, too many requests.
        self._intake.refused(f"{status} {description}".strip())
