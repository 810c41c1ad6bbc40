"""What this gateway knows by itself of the predictions that it accepted a moment ago.

Callers ask for a prediction right after they have submitted it, to the gateway that accepted it.
The invariant (in the queue until it ends, in the ledger ever after) then spares reads: what was
accepted and is not in the ledger is in the queue, whoever looks there; and an outcome that was
announced is recorded, for good. Nothing here is needed: what is not remembered is looked up.

It is kept for a minute at most. Whoever takes tickets or outcomes away from outside (a restore, a
purge, the end of the retention) is believed after that.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from contract.announcements import Announced
from contract.ids import PredictionId
from contract.prediction import Outcome, Ticket

KEPT_S = 60.0
PREDICTIONS_MAX = 16_384  # two minutes' images of one machine
BYTES_MAX = 32 * 1024 * 1024
ENTRY_BYTES = 600  # of the objects that hold one, beside its input and its output


@dataclass(frozen=True, slots=True)
class Remembered:
    """A prediction that this gateway has accepted."""

    ticket: Ticket  # without what its files hold
    sequence: int  # of the ticket in the queue
    outcome: Outcome | None  # None: it was not announced so far, or is too large for that
    will_be_heard: bool  # it had not ended by what was announced, and nothing of that was missed


@dataclass(slots=True)
class _Entry:
    data: bytes  # a ticket's own form: a tenth of the memory, and the same size for everybody
    ends_at: float
    gaps: int  # how often announcements had been missed when it was about to be accepted
    sequence: int | None = None  # None: not accepted yet
    outcome: Outcome | None = None
    has_ended: bool = False

    @property
    def size(self) -> int:
        output = self.outcome.output if self.outcome is not None else None
        return ENTRY_BYTES + len(self.data) + len(output or b"")


class Recent:
    """The predictions that were accepted last; the oldest leave first."""

    def __init__(self) -> None:
        # In the order in which they came. A dict would search for its first one again and again.
        self._entries: OrderedDict[PredictionId, _Entry] = OrderedDict()
        self._bytes = 0
        self._gaps = 0
        self._clock = asyncio.get_running_loop().time

    def expect(self, ticket: Ticket) -> None:
        """Listen for what becomes of a ticket. Before it is published, or its end could be missed.

        Args:
            ticket: without what its files hold.
        """
        # Two requests with one key may both be about to publish: the first listens for both.
        if ticket.id not in self._entries:
            entry = _Entry(ticket.to_bytes(), self._clock() + KEPT_S, self._gaps)
            self._entries[ticket.id] = entry
            self._bytes += entry.size
            self._bound()

    def settle(self, prediction_id: PredictionId, sequence: int | None) -> None:
        """Learn where in the queue the ticket is stored; None: not, not by us or nobody knows."""
        entry = self._entries.get(prediction_id)
        if entry is None or entry.sequence is not None:
            return
        if sequence is None:
            self._drop(prediction_id)
        else:
            entry.sequence = sequence

    def heard(self, announced: Iterable[Announced]) -> None:
        """Take in an announcement."""
        for each in announced:
            entry = self._entries.get(PredictionId(each.id))
            if entry is not None and not entry.has_ended:
                self._bytes -= entry.size
                entry.has_ended, entry.outcome = True, each.outcome
                self._bytes += entry.size
        self._bound()

    def missed(self) -> None:
        """Announcements may have been missed until now."""
        self._gaps += 1

    def find(self, prediction_id: PredictionId) -> Remembered | None:
        """What is remembered of a prediction; None: nothing, look it up."""
        entry = self._entries.get(prediction_id)
        if entry is None or entry.sequence is None or entry.ends_at <= self._clock():
            return None
        will_be_heard = not entry.has_ended and entry.gaps == self._gaps
        ticket = Ticket.from_bytes(entry.data)
        return Remembered(ticket, entry.sequence, entry.outcome, will_be_heard)

    def drop_old(self) -> None:
        """Give back the memory of those that are not remembered any more. Now and then."""
        now = self._clock()
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].ends_at > now:
                return
            self._drop(oldest)

    def _bound(self) -> None:
        while self._bytes > BYTES_MAX or len(self._entries) > PREDICTIONS_MAX:
            self._drop(next(iter(self._entries)))

    def _drop(self, prediction_id: PredictionId) -> None:
        self._bytes -= self._entries.pop(prediction_id).size
