"""How far each consumer has come, cached for about a second.

Consumer info is a monitoring call: whatever the number of readers, each consumer is asked at most
once a second, and by one question at a time.
"""

import asyncio
from dataclasses import dataclass

import msgspec

from broker.answers import ApiError
from broker.requests import Requests
from contract.errors import QueueUnavailable
from contract.prediction import Ticket
from contract.queue import QueueNames

FRESH_S = 1.0
ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One consumer at one moment."""

    delivered: int  # the highest stream sequence it has handed out
    pending: int  # tickets it has not handed out yet

    def is_running(self, sequence: int) -> bool:
        return sequence <= self.delivered

    def position(self, sequence: int) -> int | None:
        """How many deliveries away a waiting ticket is, about; 1 is next. None when running.

        Sequence numbers are shared with other models and priorities, so their distance is an
        upper bound; the number pending is another.
        """
        if self.is_running(sequence):
            return None
        return max(1, min(sequence - self.delivered, self.pending))


class _Delivered(msgspec.Struct, frozen=True):
    stream_seq: int


class _ConsumerInfo(msgspec.Struct, frozen=True):
    delivered: _Delivered | None = None
    num_pending: int = 0
    error: ApiError | None = None


class ProgressCache:
    """The progress of every consumer anybody asks about. Consumers are few: models times three."""

    def __init__(self, requests: Requests, names: QueueNames) -> None:
        self._requests = requests
        self._names = names
        self._known: dict[str, tuple[float, Progress | None]] = {}
        self._asking: dict[str, asyncio.Task[Progress | None]] = {}

    async def of(self, ticket: Ticket) -> Progress | None:
        """The progress of the consumer that hands out `ticket`; None when it is not known."""
        consumer = self._names.consumer(ticket.priority, ticket.model)
        asked_at, progress = self._known.get(consumer, (float("-inf"), None))
        if asyncio.get_running_loop().time() - asked_at < FRESH_S:
            return progress
        task = self._asking.get(consumer)
        if task is None:
            task = asyncio.create_task(self._ask(consumer), name="broker.progress")
            self._asking[consumer] = task
        return await asyncio.shield(task)  # a reader that goes away leaves it to the others

    async def _ask(self, consumer: str) -> Progress | None:
        try:
            progress = await self._answer(consumer)
            self._known[consumer] = (asyncio.get_running_loop().time(), progress)
        finally:
            del self._asking[consumer]
        return progress

    async def _answer(self, consumer: str) -> Progress | None:
        subject = f"$JS.API.CONSUMER.INFO.{self._names.stream}.{consumer}"
        try:
            answer = await self._requests.ask(subject, timeout_s=ANSWER_TIMEOUT_S)
        except QueueUnavailable:
            # The ticket itself was found: say what is known. What was handed out stays so.
            return self._known.get(consumer, (0.0, None))[1]
        info = _DECODER.decode(answer.data)
        if info.delivered is None:
            return None  # this model is not declared (any more)
        # A new leader of the consumer may not know of the last deliveries: what ran has run.
        before = self._known.get(consumer, (0.0, None))[1]
        delivered = max(info.delivered.stream_seq, before.delivered if before else 0)
        return Progress(delivered, info.num_pending)


_DECODER = msgspec.json.Decoder(_ConsumerInfo)
