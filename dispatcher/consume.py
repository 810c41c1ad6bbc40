"""How much of one model's work is held: what is fetched, what runs at once, what is given back."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from broker import LEASE_EXTENDED_EVERY_S, Delivery, Intake
from contract.catalog import Lane
from contract.ids import PredictionId
from contract.prediction import Priority
from dispatcher.batching import Batch, Batcher
from dispatcher.outages import Outage
from dispatcher.turn import Turn

log = logging.getLogger(__name__)

RECORDINGS_MAX = 2  # batches that Triton has answered, and that are not settled yet


class RunBatch(Protocol):
    """`Executor.run`: calls `inferred` once Triton is free for the next batch, and returns those
    that must run alone, in their turn.
    """

    async def __call__(
        self, batch: Batch[Delivery], inferred: Callable[[], None], turn: Turn | None = None
    ) -> list[Delivery]: ...


@dataclass(slots=True)
class _Held:
    """A delivery, and when its lease began or was last extended, by the loop's clock."""

    delivery: Delivery
    leased_at: float


class Consumer:
    """Holds the tickets of one model, from their delivery until they are settled.

    It takes a batch whenever one of `batches_max` places is free, and the place is free again once
    Triton has answered. So Triton always has a next batch while one is recorded, and rows gather
    while all places are taken. A ledger slower than Triton slows the taking, or rows would gather
    behind Triton instead, where priority and batching have no say any more.

    While a part is away nothing new is taken, and as nothing is settled either, the intakes fill up
    and fetch no more: memory is bounded by their room, not by the backlog.

    Suspects are no batcher's business: they run beside the batches, one at a time in the whole
    dispatcher, and take no place from those that have done nothing.
    """

    def __init__(
        self,
        model: str,
        intakes: Mapping[Priority, Intake],
        batcher: Batcher[Delivery],
        run_batch: RunBatch,
        *,
        batches_max: int,
        outages: Sequence[Outage],
        turn: Turn,
    ) -> None:
        self._model = model
        self._intakes = intakes
        self._batcher = batcher
        self._run_batch = run_batch
        self._places = batches_max  # free ones
        self._running_max = batches_max + RECORDINGS_MAX
        self._outages = outages
        for outage in outages:
            outage.when_changed(self._wake)
        self._turn = turn
        self._suspects: deque[Delivery] = deque()
        self._suspect_runs = False  # or waits for its turn
        self._clock = asyncio.get_running_loop().time
        self._held: dict[PredictionId, _Held] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._woken = asyncio.Event()

    @property
    def held(self) -> int:
        """Tickets on loan, waiting or running."""
        return len(self._held)

    async def run(self, drain_s_max: float) -> None:
        """Work until `stop`; then finish what is held within `drain_s_max`, give back the rest.

        `run_batch` handles every failure it expects. Anything else is a bug: it leaves through the
        task group and ends the process, and the tickets are delivered again.
        """
        async with asyncio.TaskGroup() as batches:
            for intake in self._intakes.values():
                await intake.start(self._arrived)
            await self._begin_batches(batches, until=lambda: self._stopping)
            for intake in self._intakes.values():
                await intake.stop()
            # While a part is away nothing can end: better give back at once than wait in vain.
            if not self._is_paused:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain_s_max):
                        await self._begin_batches(batches, until=lambda: not self._held)
            for task in self._running:
                task.cancel()
        await self._give_back()

    def stop(self) -> None:
        self._stopping = True
        self._wake()

    @property
    def foreign(self) -> int:
        """Messages removed from the queue that were nobody's predictions."""
        return sum(intake.foreign for intake in self._intakes.values())

    async def extend_leases(self) -> None:
        """Extend those that have not been for a while. To be called more often than that."""
        for held in list(self._held.values()):
            if self._clock() - held.leased_at >= LEASE_EXTENDED_EVERY_S:
                held.leased_at = self._clock()
                await held.delivery.extend_lease()

    def withdraw(self, ids: Iterable[PredictionId]) -> None:
        """Do not begin any of these any more: they have ended."""
        for each in ids:
            if held := self._held.get(each):
                held.delivery.withdrawn = True

    def _arrived(self, delivery: Delivery) -> None:
        ticket = delivery.ticket
        if ticket.id in self._held:
            # Its lease ended while NATS was away, and it came again. The first delivery's ack
            # removes the ticket just as well.
            self._intakes[ticket.priority].release(delivery)
            return
        self._held[ticket.id] = _Held(delivery, self._clock())
        self._batcher.add(delivery, _lane(delivery), ticket.priority)
        self._wake()

    async def _begin_batches(
        self, batches: asyncio.TaskGroup, *, until: Callable[[], bool]
    ) -> None:
        while not until():
            self._woken.clear()
            while self._may_begin and (batch := self._batcher.take()) is not None:
                self._places -= 1
                self._start(batches, self._run(batch))
            if self._suspects and not self._suspect_runs and not self._is_paused:
                self._suspect_runs = True
                self._start(batches, self._run_suspect(self._suspects.popleft()))
            await self._woken.wait()

    def _start(self, batches: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = batches.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._is_done)

    @property
    def _may_begin(self) -> bool:
        return self._places > 0 and len(self._running) < self._running_max and not self._is_paused

    @property
    def _is_paused(self) -> bool:
        return any(outage.reason for outage in self._outages)

    async def _run(self, batch: Batch[Delivery]) -> None:
        suspects = await self._run_batch(batch, self._place_is_free)
        self._suspects.extend(suspects)
        for delivery in batch.rows:
            if delivery not in suspects:
                self._release(delivery)

    async def _run_suspect(self, delivery: Delivery) -> None:
        async with self._turn.taken():
            batch = Batch(_lane(delivery), (delivery,))
            await self._run_batch(batch, lambda: None, self._turn)
        self._release(delivery)
        self._suspect_runs = False

    def _release(self, delivery: Delivery) -> None:
        del self._held[delivery.ticket.id]
        self._intakes[delivery.ticket.priority].release(delivery)

    def _is_done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._wake()

    def _place_is_free(self) -> None:
        self._places += 1
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    async def _give_back(self) -> None:
        if self._held:
            log.info("tickets.given_back", extra={"model": self._model, "tickets": self.held})
        for held in self._held.values():
            await held.delivery.give_back()
        self._held.clear()


def _lane(delivery: Delivery) -> Lane:
    return Lane(delivery.ticket.model, delivery.ticket.version)
