"""How far each consumer has come: shared by all readers, and never older than their questions.

Another gateway may just have shown a prediction as running, so "waiting" is only said from an
answer to a question asked since the reader came. What runs, runs for good. Consumer info is a
monitoring call: whatever the number of readers, each consumer is asked 100 times a second at most.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from broker.answers import ApiError
from broker.requests import Requests
from broker.stream import Peers
from contract.errors import QueueUnavailable
from contract.prediction import Ticket
from contract.queue import QueueNames

EVERY_S = 0.01  # what a reader waits for its answer at most, besides the answer itself
ANSWER_TIMEOUT_S = 2.0
ANSWERS_MAX, ANSWER_PAUSE_S = 5, 0.2  # until one comes from a server that leads
JETSTREAM_IS_AWAY = 10008


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
    cluster: Peers = Peers()
    error: ApiError | None = None


@dataclass(slots=True)
class _Consumer:
    """What is known of one consumer. They are few: models times three."""

    asked_at: float = float("-inf")  # when the question was asked that `progress` answers
    progress: Progress | None = None
    failure: QueueUnavailable | None = None  # why there was no answer
    asking: "asyncio.Task[None] | None" = None  # has asked, at `asking_since`
    asking_since: float = float("-inf")
    next: "asyncio.Task[None] | None" = None  # will ask, and has not yet
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class ProgressCache:
    """The progress of every consumer anybody asks about."""

    def __init__(self, requests: Requests, names: QueueNames) -> None:
        self._requests = requests
        self._names = names
        self._consumers: dict[str, _Consumer] = {}

    async def of(self, ticket: Ticket, sequence: int, *, since: float) -> Progress | None:
        """The progress of the consumer that hands out `ticket`; None when it is not known.

        Args:
            sequence: the ticket's.
            since: when the reader began to ask, by the loop's clock.

        Raises:
            QueueUnavailable: nobody can tell whether it runs.
        """
        name = self._names.consumer(ticket.priority, ticket.model)
        consumer = self._consumers.setdefault(name, _Consumer())
        if consumer.progress is not None and consumer.progress.is_running(sequence):
            return consumer.progress
        while consumer.asked_at < since:
            # A reader that goes away leaves the question to the others.
            await asyncio.shield(self._question(name, consumer, since))
        if consumer.failure is not None:
            raise QueueUnavailable(str(consumer.failure)) from consumer.failure
        return consumer.progress

    def _question(self, name: str, consumer: _Consumer, since: float) -> "asyncio.Task[None]":
        """The question that is, or will be, asked at `since` or later."""
        if consumer.asking is not None and consumer.asking_since >= since:
            return consumer.asking
        if consumer.next is None:
            asking = self._ask(name, consumer)
            consumer.next = asyncio.create_task(asking, name="broker.progress")
        return consumer.next

    async def _ask(self, name: str, consumer: _Consumer) -> None:
        clock = asyncio.get_running_loop().time
        async with consumer.turn:
            await asyncio.sleep(max(0.0, consumer.asked_at + EVERY_S - clock()))
            # Who comes from now on came after the question.
            consumer.asking, consumer.next = consumer.next, None
            consumer.asking_since = clock()
            try:
                consumer.progress = await self._answer(name, consumer.progress)
                consumer.failure = None
            except QueueUnavailable as error:
                consumer.failure = error
            consumer.asked_at, consumer.asking = consumer.asking_since, None

    async def _answer(self, consumer: str, before: Progress | None) -> Progress | None:
        subject = f"$JS.API.CONSUMER.INFO.{self._names.stream}.{consumer}"
        for _ in range(ANSWERS_MAX):
            answer = await self._requests.ask(subject, timeout_s=ANSWER_TIMEOUT_S)
            info = _DECODER.decode(answer.data)
            if info.error is not None and info.error.err_code == JETSTREAM_IS_AWAY:
                raise QueueUnavailable("the queue has no leader")
            if info.delivered is None:
                return None  # this model is not declared (any more)
            if info.cluster.has_a_leader:
                # A new leader may not know of the last deliveries: what ran has run.
                delivered = max(info.delivered.stream_seq, before.delivered if before else 0)
                return Progress(delivered, info.num_pending)
            # One that hung goes on as the leader it was, until it hears of the next one.
            await asyncio.sleep(ANSWER_PAUSE_S)
        raise QueueUnavailable("the queue's leader is cut off from its replicas")


_DECODER = msgspec.json.Decoder(_ConsumerInfo)
