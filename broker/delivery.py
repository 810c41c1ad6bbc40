"""One ticket on loan from the stream, until it is acked, given back, or its lease ends."""

import json
import logging

from broker.connection import Connection, NotTaken
from contract.prediction import Ticket

log = logging.getLogger(__name__)

# How long a dispatcher that dies keeps its tickets from the others, and how often one that lives
# says so: two extensions may be lost.
LEASE_S = 6.0
LEASE_EXTENDED_EVERY_S = LEASE_S / 3

V1_TOKENS = (
    9  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
)
V2_TOKENS_MIN = 11  # ... with a domain and an account in front of the stream


class Delivery:
    """One ticket on loan.

    Acks, naks and extensions are sent without waiting for an answer, and silently lost while NATS
    is away: the ticket then comes back when its lease ends, and finds its outcome recorded.
    """

    __slots__ = (
        "_connection", "_reply", "attempt", "sequence", "size", "ticket", "unreadable", "withdrawn"
    )  # fmt: skip

    def __init__(
        self,
        ticket: Ticket,
        reply: str,
        connection: Connection,
        *,
        size: int = 0,
        unreadable: str = "",
    ) -> None:
        """
        Args:
            size: of the message, in bytes.
            unreadable: why the message is no ticket; `ticket` then stands in for it, and says no
                more than its subject did.
        """
        self.ticket = ticket
        self.size = size
        self.unreadable = unreadable
        self.withdrawn = False  # whoever holds it has heard that it was ended elsewhere
        self.attempt, self.sequence = read_reply(reply)
        """How often it was delivered, this time included; and its sequence in the stream."""
        self._reply = reply
        self._connection = connection

    async def ack(self) -> None:
        """Remove the ticket from the queue. Call only once its outcome is in the ledger."""
        await self._answer(b"+ACK")

    async def give_back(self, delay_s: float = 0.0) -> None:
        """Ask for it to be delivered again, here or elsewhere, at once or after `delay_s`.

        While it waits it counts among those in flight, which are limited: keep delays few.
        """
        await self._answer(not_acknowledged(delay_s))

    async def extend_lease(self) -> None:
        """Begin the lease anew."""
        await self._answer(b"+WPI")

    async def _answer(self, kind: bytes) -> None:
        try:
            await self._connection.publish(self._reply, kind)
        except NotTaken:
            log.debug("delivery.answer_lost", extra={"sequence": self.sequence})


def not_acknowledged(delay_s: float = 0.0) -> bytes:
    assert delay_s >= 0
    if not delay_s:
        return b"-NAK"
    return b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode()  # nanoseconds


def read_reply(reply: str) -> tuple[int, int]:
    """Read (times delivered, stream sequence) from the subject that acks go to.

    Source: NATS ADR-15, and ADR-47 for the second form.
    """
    tokens = reply.split(".")
    if len(tokens) == V1_TOKENS:
        return int(tokens[4]), int(tokens[5])
    assert len(tokens) >= V2_TOKENS_MIN, reply
    return int(tokens[6]), int(tokens[7])
