"""Accepts predictions: one publish each, pipelined, done when JetStream has stored it.

Each publish names itself (`Nats-Msg-Id`: id and a nonce), so that our own repetitions are stored
once, and states that no ticket with this id may be in the stream, which holds across restarts of
the server, where message ids are forgotten.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from broker.answers import Verdict
from broker.drain_rate import DrainRate
from broker.requests import Requests
from broker.storing import Answered, Storing, given_up
from broker.stream import Depth, stream_depth
from contract.errors import AlreadyAccepted, Overloaded, QueueUnavailable, TooLarge
from contract.limits import TICKET_BYTES_MAX
from contract.prediction import Ticket
from contract.queue import QueueNames

log = logging.getLogger(__name__)

INFLIGHT_MAX = 512  # publishes awaiting their answer
INFLIGHT_BYTES_MAX = 64 * 1024 * 1024  # half of what the server buffers for one stream
HEADER_BYTES_MAX = 512  # of ours; JetStream counts them as part of the message
SAMPLE_EVERY_S = 1.0  # of the drain rate, while the queue is full


class Publisher:
    """Publishes tickets for one process."""

    def __init__(self, storing: Storing, requests: Requests, names: QueueNames) -> None:
        self._storing = storing
        self._requests = requests
        self._names = names
        self._nonce = secrets.token_hex(6)
        self._numbers = count()
        self._inflight = 0
        self._inflight_bytes = 0
        self._drain_rate = DrainRate()
        self._sampling: asyncio.Task[None] | None = None

    async def publish(self, ticket: Ticket) -> int | None:
        """Accept a prediction. On return it is stored.

        Returns its sequence in the stream; None where the answer that names it was lost.

        Raises:
            TooLarge: the ticket exceeds what the queue takes.
            Overloaded: the queue, or this process, holds as much as it may.
            AlreadyAccepted: a ticket with this id is in the queue.
            QueueUnavailable: certainly not stored.
            AcceptanceUnknown: stored or not; the same id may be tried again.
        """
        payload = ticket.to_bytes()
        if len(payload) + HEADER_BYTES_MAX > TICKET_BYTES_MAX:
            raise TooLarge(
                f"the input takes {len(payload)} bytes in the queue;"
                f" at most {TICKET_BYTES_MAX - HEADER_BYTES_MAX} fit",
                field="input",
                rule="ticket_bytes_max",
            )
        headers = {
            "Nats-Msg-Id": f"{ticket.id}.{self._nonce}{next(self._numbers)}",
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": self._names.ticket_by_id(ticket.id),
        }
        with self._admitted(len(payload)):
            answered = await self._storing.store(self._names.ticket(ticket), payload, headers)
            self._settle(answered, len(payload))
        return answered.sequence

    def note_depth(self, depth: Depth) -> None:
        """Learn the drain rate from a depth somebody asked for."""
        self._drain_rate.sample(
            now=asyncio.get_running_loop().time(),
            last_sequence=depth.last_sequence,
            waiting=depth.tickets,
            size=depth.bytes,
        )

    @contextmanager
    def _admitted(self, size: int) -> Iterator[None]:
        if self._inflight >= INFLIGHT_MAX or self._inflight_bytes + size > INFLIGHT_BYTES_MAX:
            raise Overloaded("too many submissions at the same time", retry_after_s=1)
        self._inflight += 1
        self._inflight_bytes += size
        try:
            yield
        finally:
            self._inflight -= 1
            self._inflight_bytes -= size

    def _settle(self, answered: Answered, size: int) -> None:
        """Return if the ticket, of `size` bytes, is stored; raise if it is not."""
        judged, unknown = answered.verdict, answered.unknown
        if judged is Verdict.STORED:
            return
        if judged is Verdict.EXISTS:
            if unknown:
                return  # it is our own, stored by a try whose answer was lost
            raise AlreadyAccepted("a prediction with this id was accepted before")
        if unknown:
            raise given_up(unknown=True)  # this try was refused; an earlier one perhaps not
        if judged is Verdict.FULL:
            self._sample_soon()
            retry_after_s = self._drain_rate.retry_after_s(size)
            raise Overloaded("the queue is full", retry_after_s=retry_after_s)
        if judged is Verdict.TOO_LARGE:
            raise TooLarge("the input is too large for the queue", field="input", rule="size")
        log.error("publish.refused", extra={"error": answered.reason})
        raise QueueUnavailable("the queue cannot store the prediction")

    def _sample_soon(self) -> None:
        """Measure in the background: a refusal is answered at once."""
        if self._sampling is not None and not self._sampling.done():
            return
        if asyncio.get_running_loop().time() - self._drain_rate.sampled_at >= SAMPLE_EVERY_S:
            self._sampling = asyncio.create_task(self._sample(), name="broker.drain_rate")

    async def _sample(self) -> None:
        try:
            self.note_depth(await stream_depth(self._requests, self._names))
        except QueueUnavailable:
            log.debug("drain_rate.unknown")
