"""The order of effects: look up, begin, encode, infer, keep, record, announce, ack. Only here.

What keeping costs is waiting for a disk, so inputs that will be kept however they end are kept
while Triton infers.

The outcome is in the ledger before its ticket leaves the queue, so a crash between any two steps
repeats work and loses none. The ledger keeps the first outcome of a prediction, so a repeat
changes nothing; and only the outcome it kept is announced.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec

from blobs import Blobs, NewBlob
from broker import Broker, Delivery
from contract.catalog import Lane, Model
from contract.errors import InferenceError, InvalidInput, ServiceError, UnknownModel
from contract.ids import PredictionId
from contract.prediction import (
    Failure,
    Outcome,
    Prediction,
    Priority,
    Status,
    deadline_exceeded,
)
from dispatcher.attempts import Attempts
from dispatcher.batching import Batch
from dispatcher.encode import Encoder
from dispatcher.health import ModelHealth
from dispatcher.infer import Inference, Outputs
from dispatcher.outages import Outage
from dispatcher.outputs import failure_of, output_json
from dispatcher.retries import Waiting, retry_in_s
from dispatcher.row import Row
from dispatcher.turn import Turn
from inference import Triton
from ledger import Ledger, Unrecordable
from tasks.base import Task
from telemetry import metrics

log = logging.getLogger(__name__)

KeepInputs = Literal["all", "failed", "none"]

HELD_UP_S_MAX = 0.02  # decoding large outputs holds the loop; then the others have a turn

_UNRECORDABLE = Failure(Unrecordable.code, "the prediction ended, but cannot be recorded as it is")


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    attempts_max: int
    infer_timeout_s: float
    keep_inputs: KeepInputs  # whose files are put into the blobs


@dataclass(frozen=True, slots=True)
class Parts:
    """What an executor works with; the same for every model."""

    triton: Triton
    ledger: Ledger
    blobs: Blobs
    broker: Broker
    encoder: Encoder
    ledger_outage: Outage
    blobs_outage: Outage
    now_ms: Callable[[], int]  # Unix time


class Executor:
    """Runs the batches of one model.

    Whatever is wrong with one row ends that row alone. Whatever is wrong with a part is waited out.
    Anything else is a bug and leaves: the process ends, and its tickets are delivered again.
    """

    def __init__(
        self, model: Model, task: Task, health: ModelHealth, parts: Parts, limits: ExecutionLimits
    ) -> None:
        self._model = model
        self._task = task
        self._inference = Inference(model, parts.triton, health, timeout_s=limits.infer_timeout_s)
        self._parts = parts
        self._limits = limits
        self._attempts = Attempts(parts.ledger, parts.ledger_outage, limits.attempts_max)
        self._waiting = Waiting()
        self._meters = _Meters(model.name)

    async def run(
        self, batch: Batch[Delivery], inferred: Callable[[], None], turn: Turn | None = None
    ) -> list[Delivery]:
        """Bring every row of `batch` to its outcome, and its ticket out of the queue.

        `inferred` is called once Triton is no longer needed, so that the next batch may begin.

        Returns:
            The suspects, untouched: each must be run in a batch of its own, and in its `turn`.
        """
        began_at_ms = self._parts.now_ms()
        rows = [Row(delivery, delivery.ticket, began_at_ms) for delivery in batch.rows]
        suspects: list[Row] = []
        with ExitStack() as place:
            place.callback(inferred)
            rows, suspects = await self._looked_up(rows, alone=turn is not None)
            self._refuse(_open(rows))
            await self._attempts.begin(_open(rows), began_at_ms)
            await self._encode(_open(rows))
            async with _meanwhile(self._keep_all(rows)):
                await self._infer(batch.lane, _open(rows), turn)
                place.close()
        await self._attempts.count_failed(rows)
        ended = [row for row in rows if row.outcome is not None]
        await self._keep_failed(ended)
        recorded = await self._record(ended)
        await self._parts.broker.announce(recorded)
        for row in rows:
            await self._settle(row)
        self._meters.count(rows, recorded)
        return [row.delivery for row in suspects]

    async def _looked_up(self, rows: list[Row], *, alone: bool) -> tuple[list[Row], list[Row]]:
        """Ack the redelivered rows that have ended already. Of the others, set those apart that
        were begun before: somebody may have died of them.
        """
        redelivered = [row for row in rows if row.is_redelivered]
        if not redelivered:
            return rows, []
        if not alone:  # or the suspects would be counted twice
            self._meters.redelivered.inc(len(redelivered))
        ended = await self._parts.ledger_outage.ride_out(
            partial(self._parts.ledger.ended, [row.id for row in redelivered])
        )
        await self._attempts.learn(redelivered)
        for row in rows:
            if row.id in ended:
                await row.delivery.ack()
        left = [row for row in rows if row.id not in ended]
        if alone:
            return left, []
        return [row for row in left if not row.begun], [row for row in left if row.begun]

    def _refuse(self, rows: Iterable[Row]) -> None:
        """End what cannot be run: a ticket that says nothing, a version that is gone."""
        for row in rows:
            if row.delivery.unreadable:
                message = f"the ticket cannot be read: {row.delivery.unreadable}"
                row.refuse(Failure("unreadable_ticket", message), self._parts.now_ms())
            elif row.ticket.version not in self._model.versions:
                message = f"model {self._model.name} is not served in version {row.ticket.version}"
                row.refuse(Failure(UnknownModel.code, message), self._parts.now_ms())
            else:
                self._is_wanted(row)

    def _is_wanted(self, row: Row) -> bool:
        """Whether to run it, asked whenever it is about to be; ends it where its time is over."""
        deadline_ms = row.ticket.deadline_ms
        if deadline_ms is not None and row.is_open and self._parts.now_ms() >= deadline_ms:
            row.refuse(deadline_exceeded(deadline_ms), self._parts.now_ms())
            self._meters.overdue.inc()
        return row.is_open

    async def _encode(self, rows: Sequence[Row]) -> None:
        tickets = [row.ticket for row in rows]
        size = sum(row.delivery.size for row in rows)
        encoded = await self._parts.encoder.encode(self._task, self._model, tickets, size=size)
        for row, result in zip(rows, encoded, strict=True):
            if isinstance(result, InvalidInput):
                self._fail(row, result)
            else:
                row.tensors = result

    async def _infer(self, lane: Lane, rows: Sequence[Row], turn: Turn | None) -> None:
        answers = await self._inference.run(
            lane,
            [row.tensors for row in rows],
            wanted=lambda number: self._is_wanted(rows[number]),
            aside=turn.aside if turn else nullcontext,
        )
        loop = asyncio.get_running_loop()
        rested_at = loop.time()
        for row, answer in zip(rows, answers, strict=True):
            row.tensors = {}
            if loop.time() - rested_at > HELD_UP_S_MAX:
                await asyncio.sleep(0)
                rested_at = loop.time()
            if answer is None:  # not wanted any more
                continue
            row.compute_ms = answer.compute_ms
            if isinstance(answer.outputs, InferenceError):
                self._fail(row, answer.outputs)
            else:
                self._decode(row, answer.outputs)

    def _decode(self, row: Row, outputs: Outputs) -> None:
        try:
            output = output_json(self._task.decode(self._model, row.ticket, outputs))
        except InferenceError as error:
            self._fail(row, error)
        else:
            row.succeed(output, self._parts.now_ms())

    def _fail(self, row: Row, error: ServiceError) -> None:
        """End the row, or have it tried again."""
        now_s = asyncio.get_running_loop().time()
        row.retry_in_s = retry_in_s(
            error,
            runs=row.runs,
            attempts_max=self._limits.attempts_max,
            waiting=self._waiting.count(now_s),
            jitter=random.random(),  # noqa: S311 - spreads load
        )
        if row.retry_in_s is None:
            row.fail(failure_of(error), self._parts.now_ms())
            return
        self._waiting.add(now_s + row.retry_in_s)
        self._meters.retried(error)

    def _keep_all(self, rows: Iterable[Row]) -> Coroutine[Any, Any, None] | None:
        """What keeps the inputs of all that may end now, if the policy says so.

        Those that are tried again later, or withdrawn meanwhile, leave blobs that expire in time.
        """
        if self._limits.keep_inputs != "all":
            return None
        return self._keep_inputs(row for row in rows if row.is_open or row.outcome is not None)

    async def _keep_failed(self, ended: Iterable[Row]) -> None:
        if self._limits.keep_inputs != "failed":
            return
        if keeping := self._keep_inputs(row for row in ended if _has_failed(row)):
            await keeping

    def _keep_inputs(self, rows: Iterable[Row]) -> Coroutine[Any, Any, None] | None:
        """Put the files that came inside their tickets where readers find them afterwards."""
        new = [
            NewBlob(row.ticket.id, file.content, file.sha256)
            for row in rows
            for file in row.ticket.files.values()
            if file.content is not None
        ]
        return self._put(new) if new else None

    async def _put(self, new: Sequence[NewBlob]) -> None:
        ride_out = self._parts.blobs_outage.ride_out
        await asyncio.gather(*(ride_out(put) for put in self._parts.blobs.puts(new)))

    async def _record(self, rows: Sequence[Row]) -> list[Outcome]:
        """Record every row's outcome; return those that the ledger had none for before."""
        began_s = time.perf_counter()
        inserted: set[PredictionId] = set()
        pending = rows
        while pending:
            ended = [Prediction(row.ticket, row.outcome) for row in pending]
            record = partial(self._parts.ledger.record, ended)
            try:
                inserted |= await self._parts.ledger_outage.ride_out(record)
                pending = []
            except Unrecordable as error:
                inserted |= error.recorded
                pending = [row for row in pending if row.id in error.reasons]
                for row in pending:
                    self._make_recordable(row)
        self._meters.record_seconds.observe(time.perf_counter() - began_s)
        return [row.outcome for row in rows if row.outcome is not None and row.id in inserted]

    async def _settle(self, row: Row) -> None:
        """Take the ticket out of the queue, or give it back for the next try.

        Lost or not, it changes nothing: a ticket that comes back finds its outcome or its count.
        """
        if row.retry_in_s is None:
            assert row.outcome is not None or row.delivery.withdrawn
            await row.delivery.ack()
        else:
            await row.delivery.give_back(row.retry_in_s)

    def _make_recordable(self, row: Row) -> None:
        """Leave out what the ledger may have refused: first how it ended, then the input."""
        if row.outcome is not None and row.outcome.error == _UNRECORDABLE:
            assert row.ticket.input, "the ledger refuses a prediction with nothing in it"
            row.ticket = msgspec.structs.replace(row.ticket, input={})
        row.fail(_UNRECORDABLE, self._parts.now_ms())


class _Meters:
    """The metrics of one model, looked up once."""

    def __init__(self, model: str) -> None:
        self.record_seconds = metrics.RECORD_SECONDS
        self.redelivered = metrics.REDELIVERED.labels(model)
        self.overdue = metrics.OVERDUE.labels(model)
        self._model = model
        self._withdrawn = metrics.DROPPED.labels(model)
        self._ended = {status: metrics.ENDED.labels(model, status.value) for status in Status}
        self._queue_seconds = {
            priority: metrics.QUEUE_SECONDS.labels(model, priority.value) for priority in Priority
        }

    def count(self, rows: Iterable[Row], recorded: Sequence[Outcome]) -> None:
        for status, count in Counter(outcome.status for outcome in recorded).items():
            self._ended[status].inc(count)
        for row in rows:
            if row.outcome is not None:
                seconds = row.outcome.queue_ms / 1000
                self._queue_seconds[row.ticket.priority].observe(seconds)
            elif row.retry_in_s is None:
                self._withdrawn.inc()

    def retried(self, error: ServiceError) -> None:
        metrics.RETRIES.labels(self._model, error.code).inc()


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None] | None) -> AsyncIterator[None]:
    """Do `work` beside the body, and leave once both are done. A body that fails takes it along."""
    if work is None:
        yield
        return
    task = asyncio.create_task(work)
    try:
        yield
        await task
    finally:
        task.cancel()


def _open(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.is_open]


def _has_failed(row: Row) -> bool:
    return row.outcome is not None and row.outcome.status is Status.FAILED
