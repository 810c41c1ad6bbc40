"""The queue as the rest of the product sees it: one `Broker` per process."""

import asyncio
from collections.abc import Callable, Iterable

from broker.announcements import Announcements
from broker.claims import Claims
from broker.connection import Connection, report_bug
from broker.declare import QueueLimits, declare
from broker.intake import HELD_BYTES_MAX, Intake
from broker.leftovers import Leftovers
from broker.lookup import Lookup, Queued
from broker.publisher import Publisher
from broker.requests import Requests
from broker.storing import Storing
from broker.stream import Depth, stream_depth
from broker.transfer import Transfer
from broker.watch import Watch
from broker.withdrawals import Withdrawals
from contract.announcements import Announced, DispatcherStatus
from contract.claims import Claim
from contract.ids import PredictionId
from contract.prediction import Outcome, Priority, Ticket
from contract.queue import QueueNames

CONNECT_WAIT_S = 2.0  # a server that is up answers in milliseconds


class Broker:
    """NATS JetStream for one process.

    It lives through every outage of NATS: what cannot be done meanwhile raises QueueUnavailable,
    subscriptions and intakes resume by themselves.
    """

    def __init__(self, connection: Connection, names: QueueNames) -> None:
        self._connection = connection
        self._names = names
        self._requests = Requests(connection)
        storing = Storing(connection, self._requests)
        self._publisher = Publisher(storing, self._requests, names)
        self._claims = Claims(storing, self._requests, names)
        self.transfer = Transfer(connection, self._requests, storing, names)
        self._withdrawals = Withdrawals(connection, self._requests, names)
        self._lookup = Lookup(self._requests, names)
        self._leftovers = Leftovers(self._requests, names)
        self._announcements = Announcements(connection, names)
        self._watch = Watch(connection, self._requests, names)
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls, url: str, *, names: QueueNames, token: str | None = None, client_name: str
    ) -> "Broker":
        """Connect; if the server is not up within 2 s, go on trying in the background.

        Args:
            url: of one server, or of several of one cluster, by comma.
            token: for each of them.
            client_name: the role, shown by the server; also the first part of its inboxes.
        """
        connection = Connection(url, token=token, client_name=client_name)
        broker = cls(connection, names)
        await broker._requests.open()
        await connection.open(wait_s=CONNECT_WAIT_S)
        broker._watching = asyncio.create_task(broker._watch.run(), name="broker.watch")
        broker._watching.add_done_callback(report_bug)
        return broker

    @property
    def is_connected(self) -> bool:
        return self._connection.is_connected

    async def declare(self, models: Iterable[str], limits: QueueLimits | None = None) -> None:
        """Make the streams and three consumers per model what they should be.

        Raises:
            QueueUnavailable: JetStream does not answer; try again.
            UnsuitableServer: it answers, and cannot carry the queue as configured.
        """
        await declare(self._connection, self._names, models, limits or QueueLimits())

    async def publish(self, ticket: Ticket) -> int | None:
        """Accept a prediction. On return it is stored.

        Returns its sequence in the queue; None where the answer that names it was lost.

        Raises:
            TooLarge: the ticket exceeds what the queue takes.
            Overloaded: the queue, or this process, holds as much as it may.
            AlreadyAccepted: a ticket with this id is in the queue.
            QueueUnavailable: certainly not stored.
            AcceptanceUnknown: stored or not; the same id may be tried again.
        """
        return await self._publisher.publish(ticket)

    async def claim(self, key_hash: str, claim: Claim) -> Claim:
        """Make `claim` the one for this key, unless there is an earlier one; return the one.

        Raises:
            Overloaded: no more claims are kept.
            QueueUnavailable: not known which it is; ask again.
        """
        return await self._claims.claim(key_hash, claim)

    async def find_claim(self, key_hash: str) -> Claim | None:
        """Read the claim of a key; None when there is none. Raises QueueUnavailable."""
        return await self._claims.find(key_hash)

    async def withdraw(self, prediction_id: PredictionId) -> None:
        """Take a prediction that has ended out of the queue, and tell who may hold its ticket.

        Raises:
            QueueUnavailable: it may still be there.
        """
        await self._withdrawals.withdraw(prediction_id)

    async def subscribe_withdrawals(self, heard: Callable[[list[PredictionId]], None]) -> None:
        """Hear of every withdrawal made while connected."""
        await self._withdrawals.subscribe(heard)

    async def find(self, prediction_id: PredictionId) -> Queued | None:
        """Return the ticket with this id; None when the queue does not hold it.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        return await self._lookup.find(prediction_id)

    async def progress(self, ticket: Ticket, sequence: int) -> Queued:
        """How far a ticket has come that is known to be in the queue. It is not read.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        return await self._lookup.progress(ticket, sequence)

    async def oldest(self) -> PredictionId | None:
        """The prediction in the queue that was published first; some may be a day older than it.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        return await self._lookup.oldest()

    async def leftovers(self) -> list[PredictionId]:
        """Predictions whose tickets were acknowledged, and are in the queue all the same.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        return await self._leftovers.find()

    async def waiting(self, *, before_sequence: int | None, tickets_max: int) -> list[Queued]:
        """List what is in the queue, newest first; the last one's sequence is the next cursor.

        Returns fewer than `tickets_max` when they are large; none at all only at the end.

        Raises:
            QueueUnavailable: the stream cannot be read.
        """
        return await self._lookup.waiting(before_sequence=before_sequence, tickets_max=tickets_max)

    async def depth(self) -> Depth:
        """How much the queue holds. Asked now and then, it also teaches Retry-After.

        Raises:
            QueueUnavailable: no answer.
        """
        depth = await stream_depth(self._requests, self._names)
        self._publisher.note_depth(depth)
        return depth

    async def ping(self) -> None:
        """Raises QueueUnavailable unless the stream answers."""
        await stream_depth(self._requests, self._names)

    def intake(
        self, priority: Priority, model: str, *, room: int, bytes_max: int = HELD_BYTES_MAX
    ) -> Intake:
        """An intake of one lane's tickets that never holds more than `room` unreleased, nor more
        than `bytes_max` bytes of them, of which it always makes enough for one ticket.
        """
        return Intake(
            self._connection, self._names, priority, model, room=room, bytes_max=bytes_max
        )

    async def announce(self, outcomes: list[Outcome]) -> None:
        """Tell everybody how predictions ended. Best effort."""
        await self._announcements.announce(outcomes)

    async def tell_status(self, status: DispatcherStatus) -> None:
        """Tell everybody what this dispatcher can do. Best effort."""
        await self._announcements.tell_status(status)

    async def subscribe_outcomes(self, heard: Callable[[list[Announced]], None]) -> None:
        """Hear of every outcome announced while connected."""
        await self._announcements.subscribe_outcomes(heard)

    async def subscribe_dispatchers(self, heard: Callable[[DispatcherStatus], None]) -> None:
        """Hear every dispatcher's status, about once a second each."""
        await self._announcements.subscribe_dispatchers(heard)

    def when_connected(self, hook: Callable[[], None]) -> None:
        """Call `hook` after each reconnect: announcements made meanwhile were missed."""
        self._connection.when_up(hook)

    async def flush(self) -> None:
        """Wait until the server has read all acks and announcements sent so far."""
        await self._connection.flush()

    async def close(self) -> None:
        """Send what is pending, and disconnect."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._connection.close()
