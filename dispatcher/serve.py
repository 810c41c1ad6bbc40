"""Puts the dispatcher together, and keeps it going until it is told to stop."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from broker import LEASE_EXTENDED_EVERY_S
from contract.announcements import DispatcherStatus
from contract.catalog import Catalog, Model
from contract.ids import PredictionId
from contract.prediction import Priority
from dispatcher.batching import Batcher
from dispatcher.consume import RECORDINGS_MAX, Consumer
from dispatcher.execute import ExecutionLimits, Executor, Parts
from dispatcher.health import ModelHealth
from dispatcher.turn import Turn
from dispatcher.upkeep import Upkeep
from tasks.registry import task
from telemetry import metrics

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0
STUCK_AFTER_S = 5.0  # the loop has not come round to telling the status


@dataclass(frozen=True, slots=True)
class DispatcherLimits:
    """How much a dispatcher takes on. Settings, as plain values."""

    execution: ExecutionLimits
    calls_in_flight: int = 2  # per instance of a model
    batch_rows_max: int = 1024
    held_bytes_max: int = 256 * 1024 * 1024  # of all models' tickets
    drain_s_max: float = 10.0
    retention_days: int = 0  # 0: for ever


class Dispatcher:
    """Serves every model of a catalog. `parts` stay open when it ends; whoever made them closes."""

    def __init__(
        self, name: str, catalog: Catalog, repository: Path, parts: Parts, limits: DispatcherLimits
    ) -> None:
        self._name = name
        self._parts = parts
        self._limits = limits
        self._turn = Turn()
        # Each intake has its share for itself: none can keep the others from taking anything.
        self._intake_bytes_max = limits.held_bytes_max // (len(Priority) * max(1, len(catalog)))
        self._served = [self._serving(model, repository) for model in catalog]
        self._upkeep = Upkeep(parts.ledger, parts.broker, parts.blobs, limits.retention_days)
        self._changed = asyncio.Event()  # somebody has gone away or is back: tell it at once
        for outage in (parts.ledger_outage, *(served.health.outage for served in self._served)):
            outage.when_changed(self._changed.set)
        self._told_at_s = time.monotonic()  # written by the loop, read by `health`

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and what is held has been finished or given back.

        Raises:
            UnfitLedger: the database cannot be our ledger as it is.
        """
        await self._parts.broker.subscribe_withdrawals(self._withdraw)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._tell_status())]
            if await _unless(stop, self._parts.ledger_outage.ride_out(self._parts.ledger.migrate)):
                background.append(tasks.create_task(self._upkeep.run()))
                background.append(tasks.create_task(self._extend_leases()))
                await self._serve_all(stop)
            for task_ in background:
                task_.cancel()
        await self._parts.broker.flush()  # the last acks

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the loop turns, and what an operator wants to know. For any thread."""
        silent_s = time.monotonic() - self._told_at_s
        facts = msgspec.to_builtins(self._status())
        facts["queue"] = "" if self._parts.broker.is_connected else "NATS is not connected"
        return silent_s < STUCK_AFTER_S, facts

    def _withdraw(self, ids: list[PredictionId]) -> None:
        for served in self._served:
            served.consumer.withdraw(ids)

    async def _serve_all(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for served in self._served:
                tasks.create_task(self._serve(served, stop))
            await stop.wait()
            log.info("dispatcher.stopping", extra={"held": self._status().inflight})
            for served in self._served:
                served.consumer.stop()

    async def _serve(self, served: "_Served", stop: asyncio.Event) -> None:
        if await _unless(stop, served.health.recover()):
            log.info("model.served", extra={"model": served.name, "batches": served.batches_max})
            await served.consumer.run(self._limits.drain_s_max)

    def _serving(self, model: Model, repository: Path) -> "_Served":
        parts, limits = self._parts, self._limits
        health = ModelHealth(model, parts.triton, repository)
        executor = Executor(model, task(model.task), health, parts, limits.execution)
        rows_max = max(1, min(model.max_batch_size, limits.batch_rows_max))
        # While Triton runs and queues as many calls as it should, one more batch is being encoded.
        batches_max = model.instances * limits.calls_in_flight + 1
        # An intake pulls again once half its room is free. The other half holds what is in
        # progress and a batch that waits, or a priority would run dry and lose its share.
        room = 2 * rows_max * (batches_max + RECORDINGS_MAX + 1)
        consumer = Consumer(
            model.name,
            {
                each: parts.broker.intake(
                    each, model.name, room=room, bytes_max=self._intake_bytes_max
                )
                for each in Priority
            },
            Batcher(rows_max),
            executor.run,
            batches_max=batches_max,
            # Not the blobs: what needs one waits for it, and its model in the end; others go on.
            outages=(health.outage, parts.ledger_outage),
            turn=self._turn,
        )
        return _Served(model.name, health, consumer, batches_max)

    def _status(self) -> DispatcherStatus:
        return DispatcherStatus(
            dispatcher=self._name,
            models={served.name: served.health.reason for served in self._served},
            ledger=self._parts.ledger_outage.reason,
            inflight=sum(served.consumer.held for served in self._served),
        )

    async def _tell_status(self) -> None:
        while True:
            self._told_at_s = time.monotonic()
            for served in self._served:
                metrics.HELD.labels(served.name).set(served.consumer.held)
                metrics.FOREIGN.labels(served.name).set(served.consumer.foreign)
            self._changed.clear()
            await self._parts.broker.tell_status(self._status())
            with suppress(TimeoutError):
                async with asyncio.timeout(STATUS_EVERY_S):
                    await self._changed.wait()

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_EXTENDED_EVERY_S / 2)  # so that none is much overdue
            for served in self._served:
                await served.consumer.extend_leases()


@dataclass(frozen=True, slots=True)
class _Served:
    """One model and what serves it."""

    name: str
    health: ModelHealth
    consumer: Consumer
    batches_max: int


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, or drop it as soon as `stop` is set; tells whether it was done."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
    finally:
        for each in (working, stopping):
            each.cancel()
        await asyncio.wait({working, stopping})
    return True
