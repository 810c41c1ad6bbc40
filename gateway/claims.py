"""Submitting with a key: however often the same request comes, it is one prediction.

Two writes, in this order: the claim (this key stands for this id), then the ticket under that id.
Whoever finds a claim looks for its prediction, and where there is none finishes what the claim's
maker began: it is dead between its two writes, or there just now. Both may publish; the queue
takes one ticket of an id, and the ledger one outcome.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from broker import Broker
from contract.announcements import Announced
from contract.claims import Claim
from contract.errors import (
    AcceptanceUnknown,
    AlreadyAccepted,
    Expired,
    InvalidInput,
    KeyReused,
    LedgerUnavailable,
    QueueUnavailable,
    UnknownPrediction,
)
from contract.ids import PredictionId, accepted_at_ms
from contract.prediction import Ticket
from gateway.follow import Follower, Seen
from gateway.submit import CHECKED_IN_THREAD_BYTES, Submitter
from ledger import Ledger

# A caller's own id says when it was made, and weeks of the ledger and the retention go by that.
ID_AGE_MS_MAX = 24 * 3600 * 1000
ID_AHEAD_MS_MAX = 5 * 60 * 1000  # as far as clocks differ
# How late a claim without a prediction may still get one. Its id says when it was made, and what
# is kept by the week of an id would be removed early for one that began much later.
FINISHED_MS_MAX = 6 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Key:
    """What tells that two requests are one: an idempotency key of an owner, or the id of a PUT."""

    hash: str  # where its claim is kept
    id: PredictionId | None = None  # of a PUT

    @classmethod
    def of_owner(cls, owner: str, key: str) -> "Key":
        # No owner's name has a NUL in it, so no two owners' keys meet.
        return cls(hashlib.sha256(f"key\0{owner}\0{key}".encode()).hexdigest())

    @classmethod
    def of_id(cls, prediction_id: PredictionId) -> "Key":
        return cls(hashlib.sha256(f"id\0{prediction_id}".encode()).hexdigest(), prediction_id)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A request that has its id, and perhaps its prediction."""

    ticket: Ticket
    may_exist: bool  # the prediction: the claim was there before


@dataclass(frozen=True, slots=True)
class Accepted:
    seen: Seen
    is_replay: bool  # this request was accepted before


class Claims:
    """Accepts requests that have a key.

    Args:
        now_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        follower: Follower,
        submitter: Submitter,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._follower = follower
        self._submitter = submitter
        self._now_ms = now_ms

    async def claim(self, key: Key, ticket: Ticket, fingerprint: str) -> Claimed:
        """Settle under which id this request is accepted. Accepts nothing yet.

        Raises:
            KeyReused: the key stands for a different request.
            AlreadyAccepted: the id of a PUT is that of a prediction without a claim.
            Expired: the id of a PUT is as old as what has been removed.
            InvalidInput: a new id of a PUT is not of these days.
            Overloaded, QueueUnavailable, LedgerUnavailable: not settled.
        """
        if key.id is not None:
            ours = Claim(key.id, fingerprint, ticket.owner)
            earlier = await self._claim_of_id(key, ours)
        else:
            ours = Claim(ticket.id, fingerprint, ticket.owner)
            earlier = await self._broker.claim(key.hash, ours)
        if (earlier.fingerprint, earlier.owner) != (ours.fingerprint, ours.owner):
            used = "idempotency key" if key.id is None else "id"
            raise KeyReused(f"this {used} was used before, for a different request; take a new one")
        # A PUT's claim looks the same whoever made it.
        may_exist = key.id is not None or earlier != ours
        return Claimed(_under(earlier.id, ticket), may_exist)

    async def accept(self, claimed: Claimed) -> Accepted:
        """Find the prediction, or accept it. Files that are large are stored only for the latter.

        Raises:
            Expired: it was accepted, and has been removed since.
            TooLarge, Overloaded, BlobsUnavailable, QueueUnavailable: not accepted, or not known;
                the same key may be sent again.
            LedgerUnavailable: not known.
        """
        ticket = claimed.ticket
        if claimed.may_exist and (seen := await self._find(ticket.id)) is not None:
            return Accepted(seen, is_replay=True)
        if self._now_ms() - accepted_at_ms(ticket.id) > FINISHED_MS_MAX:
            raise Expired("a request with this key was begun days ago and never accepted")
        try:
            stored = await self._submitter.accept(ticket)
        except AlreadyAccepted:
            seen = await self._follower.find_bare(ticket.id)
            return Accepted(seen, is_replay=True)
        except AcceptanceUnknown as error:
            # With a key this is an outage like any other: to ask again is safe.
            raise QueueUnavailable("not confirmed in time; send the same key again") from error
        ended = await self._ended_meanwhile(ticket.id)
        return Accepted(ended or Seen(stored), is_replay=ended is not None)

    async def _claim_of_id(self, key: Key, ours: Claim) -> Claim:
        """The claim of a caller's own id; before it is made, the id must be known to be free.

        A plain POST makes no claim, and its id may have ended: a second ticket would be taken.
        """
        assert key.id is not None
        if await self._find(key.id) is None:
            self._check_age(key.id)
            return await self._broker.claim(key.hash, ours)
        earlier = await self._broker.find_claim(key.hash)
        if earlier is None:
            raise AlreadyAccepted("a prediction with this id was accepted before")
        return earlier

    async def _find(self, prediction_id: PredictionId) -> Seen | None:
        try:
            return await self._follower.find_bare(prediction_id)
        except Expired:
            raise
        except UnknownPrediction:
            return None

    async def _ended_meanwhile(self, prediction_id: PredictionId) -> Seen | None:
        """Whether it had ended before our ticket was stored; then take that back.

        While we were between claim and ticket, somebody with the same key may have finished for
        us. What ends is recorded before it leaves the queue, so it is in the ledger by now.
        """
        with suppress(LedgerUnavailable):
            ended = await self._ledger.get(prediction_id)
            if ended is not None:
                with suppress(QueueUnavailable):  # then it is run in vain
                    await self._broker.withdraw(prediction_id)
                # What others announced before our ticket was there, nobody listened to.
                self._follower.heard([Announced(prediction_id, ended.outcome)])
                return Seen(ended.ticket, ended.outcome)
        return None

    def _check_age(self, prediction_id: PredictionId) -> None:
        age_ms = self._now_ms() - accepted_at_ms(prediction_id)
        if not -ID_AHEAD_MS_MAX <= age_ms <= ID_AGE_MS_MAX:
            raise InvalidInput(
                "the time in a new id is at most 24 hours ago and 5 minutes ahead",
                field="path.id",
                rule="age",
            )


async def fingerprint_of(ticket: Ticket, version: int | None, *, body_bytes: int) -> str:
    """The sha256 of what was asked for; the same request has the same, whoever computes it.

    Args:
        version: as it was asked for; None leaves it to us, today and tomorrow.
        body_bytes: how much it may be to read.
    """
    if body_bytes > CHECKED_IN_THREAD_BYTES:
        return await asyncio.to_thread(_fingerprint, ticket, version)
    return _fingerprint(ticket, version)


def _fingerprint(ticket: Ticket, version: int | None) -> str:
    after_ms = None if ticket.deadline_ms is None else ticket.deadline_ms - ticket.created_at_ms
    asked = {
        "model": ticket.model,
        "version": version,
        "input": ticket.input,
        "files": {name: [file.sha256, file.media_type] for name, file in ticket.files.items()},
        "priority": ticket.priority.value,
        "cancel_after_ms": after_ms,
        "retry_of": ticket.retry_of,
    }
    return hashlib.sha256(_ENCODER.encode(asked)).hexdigest()


def _under(prediction_id: PredictionId, ticket: Ticket) -> Ticket:
    """The ticket under another id; its deadline is as far from that as it was from its own."""
    if prediction_id == ticket.id:
        return ticket
    deadline_ms = ticket.deadline_ms
    if deadline_ms is not None:
        deadline_ms += accepted_at_ms(prediction_id) - ticket.created_at_ms
    return msgspec.structs.replace(ticket, id=prediction_id, deadline_ms=deadline_ms)


_ENCODER = msgspec.json.Encoder(order="sorted")
