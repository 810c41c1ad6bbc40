"""What idempotency keys stand for: one message per key, in a stream of its own.

A key's claim is made by the first publish on its subject and never changed, so of any number of
callers with one key, at however many gateways, all get the same prediction. Claims leave the
stream by their age alone.
"""

import logging
import secrets

from broker.answers import Verdict
from broker.messages import Messages
from broker.requests import Requests
from broker.storing import Answered, Storing
from contract.claims import Claim
from contract.errors import AcceptanceUnknown, Overloaded, QueueUnavailable, ServiceError
from contract.queue import QueueNames

log = logging.getLogger(__name__)

# Room comes when the oldest claims reach their age, which is weeks: nobody need ask every second.
FULL_RETRY_AFTER_S = 60
TRIES_MAX = 3


class Claims:
    """Makes and reads claims for one process."""

    def __init__(self, storing: Storing, requests: Requests, names: QueueNames) -> None:
        self._storing = storing
        self._names = names
        self._messages = Messages(requests, names.claims_stream)

    async def claim(self, key_hash: str, claim: Claim) -> Claim:
        """Make `claim` the one for this key, unless there is an earlier one; return the one.

        Raises:
            Overloaded: no more claims are kept.
            QueueUnavailable: not known which it is; ask again.
        """
        subject = self._names.claim(key_hash)
        for _ in range(TRIES_MAX):
            answered = await self._store(subject, claim)
            if answered.verdict is Verdict.STORED:
                return claim
            if answered.verdict is not Verdict.EXISTS:
                raise _refusal(answered)
            # Also where a try of ours was stored and its answer lost: then we read our own.
            if (present := await self.find(key_hash)) is not None:
                return present
            # It reached its age between the two questions: the key is free again.
        raise QueueUnavailable("the key comes and goes")

    async def find(self, key_hash: str) -> Claim | None:
        """Read the claim of a key; None when there is none. Raises QueueUnavailable."""
        stored = await self._messages.last_of(self._names.claim(key_hash))
        return None if stored is None else Claim.from_bytes(stored.data)

    async def _store(self, subject: str, claim: Claim) -> Answered:
        headers = {
            # Of this call alone: its own repetitions are stored once, and nobody else's claim is
            # taken for one, not even of the same id.
            "Nats-Msg-Id": f"{claim.id}.{secrets.token_hex(8)}",
            "Nats-Expected-Last-Subject-Sequence": "0",
        }
        try:
            return await self._storing.store(subject, claim.to_bytes(), headers)
        except AcceptanceUnknown as error:  # a claim accepts nothing
            raise QueueUnavailable("the queue did not confirm the key") from error


def _refusal(answered: Answered) -> ServiceError:
    if answered.verdict is Verdict.FULL:
        return Overloaded(
            "as many idempotency keys are in use as are kept; submit without one",
            retry_after_s=FULL_RETRY_AFTER_S,
        )
    log.error("claim.refused", extra={"error": answered.reason})
    return QueueUnavailable("the queue cannot keep the key")
