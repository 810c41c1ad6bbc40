"""The order of effects: look up, encode, infer, decode, keep, record, announce, ack. Only here.

The outcome is in the ledger before its ticket leaves the queue, so a crash between any two steps
repeats work and loses none. The ledger keeps the first outcome of a prediction, so a repeat
changes nothing; and only the outcome it kept is announced.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from blobs import Blobs
from broker import Broker, Delivery
from contract.catalog import Lane, Model
from contract.errors import InferenceError, InvalidInput, UnknownModel
from contract.ids import PredictionId
from contract.prediction import Failure, Outcome, Prediction, Priority, Status
from dispatcher.batching import Batch
from dispatcher.encode import Encoder
from dispatcher.health import ModelHealth
from dispatcher.infer import Inference, Outputs
from dispatcher.outages import Outage
from dispatcher.outputs import failure_of, output_json
from dispatcher.row import Row
from inference import Triton
from ledger import Ledger, Unrecordable
from tasks.base import Task
from telemetry import metrics

log = logging.getLogger(__name__)

KeepInputs = Literal["all", "failed", "none"]

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
        self._meters = _Meters(model.name)

    async def run(self, batch: Batch[Delivery], inferred: Callable[[], None]) -> None:
        """Bring every row of `batch` to its outcome, and its ticket out of the queue.

        `inferred` is called once Triton is no longer needed, so that the next batch may begin.
        """
        parts = self._parts
        began_at_ms = parts.now_ms()
        rows = [Row(delivery, delivery.ticket, began_at_ms) for delivery in batch.rows]
        try:
            rows = await self._without_ended(rows)
            self._refuse(rows)
            await self._encode(_open(rows))
            await self._infer(batch.lane, _open(rows))
        finally:
            inferred()
        await self._keep_inputs(rows)
        recorded = await self._record(rows)
        await parts.broker.announce(recorded)
        for row in rows:
            await row.delivery.ack()
        self._meters.count(rows, recorded)

    async def _without_ended(self, rows: list[Row]) -> list[Row]:
        """Ack the redelivered rows that have ended already, and return the others."""
        redelivered = [row.id for row in rows if row.delivery.attempt > 1]
        if not redelivered:
            return rows
        self._meters.redelivered.inc(len(redelivered))
        ended = await self._parts.ledger_outage.ride_out(
            partial(self._parts.ledger.ended, redelivered)
        )
        for row in rows:
            if row.id in ended:
                await row.delivery.ack()
        return [row for row in rows if row.id not in ended]

    def _refuse(self, rows: Iterable[Row]) -> None:
        """End what is not to be run: a version that is gone, attempts that never came to an end."""
        for row in rows:
            if row.delivery.attempt > self._limits.attempts_max:
                message = f"given up: {self._limits.attempts_max} attempts came to no end"
                row.fail(Failure("attempts_exhausted", message), self._parts.now_ms())
                log.error("prediction.exhausted", extra={"prediction": row.id})
            elif row.ticket.version not in self._model.versions:
                message = f"model {self._model.name} is not served in version {row.ticket.version}"
                row.fail(Failure(UnknownModel.code, message), self._parts.now_ms())

    async def _encode(self, rows: Sequence[Row]) -> None:
        tickets = [row.ticket for row in rows]
        encoded = await self._parts.encoder.encode(self._task, self._model, tickets)
        for row, result in zip(rows, encoded, strict=True):
            if isinstance(result, InvalidInput):
                row.fail(failure_of(result), self._parts.now_ms())
            else:
                row.tensors = result

    async def _infer(self, lane: Lane, rows: Sequence[Row]) -> None:
        answers = await self._inference.run(lane, [row.tensors for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            row.tensors, row.compute_ms = {}, answer.compute_ms
            if isinstance(answer.outputs, InferenceError):
                row.fail(failure_of(answer.outputs), self._parts.now_ms())
            else:
                self._decode(row, answer.outputs)

    def _decode(self, row: Row, outputs: Outputs) -> None:
        try:
            output = output_json(self._task.decode(self._model, row.ticket, outputs))
        except InferenceError as error:
            row.fail(failure_of(error), self._parts.now_ms())
        else:
            row.succeed(output, self._parts.now_ms())

    async def _keep_inputs(self, rows: Iterable[Row]) -> None:
        """Put the files that came inside their tickets where readers find them afterwards."""
        policy = self._limits.keep_inputs
        puts = [
            self._parts.blobs_outage.ride_out(
                partial(self._parts.blobs.put, row.ticket.id, file.content, file.sha256)
            )
            for row in rows
            if policy == "all" or (policy == "failed" and _has_failed(row))
            for file in row.ticket.files.values()
            if file.content is not None
        ]
        if puts:
            await asyncio.gather(*puts)

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


def _open(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.outcome is None]


def _has_failed(row: Row) -> bool:
    return row.outcome is not None and row.outcome.status is Status.FAILED
