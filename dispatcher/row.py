"""One delivery being worked on: what is known of it so far, and how it ended."""

from dataclasses import dataclass, field

import msgspec

from broker import Delivery
from contract.ids import PredictionId
from contract.prediction import Failure, Outcome, Status, Ticket
from tasks.base import Tensors


@dataclass(slots=True, eq=False)
class Row:
    """A prediction on its way through one attempt.

    Each step works on the rows that are open, and ends those it must. In the end a row has an
    outcome, or a time after which it is tried again, or it was withdrawn.
    """

    delivery: Delivery
    ticket: Ticket
    began_at_ms: int  # Unix time
    begun: int = 0  # runs that were counted, as far as we know
    tensors: Tensors = field(default_factory=dict)  # its inputs to the model, once encoded
    compute_ms: float = 0.0
    outcome: Outcome | None = None
    retry_in_s: float | None = None

    @property
    def id(self) -> PredictionId:
        return self.ticket.id

    @property
    def is_redelivered(self) -> bool:
        return self.delivery.attempt > 1

    @property
    def is_open(self) -> bool:
        """Whether it is to be run still."""
        return self.outcome is None and self.retry_in_s is None and not self.delivery.withdrawn

    @property
    def runs(self) -> int:
        """How often it has run, this time included; the first run of all is not counted."""
        return max(self.begun, 1)

    @property
    def queue_ms(self) -> float:
        # The clock of the gateway that made the id may be a little ahead of ours.
        return float(max(0, self.began_at_ms - self.ticket.created_at_ms))

    def succeed(self, output: bytes, at_ms: int) -> None:
        self.outcome = self._outcome(Status.SUCCEEDED, at_ms, output=output)

    def fail(self, failure: Failure, at_ms: int) -> None:
        self.outcome = self._outcome(Status.FAILED, at_ms, error=failure)

    def refuse(self, failure: Failure, at_ms: int) -> None:
        """Fail it without a run."""
        outcome = self._outcome(Status.FAILED, at_ms, error=failure)
        self.outcome = msgspec.structs.replace(outcome, attempts=self.begun)

    def _outcome(
        self,
        status: Status,
        at_ms: int,
        *,
        output: bytes | None = None,
        error: Failure | None = None,
    ) -> Outcome:
        return Outcome(
            id=self.ticket.id,
            status=status,
            started_at_ms=self.began_at_ms,
            completed_at_ms=max(at_ms, self.began_at_ms),  # clocks are set back now and then
            attempts=self.runs,
            output=output,
            error=error,
            queue_ms=self.queue_ms,
            compute_ms=self.compute_ms,
        )
