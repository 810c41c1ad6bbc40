"""Finds tickets in the stream without taking them: by id, and newest first.

A work queue admits no second consumer, so this is done by reading single messages.
"""

import asyncio
import logging
from dataclasses import dataclass

from broker.messages import Messages, Stored
from broker.progress import ProgressCache
from broker.requests import Requests
from broker.stream import Depth, stream_depth
from contract.errors import QueueUnavailable
from contract.ids import PredictionId
from contract.prediction import Ticket
from contract.queue import QueueNames, id_in_subject

log = logging.getLogger(__name__)

READ_AT_ONCE = 16  # tickets of up to 2 MiB each
PAGE_BYTES_MAX = 4 * 1024 * 1024  # a page ends after the read that exceeds it
TICKETS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Queued:
    """A ticket in the queue. The last two are as of the reader's question, or later."""

    ticket: Ticket
    sequence: int
    running: bool
    position: int | None  # 1 is next; None while running, or when it is not known


class Lookup:
    """Reads the stream for one process."""

    def __init__(self, requests: Requests, names: QueueNames) -> None:
        self._requests = requests
        self._names = names
        self._messages = Messages(requests, names.stream)
        self._progress = ProgressCache(requests, names)

    async def find(self, prediction_id: PredictionId) -> Queued | None:
        """Return the ticket with this id, None when the queue does not hold it.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        since = asyncio.get_running_loop().time()
        stored = await self._messages.last_of(self._names.ticket_by_id(prediction_id))
        if stored is None:
            return None
        try:
            ticket = Ticket.from_bytes(stored.data)
        except ValueError:
            # It is there, so "unknown" would be a lie. A dispatcher ends it, as failed.
            raise QueueUnavailable("the queue holds it in a form that cannot be read") from None
        return await self._queued(ticket, stored.sequence, since)

    async def progress(self, ticket: Ticket, sequence: int) -> Queued:
        """How far a ticket has come that is known to be in the stream. It is not read.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        return await self._queued(ticket, sequence, asyncio.get_running_loop().time())

    async def waiting(self, *, before_sequence: int | None, tickets_max: int) -> list[Queued]:
        """List tickets, newest first, from below `before_sequence` or from the newest.

        Returns fewer than `tickets_max` when they are large; none at all only at the end.

        Raises:
            QueueUnavailable: the stream cannot be read.
        """
        assert 1 <= tickets_max <= TICKETS_MAX
        since = asyncio.get_running_loop().time()
        depth = await stream_depth(self._requests, self._names)
        newest = depth.last_sequence if before_sequence is None else before_sequence - 1
        newest = min(newest, depth.last_sequence)
        found: list[Queued] = []
        size = 0
        while len(found) < tickets_max and size < PAGE_BYTES_MAX and newest >= depth.first_sequence:
            oldest = max(depth.first_sequence, newest + 1 - min(READ_AT_ONCE, tickets_max))
            read = await self._read(newest, oldest)
            size += sum(len(stored.data) for stored in read)
            found += [queued for stored in read if (queued := await self._readable(stored, since))]
            newest = oldest - 1
            if not read:
                newest = await self._newest_up_to(newest, depth)
        return found[:tickets_max]

    async def oldest(self) -> PredictionId | None:
        """About the prediction that was accepted first among those in the queue.

        It is the one that was published first. A caller's own id may be a day older than that, and
        a clock may be five minutes ahead: leave a margin of more than a day. None: the queue is
        empty.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        sequence = 1
        while first := await self._messages.first_from(sequence, self._names.all_tickets):
            # By its subject: a ticket that cannot be read counts too.
            if (found := id_in_subject(first.subject)) is not None:
                return found
            sequence = first.sequence + 1
        return None

    async def _read(self, newest: int, oldest: int) -> list[Stored]:
        """The messages still there among these sequences, newest first."""
        sequences = range(newest, oldest - 1, -1)
        read = await asyncio.gather(
            *(self._messages.any_replica({"seq": sequence}) for sequence in sequences)
        )
        return [stored for stored in read if stored is not None]

    async def _newest_up_to(self, newest: int, depth: Depth) -> int:
        """The sequence of the newest message at or below `newest`; 0 when there is none.

        Whole ranges may be gone where tickets of another lane have ended. So double the distance
        until something turns up, then halve it until nothing newer does.
        """
        distance, low = 2 * READ_AT_ONCE, newest + 1
        known = 0
        while low > depth.first_sequence and not known:
            low = max(depth.first_sequence, newest + 1 - distance)
            known = await self._first_within(low, newest)
            distance *= 2
        high = newest
        while known and known < high:
            middle = (known + 1 + high) // 2
            later = await self._first_within(middle, high)
            known, high = (later, high) if later else (known, middle - 1)
        return known

    async def _first_within(self, oldest: int, newest: int) -> int:
        """The sequence of the first message from `oldest` on, 0 when it is past `newest`."""
        question: dict[str, str | int] = {"seq": oldest, "next_by_subj": self._names.all_tickets}
        stored = await self._messages.any_replica(question)
        return stored.sequence if stored is not None and stored.sequence <= newest else 0

    async def _readable(self, stored: Stored, since: float) -> Queued | None:
        try:
            ticket = Ticket.from_bytes(stored.data)
        except ValueError:
            # A dispatcher logs and ends it; a list only leaves it out.
            log.debug("ticket.unreadable", extra={"sequence": stored.sequence})
            return None
        return await self._queued(ticket, stored.sequence, since)

    async def _queued(self, ticket: Ticket, sequence: int, since: float) -> Queued:
        progress = await self._progress.of(ticket, sequence, since=since)
        if progress is None:
            return Queued(ticket, sequence, running=False, position=None)
        return Queued(
            ticket,
            sequence,
            running=progress.is_running(sequence),
            position=progress.position(sequence),
        )
