"""Carries the queue and its claims out of NATS and into another one, for backup and restore.

A message keeps its place in the order and loses its sequence and its time. Nothing is taken away.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from nats.aio.msg import Msg

from broker.answers import Verdict
from broker.connection import Connection
from broker.declare import STREAM_NOT_FOUND, QueueLimits, declare
from broker.messages import NOT_FOUND, Messages, Stored
from broker.requests import STATUS, Requests
from broker.storing import Storing
from broker.stream import Depth, depth_of, require_majority
from contract.errors import Overloaded, QueueUnavailable
from contract.ids import PredictionId
from contract.queue import QueueNames

ANSWER_TIMEOUT_S = 5.0  # of any one message
BATCH_MESSAGES_MAX = 256
BATCH_BYTES_MAX = 8 * 1024 * 1024
END_OF_BATCH = 204


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way: the end of its subject, after the namespace, and what it holds."""

    subject: str
    data: bytes


class Transfer:
    """Reads both streams of one installation whole, or fills them."""

    def __init__(
        self, connection: Connection, requests: Requests, storing: Storing, names: QueueNames
    ) -> None:
        self._connection = connection
        self._requests = requests
        self._storing = storing
        self._names = names

    async def is_declared(self) -> bool:
        """Whether the streams are there. Raises QueueUnavailable."""
        for stream in (self._names.stream, self._names.claims_stream):
            subject = f"$JS.API.STREAM.INFO.{stream}"
            answer = await self._requests.ask(subject, timeout_s=ANSWER_TIMEOUT_S)
            told: dict[str, Any] = msgspec.json.decode(answer.data)
            if told.get("error", {}).get("err_code") == STREAM_NOT_FOUND:
                return False
        return True

    async def prepare(self, limits: QueueLimits) -> None:
        """Make the streams if they are missing; the gateway gives them its own limits later.

        Raises:
            QueueUnavailable: JetStream does not answer, or refuses them.
        """
        if not await self.is_declared():
            await declare(self._connection, self._names, (), limits)

    async def depths(self) -> tuple[Depth, Depth]:
        """What the queue holds, and the claims. Raises QueueUnavailable."""
        queue = await depth_of(self._requests, self._names.stream)
        return queue, await depth_of(self._requests, self._names.claims_stream)

    def tickets(self) -> AsyncIterator[Carried]:
        """Everything in the queue, in its order, unreadable tickets too.

        What was in it when this began and is not met has left it, and is in the ledger.

        Raises:
            QueueUnavailable: it cannot be read to its end.
        """
        return self._all(self._names.stream, self._names.all_tickets)

    def claims(self) -> AsyncIterator[Carried]:
        """Every claim, the oldest first. Raises QueueUnavailable."""
        return self._all(self._names.claims_stream, self._names.all_claims)

    async def put_ticket(self, carried: Carried) -> None:
        """Store a ticket, unless one of this id is there.

        Raises:
            Overloaded: the queue is full.
            QueueUnavailable: not stored, as far as we know; the same may be tried again.
        """
        identifier = PredictionId(carried.subject.rpartition(".")[2])
        by_id = {
            "Nats-Expected-Last-Subject-Sequence-Subject": self._names.ticket_by_id(identifier)
        }
        await self._put(self._names.all_tickets, carried, by_id)

    async def put_claim(self, carried: Carried) -> None:
        """Store a claim, unless its key has one. Raises as `put_ticket` does."""
        await self._put(self._names.all_claims, carried, {})

    async def _put(self, subjects: str, carried: Carried, expected: dict[str, str]) -> None:
        subject = _prefix(subjects) + carried.subject
        headers = {
            # Of this call alone: what was restored and removed again may be restored once more.
            "Nats-Msg-Id": f"{carried.subject}.{secrets.token_hex(8)}",
            "Nats-Expected-Last-Subject-Sequence": "0",
            **expected,
        }
        answered = await self._storing.store(subject, carried.data, headers)
        if answered.verdict is Verdict.FULL:
            raise Overloaded("the queue takes no more", retry_after_s=60)
        if answered.verdict not in (Verdict.STORED, Verdict.EXISTS):
            raise QueueUnavailable(f"the queue refuses what it held before: {answered.reason}")

    async def _all(self, stream: str, subjects: str) -> AsyncIterator[Carried]:
        last = (await depth_of(self._requests, stream)).last_sequence
        await require_majority(self._requests, stream)
        cut = len(_prefix(subjects))
        messages = Messages(self._requests, stream)
        sequence = 1
        while sequence <= last:
            read = await self._batch(stream, subjects, sequence)
            if not read:  # the end, or a replica that is behind: its leader knows
                stored = await messages.first_from(sequence, subjects)
                if stored is None:
                    return
                read = [stored]
            for each in read:
                if each.sequence <= last:
                    yield Carried(each.subject[cut:], each.data)
            sequence = read[-1].sequence + 1

    async def _batch(self, stream: str, subjects: str, sequence: int) -> list[Stored]:
        """Some messages from `sequence` on, as any replica has them; one request for all."""
        heard: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._connection.new_inbox()
        subscription = await self._connection.subscribe(inbox, heard.put)
        try:
            question = {
                "seq": sequence,
                "next_by_subj": subjects,
                "batch": BATCH_MESSAGES_MAX,
                "max_bytes": BATCH_BYTES_MAX,
            }
            await self._connection.publish(
                f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(question), reply=inbox
            )
            return await _until_end(heard.get)
        finally:
            if self._connection.is_connected:
                await subscription.unsubscribe()


async def _until_end(next_message: Callable[[], Any]) -> list[Stored]:
    read: list[Stored] = []
    while True:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                message: Msg = await next_message()
        except TimeoutError:
            raise QueueUnavailable("the queue stopped answering while it was read") from None
        headers = message.headers or {}
        if STATUS not in headers:
            sequence, subject = int(headers["Nats-Sequence"]), headers["Nats-Subject"]
            read.append(Stored(sequence, message.data, subject))
        elif int(headers[STATUS]) in (END_OF_BATCH, NOT_FOUND):
            return read
        else:
            raise QueueUnavailable(f"the queue cannot be read: {headers[STATUS]}")


def _prefix(subjects: str) -> str:
    return subjects[: subjects.index("*")]
