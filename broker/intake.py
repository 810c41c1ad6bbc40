"""Pulls the tickets of one consumer, continuously, and never more than there is room for.

Room is counted in tickets and in bytes: those asked for and not here yet, and those here and not
released. One pull request is open at a time, made whenever half the room is free, so messages flow
without a round trip each.

Requests belong to a `_Pull`: one inbox on one connection. After a reconnect, or when the server
falls silent, a new one takes its place, because nobody knows whether the old request lives on.
Whatever still arrives for an old one is given back at once.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker.connection import Connection, NotTaken, report_bug
from broker.delivery import Delivery, not_acknowledged, read_reply
from broker.requests import STATUS
from contract.ids import PredictionId, parse_prediction_id
from contract.limits import TICKET_BYTES_MAX
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames

log = logging.getLogger(__name__)

EXPIRES_S = 25  # of one pull request; the server answers 408 then, and we ask again
HEARTBEAT_S = 5  # of the server, while a request is open and nothing arrives
SILENCE_S_MAX = 2 * HEARTBEAT_S + 2  # two heartbeats missed
CLOSE_S_MAX = 2.0  # for a round trip to the server
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 1.0  # after the server refused a request; doubles

# What the largest ticket counts for in a pull request: the server adds its subject, and the subject
# that acks go to. A request for less might never be answered.
MESSAGE_BYTES_MAX = TICKET_BYTES_MAX + 4096
HELD_BYTES_MAX = 64 * 1024 * 1024

HEARTBEAT, EXPIRED, CONFLICT = "100", "408", "409"
COMPLETED = ("Batch Completed", "Message Size Exceeds MaxBytes")  # conflicts that end one request


class Intake:
    """Hands over the tickets of one priority of one model: at most `room` at a time, and of at
    most `bytes_max` bytes together, but always one of any size.
    """

    def __init__(
        self,
        connection: Connection,
        names: QueueNames,
        priority: Priority,
        model: str,
        *,
        room: int,
        bytes_max: int = HELD_BYTES_MAX,
    ) -> None:
        assert room >= 1
        self._connection = connection
        self._priority = priority
        self._model = model
        self._tickets = names.tickets_of(priority, model).removesuffix("*")
        self._consumer = names.consumer(priority, model)
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.stream}.{self._consumer}"
        self._room = room
        self._bytes_max = max(bytes_max, MESSAGE_BYTES_MAX)
        self._held = 0  # handed over and not released
        self._held_bytes = 0
        self._pull: _Pull | None = None
        self._renew = False  # the pull is to be replaced; set by the hook and by refusals
        self._refused = False  # the server ended a request for a reason that may persist
        self._pause_s = PAUSE_S_MIN
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._arrived: Callable[[Delivery], None] | None = None
        self.foreign = 0  # messages terminated because they are nobody's prediction
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

    @property
    def held_bytes(self) -> int:
        """Of the tickets handed over and not released."""
        return self._held_bytes

    def release(self, delivery: Delivery) -> None:
        """Make room: `delivery` was acked or given back."""
        assert self._held > 0
        self._held -= 1
        self._held_bytes -= delivery.size
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
        if self._pull.asked:
            return
        free, free_bytes = self._room - self._held, self._bytes_max - self._held_bytes
        if free >= math.ceil(self._room / 2) and free_bytes >= self._worth_asking_bytes:
            await self._pull.ask(self._subject, free, free_bytes)

    @property
    def _worth_asking_bytes(self) -> int:
        # The next ticket fits for certain, so that no request ends empty and is made again.
        return max(self._bytes_max // 2, MESSAGE_BYTES_MAX)

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

    def ended(self) -> None:
        """Called by the pull: its request has ended."""
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
        delivery = self._delivery(message)
        if delivery is None:
            await self._terminate(message)
            return
        self._held += 1
        self._held_bytes += delivery.size
        assert self._arrived is not None
        self._arrived(delivery)

    def _delivery(self, message: Msg) -> Delivery | None:
        """The ticket on loan; None if its subject is no prediction's."""
        try:
            prediction_id = parse_prediction_id(message.subject.removeprefix(self._tickets))
        except ValueError:
            return None
        size = len(message.data)
        try:
            ticket = Ticket.from_bytes(message.data)
        except (ValueError, RecursionError) as error:
            unreadable = str(error)
        else:
            if self._is_subject_of(ticket, prediction_id):
                return Delivery(ticket, message.reply, self._connection, size=size)
            unreadable = "it is the ticket of another prediction"
        log.error("ticket.unreadable", extra={"subject": message.subject, "reason": unreadable})
        stand_in = Ticket(prediction_id, self._model, 1, {}, priority=self._priority)
        return Delivery(stand_in, message.reply, self._connection, size=size, unreadable=unreadable)

    def _is_subject_of(self, ticket: Ticket, prediction_id: PredictionId) -> bool:
        there = (ticket.id, ticket.model, ticket.priority)
        return there == (prediction_id, self._model, self._priority)

    async def _terminate(self, message: Msg) -> None:
        """Remove what nobody can ask for: left alone, it would come back for ever."""
        self.foreign += 1
        _, sequence = read_reply(message.reply)
        log.error("ticket.foreign", extra={"subject": message.subject, "sequence": sequence})
        with suppress(NotTaken):
            await self._connection.publish(message.reply, b"+TERM foreign")
        self._wake.set()


class _Pull:
    """The pull requests of one inbox on one connection, one at a time.

    Each has a subject of its own, so that what the server says of an earlier one is known as such.
    """

    def __init__(self, intake: Intake, connection: Connection) -> None:
        self._intake = intake
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._numbers = count()
        self._request = ""  # the subject of the latest
        self._subscription: Subscription | None = None
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()
        self.asked = 0  # tickets of the open request that are not here yet; 0 when none is open
        self.open_for_work = True

    @property
    def is_silent(self) -> bool:
        """Whether an open request has gone without message and heartbeat for too long."""
        return self.asked > 0 and self._clock() - self._heard_at > SILENCE_S_MAX

    async def open(self) -> None:
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._heard)

    async def ask(self, subject: str, tickets_max: int, bytes_max: int) -> None:
        assert not self.asked
        self._request = f"{self._inbox}.{next(self._numbers)}"
        request = {
            "batch": tickets_max,
            "max_bytes": bytes_max,
            "expires": int(EXPIRES_S * 1e9),  # whole nanoseconds, or it is a bad request
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        self._heard_at = self._clock()
        self.asked = tickets_max
        await self._connection.publish(subject, json.dumps(request).encode(), reply=self._request)

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
            if message.subject == self._request and self.open_for_work:
                self._status(message.headers)
            return
        self.asked = max(0, self.asked - 1)
        await self._intake.take(message, wanted=self.open_for_work)
        if not self.asked:
            self._intake.ended()

    def _status(self, headers: dict[str, str]) -> None:
        status, description = headers[STATUS], headers.get("Description", "")
        if status == HEARTBEAT:
            return
        if status == EXPIRED or (status == CONFLICT and description in COMPLETED):
            self.asked = 0
            self._intake.ended()
            return
        # Consumer deleted or missing, leader changed, server leaving, too many requests. Where the
        # server gives no description, nats-py takes a line of the headers for one.
        reason = description.partition("\n")[0] or "no such consumer, or JetStream is not ready"
        self._intake.refused(f"{status} {reason}")
