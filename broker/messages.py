"""Reads single messages of a stream, without a consumer.

Any replica answers a direct get, and may be behind; only the leader's "not found" counts, and only
while it still leads.
"""

import asyncio
import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from broker.answers import ApiError
from broker.requests import STATUS, Requests
from broker.stream import require_majority
from contract.errors import QueueUnavailable

ANSWER_TIMEOUT_S = 2.0
NOT_FOUND = 404
NO_MESSAGE_FOUND = 10037
HEARD_OF_S = 1.5  # leaders tell of themselves every second (nats-server, raft.go: hbInterval)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream holds it."""

    sequence: int
    data: bytes
    subject: str


class _Message(msgspec.Struct, frozen=True):
    seq: int
    subject: str
    data: str = ""


class _MessageAnswer(msgspec.Struct, frozen=True):
    message: _Message | None = None
    error: ApiError | None = None


class Messages:
    """Reads one stream for one process."""

    def __init__(self, requests: Requests, stream: str) -> None:
        self._requests = requests
        self._stream = stream

    async def last_of(self, subject: str) -> Stored | None:
        """The last message on `subject`, wildcards allowed; None: there is certainly none.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        question = {"last_by_subj": subject}
        stored = None
        with suppress(QueueUnavailable):  # one that is cut off may have been asked
            stored = await self.any_replica(question)
        return stored or await self._from_leader(question)

    async def first_from(self, sequence: int, subjects: str) -> Stored | None:
        """The first message on `subjects` from `sequence` on; None: there is certainly none.

        A replica that is behind may still have one that has left the stream since.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        question: dict[str, str | int] = {"seq": sequence, "next_by_subj": subjects}
        return await self.any_replica(question) or await self._from_leader(question)

    async def any_replica(self, question: Mapping[str, str | int]) -> Stored | None:
        """Ask any replica; None may mean that it is behind. Raises QueueUnavailable."""
        answer = await self._requests.ask(
            f"$JS.API.DIRECT.GET.{self._stream}",
            msgspec.json.encode(question),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        headers = answer.headers or {}
        if STATUS in headers:
            if int(headers[STATUS]) == NOT_FOUND:
                return None
            reason = f"{headers[STATUS]} {headers.get('Description', '')}"
            raise QueueUnavailable(f"the queue cannot be read: {reason}")
        return Stored(int(headers["Nats-Sequence"]), answer.data, headers["Nats-Subject"])

    async def _from_leader(self, question: Mapping[str, str | int]) -> Stored | None:
        stored = await self._word_of_a_leader(question)
        if stored is not None:
            return stored
        leader = await require_majority(self._requests, self._stream)
        if leader.is_settled:
            return None
        # One that was cut off, and is so no more, may have said it, and the new one the rest. It
        # hears of the new one within a second.
        await asyncio.sleep(HEARD_OF_S)
        stored = await self._word_of_a_leader(question)
        if stored is None:
            now = await require_majority(self._requests, self._stream)
            if now.name != leader.name:
                raise QueueUnavailable("the queue's leader has just changed")
        return stored

    async def _word_of_a_leader(self, question: Mapping[str, str | int]) -> Stored | None:
        """What somebody says who believes to lead. Raises QueueUnavailable."""
        answer = await self._requests.ask(
            f"$JS.API.STREAM.MSG.GET.{self._stream}",
            msgspec.json.encode(question),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        read = _DECODER.decode(answer.data)
        if read.message is not None:
            message = read.message
            return Stored(message.seq, base64.b64decode(message.data), message.subject)
        assert read.error is not None
        if read.error.err_code == NO_MESSAGE_FOUND:
            return None
        raise QueueUnavailable(f"the queue cannot be read: {read.error.description}")


_DECODER = msgspec.json.Decoder(_MessageAnswer)
