"""What became of a prediction: where it is now, and waiting until it ends.

A prediction is in the queue until it ends and in the ledger ever after, so a reader asks the
ledger, then the queue, then the ledger once more: it may have moved in between. Waiting is for an
announcement, which may be lost; so whoever waits also looks into the ledger now and then, all
waiters in one question. What this gateway accepted a moment ago need not be read at all
(`gateway.recent`).
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from broker import Broker
from contract.announcements import Announced
from contract.errors import Expired, LedgerUnavailable, Overloaded, UnknownPrediction
from contract.ids import PredictionId, accepted_at_ms, is_uuid7
from contract.prediction import Outcome, Prediction, Ticket
from gateway.recent import Recent, Remembered
from gateway.withdraw import Withdrawer
from ledger import Ledger
from telemetry import metrics

log = logging.getLogger(__name__)

RECHECK_S = 5.0  # how late a waiter hears of an outcome whose announcement was lost, at most
TICK_S = 1.0
IDS_PER_QUESTION_MAX = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """A prediction as it stands. `running` and `position` hold since the reader's question."""

    ticket: Ticket
    outcome: Outcome | None = None
    running: bool = False
    position: int | None = None  # 1 is next; None where it is not known, or has no meaning
    is_assumed: bool = False  # it had not ended by what was announced; nobody was asked

    def without_contents(self) -> "Seen":
        """The same without what its files hold: a megabyte each, for as long as somebody waits."""
        return replace(self, ticket=self.ticket.without_contents())


class Waiter:
    """One caller held until a prediction ends."""

    def __init__(self, prediction_id: PredictionId, recheck_at: float) -> None:
        self.prediction_id = prediction_id
        self.recheck_at = recheck_at
        # Set by an announcement, by the re-check or, to None, by the gateway's stop.
        self._settled: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    @property
    def is_let_go(self) -> bool:
        """The gateway stops; there is nothing to wait for any more."""
        return self._settled.done() and self._settled.result() is None

    def settle(self, outcome: Outcome | None) -> None:
        if not self._settled.done():
            self._settled.set_result(outcome)

    async def outcome(self, wait_s: float) -> Outcome | None:
        """Wait for the outcome; None when it did not come within `wait_s`. May be called again."""
        done, _ = await asyncio.wait([self._settled], timeout=wait_s)
        return self._settled.result() if done else None


class Follower:
    """Finds predictions, and wakes those who wait for one."""

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        withdrawer: Withdrawer,
        recent: Recent,
        *,
        waiters_max: int,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._withdrawer = withdrawer
        self._recent = recent
        self._waiters_max = waiters_max
        self._waiters: dict[PredictionId, list[Waiter]] = {}
        self._count = 0
        self._look_now = asyncio.Event()
        self._stopping = False

    async def find(self, prediction_id: PredictionId) -> Seen:
        """Find a prediction wherever it is. One that is past its deadline ends here.

        Raises:
            UnknownPrediction: it is nowhere. Expired: so it is, and may have been removed.
            QueueUnavailable, LedgerUnavailable: nobody can tell.
        """
        return await self._find(prediction_id, None)

    async def find_bare(self, prediction_id: PredictionId, *, waits: bool = False) -> Seen:
        """As `find`, without what the files hold.

        Args:
            waits: the caller is registered as waiting. If what was announced tells that it has not
                ended, nobody is asked, and where it stands is not known (`is_assumed`).
        """
        known = self._recent.find(prediction_id)
        if known is not None and known.outcome is not None:
            return Seen(known.ticket, known.outcome)
        if known is None or self._withdrawer.is_overdue(known.ticket):
            return (await self._find(prediction_id, None)).without_contents()
        if waits and known.will_be_heard and self._broker.is_connected:
            return Seen(known.ticket, is_assumed=True)
        return (await self._find(prediction_id, known)).without_contents()

    async def _find(self, prediction_id: PredictionId, known: Remembered | None) -> Seen:
        ledger_failed: LedgerUnavailable | None = None
        try:
            if (ended := await self._ledger.get(prediction_id)) is not None:
                return Seen(ended.ticket, ended.outcome)
            if known is not None:  # accepted, and not in the ledger: it is in the queue
                at = await self._broker.progress(known.ticket, known.sequence)
                return Seen(known.ticket, None, at.running, at.position)
        except LedgerUnavailable as error:
            ledger_failed = error  # what waits in the queue can be answered all the same
        if (queued := await self._broker.find(prediction_id)) is not None:
            if ledger_failed is not None and queued.running:
                # It may have ended: it is recorded before it leaves the queue. Somebody may have
                # been told so, and must not be told "running" after that.
                raise ledger_failed
            ticket = queued.ticket
            outcome = await self._withdrawer.end_overdue(ticket)
            return Seen(ticket, outcome, queued.running, queued.position)
        if ledger_failed is not None:
            raise ledger_failed
        # It may have ended between the two questions: it is recorded before it leaves the queue.
        if (ended := await self._ledger.get(prediction_id)) is not None:
            return Seen(ended.ticket, ended.outcome)
        horizon = await self._ledger.horizon()
        if horizon is not None and _may_have_been(prediction_id, horizon.timestamp() * 1000):
            raise Expired(f"predictions as old as {prediction_id} have been removed")
        raise UnknownPrediction(f"there is no prediction {prediction_id}")

    @contextmanager
    def waiting(self, prediction_id: PredictionId) -> Iterator[Waiter]:
        """Register a waiter. Before the prediction is looked for, or its end could be missed.

        Raises:
            Overloaded: too many wait already.
        """
        if self._count >= self._waiters_max:
            raise Overloaded("too many callers wait for outcomes; poll instead", retry_after_s=1)
        waiter = Waiter(prediction_id, asyncio.get_running_loop().time() + RECHECK_S)
        if self._stopping:
            waiter.settle(None)
        self._waiters.setdefault(prediction_id, []).append(waiter)
        self._change_count(+1)
        try:
            yield waiter
        finally:
            together = self._waiters[prediction_id]
            together.remove(waiter)
            if not together:
                del self._waiters[prediction_id]
            self._change_count(-1)

    def heard(self, announced: Collection[Announced]) -> None:
        """Take in an announcement."""
        self._recent.heard(announced)
        for each in announced:
            waiters = self._waiters.get(PredictionId(each.id))
            if not waiters:
                continue
            if each.outcome is None:  # too large to be announced: it is in the ledger
                _make_due(waiters)
                self._look_now.set()
                continue
            for waiter in waiters:
                waiter.settle(each.outcome)

    def reconnected(self) -> None:
        """Announcements were missed meanwhile: look for everybody's outcome now."""
        self._recent.missed()
        for waiters in self._waiters.values():
            _make_due(waiters)
        self._look_now.set()

    def stop_waiting(self) -> None:
        """Let everybody go, now and from now on: the gateway is about to stop."""
        self._stopping = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.settle(None)

    async def run(self) -> None:
        """Look into the ledger for those whose announcement may be lost, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._look_now.wait()
            self._look_now.clear()
            self._recent.drop_old()
            # While the ledger is away nothing is recorded either, so nothing is missed.
            with suppress(LedgerUnavailable):
                await self._look()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [
            prediction_id
            for prediction_id, waiters in self._waiters.items()
            if any(waiter.recheck_at <= now for waiter in waiters)
        ]
        for start in range(0, len(due), IDS_PER_QUESTION_MAX):
            ids = due[start : start + IDS_PER_QUESTION_MAX]
            found = await self._ledger.get_many(ids)
            for prediction_id in ids:
                self._looked(prediction_id, found.get(prediction_id), now + RECHECK_S)

    def _looked(
        self, prediction_id: PredictionId, found: Prediction | None, recheck_at: float
    ) -> None:
        for waiter in self._waiters.get(prediction_id, ()):
            waiter.recheck_at = recheck_at
            if found is not None:
                waiter.settle(found.outcome)

    def _change_count(self, by: int) -> None:
        self._count += by
        metrics.WAITERS.set(self._count)


def _may_have_been(prediction_id: PredictionId, horizon_ms: float) -> bool:
    return is_uuid7(prediction_id) and accepted_at_ms(prediction_id) < horizon_ms


def _make_due(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.recheck_at = 0.0
