"""Ends a prediction that need not run any more: canceled by its owner, or past its deadline.

The order: keep the input's files, insert the outcome, take the ticket out of the queue, announce.
The insert decides: if somebody else was first, what they recorded is the outcome, and nothing else
happens here. Where a gateway dies between two of the steps, a dispatcher finds the ticket, and at
worst runs it in vain.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from blobs import Blobs
from broker import Broker
from contract.errors import BlobsUnavailable, LedgerUnavailable, QueueUnavailable
from contract.prediction import (
    Failure,
    Outcome,
    Prediction,
    Status,
    Ticket,
    deadline_exceeded,
)
from ledger import Ledger, Unrecordable
from telemetry import metrics

log = logging.getLogger(__name__)

KeepInputs = Literal["all", "failed", "none"]


class Withdrawer:
    """Ends predictions from the gateway.

    Args:
        keep_inputs: whose files are put into the blobs, where they travelled in the ticket.
        now_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        blobs: Blobs,
        *,
        keep_inputs: KeepInputs,
        now_ms: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._blobs = blobs
        self._keep_inputs = keep_inputs
        self._now_ms = now_ms

    async def cancel(self, ticket: Ticket) -> Outcome:
        """End it as canceled, unless it has ended; return how it ended.

        Raises:
            LedgerUnavailable: it may have been recorded or not; ask again.
            BlobsUnavailable: its input cannot be kept now, so it goes on.
        """
        return await self._end(ticket, None)

    async def end_overdue(self, ticket: Ticket) -> Outcome | None:
        """End it as failed if its deadline has passed, unless it has ended; return how it ended.

        Returns None while it may go on. So it may while the ledger or the blobs are away, since
        nobody can end it then: whoever looks next will.
        """
        if ticket.deadline_ms is None or not self.is_overdue(ticket):
            return None
        try:
            return await self._end(ticket, deadline_exceeded(ticket.deadline_ms))
        except (LedgerUnavailable, BlobsUnavailable):
            log.debug("withdraw.postponed", extra={"prediction": ticket.id})
            return None

    def is_overdue(self, ticket: Ticket) -> bool:
        return ticket.deadline_ms is not None and self._now_ms() >= ticket.deadline_ms

    def left_s(self, ticket: Ticket) -> float:
        """How long to wait until the deadline has passed; infinite without one."""
        if ticket.deadline_ms is None:
            return float("inf")
        # A timer may fire a millisecond early.
        return max(0.0, (ticket.deadline_ms - self._now_ms()) / 1000) + 0.002

    async def _end(self, ticket: Ticket, failure: Failure | None) -> Outcome:
        if self._keep_inputs == "all" or (self._keep_inputs == "failed" and failure is not None):
            await self._keep_files(ticket)
        outcome = self._outcome(ticket, failure)
        if not await self._record(Prediction(ticket, outcome)):
            recorded = await self._ledger.get(ticket.id)
            assert recorded is not None, "what kept ours out of the ledger is in it"
            assert recorded.outcome is not None
            return recorded.outcome
        try:
            await self._broker.withdraw(ticket.id)
        except QueueUnavailable:
            # It is delivered again once NATS is back, and the row keeps what the run gives out.
            log.warning("withdraw.ticket_left", extra={"prediction": ticket.id})
        await self._broker.announce([outcome])
        metrics.WITHDRAWN.labels(ticket.model, outcome.status.value).inc()
        return outcome

    async def _keep_files(self, ticket: Ticket) -> None:
        puts = [
            self._blobs.put(ticket.id, file.content, file.sha256)
            for file in ticket.files.values()
            if file.content is not None
        ]
        if puts:
            await asyncio.gather(*puts)

    async def _record(self, ended: Prediction) -> bool:
        """Return whether this is the outcome now; False: it had one before."""
        try:
            return bool(await self._ledger.record([ended]))
        except Unrecordable:
            # For its input: of the outcome there is nothing to refuse.
            bare = msgspec.structs.replace(ended.ticket, input={})
            return bool(await self._ledger.record([Prediction(bare, ended.outcome)]))

    def _outcome(self, ticket: Ticket, failure: Failure | None) -> Outcome:
        now_ms = self._now_ms()
        return Outcome(
            id=ticket.id,
            status=Status.CANCELED if failure is None else Status.FAILED,
            started_at_ms=now_ms,
            completed_at_ms=now_ms,
            attempts=0,
            error=failure,
            queue_ms=max(0.0, float(now_ms - ticket.created_at_ms)),
        )
