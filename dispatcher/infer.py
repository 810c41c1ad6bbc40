"""From tensors to answers: one Triton request for as many rows as may share it.

A row that a model refuses, or dies of, ends alone; while the model is away its rows wait, unless
they are not wanted any more. Knows nothing of tickets, tasks or the ledger.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from contract.catalog import Lane, Model
from contract.errors import BatchFailed, InferenceError, ModelUnavailable
from dispatcher.health import ModelHealth
from inference import Input, Overran, Triton
from tasks.base import Tensors
from telemetry import metrics

log = logging.getLogger(__name__)

# How often a model may go away under the same row before it is taken for the cause; several rows
# together are taken apart after the second time.
DOWNFALLS_MAX = 4

Outputs = Mapping[str, NDArray[Any]]


class BroughtDown(BatchFailed):
    """The model went away each time it was given this input."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one row."""

    outputs: Outputs | InferenceError  # its arrays, without the batch dimension
    compute_ms: float  # of the Triton request that carried it


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows of one lane, on their way to the model."""

    lane: Lane
    rows: Sequence[Tensors]
    wanted: Callable[[int], bool]
    aside: Callable[[], AbstractAsyncContextManager[None]]


class Inference:
    """Sends the rows of one model to Triton."""

    def __init__(
        self, model: Model, triton: Triton, health: ModelHealth, *, timeout_s: float
    ) -> None:
        self._model = model
        self._triton = triton
        self._health = health
        self._timeout_s = timeout_s
        self._output_names = tuple(tensor.name for tensor in model.outputs)
        self._one_at_a_time = asyncio.Lock()
        self._compute_seconds = metrics.COMPUTE_SECONDS.labels(model.name)
        self._batch_rows = metrics.BATCH_ROWS.labels(model.name)

    async def run(
        self,
        lane: Lane,
        rows: Sequence[Tensors],
        *,
        wanted: Callable[[int], bool] = lambda _: True,
        aside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> list[Answer | None]:
        """Answer each row, in order. Waits while the model is away, however long that is.

        Args:
            rows: at most `max_batch_size`, without the batch dimension. Rows whose shapes differ
                go in different requests.
            wanted: asked of each row, by its number, right before a request would carry it. A row
                that is not wanted then has no answer.
            aside: entered while the model is away.
        """
        asked = _Asked(lane, rows, wanted, aside)
        answers: dict[int, Answer] = {}
        for numbers in _grouped_by_shape(rows):
            answers |= await self._run_alike(asked, numbers)
        return [answers.get(number) for number in range(len(rows))]

    async def _run_alike(self, asked: _Asked, numbers: Sequence[int]) -> dict[int, Answer]:
        began_s = time.perf_counter()
        try:
            return await self._answers(asked, numbers, hurried=len(numbers) > 1)
        except InferenceError as error:
            if len(numbers) == 1:
                return {numbers[0]: Answer(error, _ms_since(began_s))}
            if isinstance(error, Overran | BroughtDown):
                return await self._each_alone(asked, numbers)
            # One bad row must not fail its neighbours: halve until it stands alone.
            log.warning("batch.halved", extra={"rows": len(numbers), "code": error.code})
        middle = len(numbers) // 2
        first = await self._run_alike(asked, numbers[:middle])
        return first | await self._run_alike(asked, numbers[middle:])

    async def _each_alone(self, asked: _Asked, numbers: Sequence[int]) -> dict[int, Answer]:
        """Ask for one row at a time; those that are slow last, with all the time there is.

        Halving would cost a whole execution's time at each step, or another end of the model's
        process, and the neighbours of the bad row would wait for all of it.
        """
        log.warning("batch.taken_apart", extra={"rows": len(numbers)})
        answers: dict[int, Answer] = {}
        slow = []
        for number in numbers:
            try:
                answers |= await self._answers(asked, [number], hurried=True)
            except Overran:
                slow.append(number)
            except InferenceError as error:
                answers[number] = Answer(error, 0.0)
        for number in slow:
            answers |= await self._run_alike(asked, [number])
        return answers

    async def _answers(
        self, asked: _Asked, numbers: Sequence[int], *, hurried: bool
    ) -> dict[int, Answer]:
        """One request, repeated for as long as the model is away.

        Args:
            hurried: rather fail with `Overran` than take far longer than usual.

        Raises:
            ModelRejected, BatchFailed: Triton is up, and these rows are not for it.
        """
        try:
            return await self._request(asked, numbers, hurried=hurried)
        except ModelUnavailable as error:
            await self._recovered(asked, error)
        # These rows may be what brought the model down, and so may those of other batches in
        # flight. One of those batches at a time, or the innocent ones would look as guilty.
        async with self._one_at_a_time:
            # Each costs seconds: it is the single row that gets all of them.
            for _ in range(DOWNFALLS_MAX - 1 if len(numbers) == 1 else 1):
                try:
                    return await self._request(asked, numbers, hurried=hurried)
                except ModelUnavailable as error:
                    await self._recovered(asked, error, thorough=True)
        raise BroughtDown("the model went down each time it was given this input")

    async def _recovered(
        self, asked: _Asked, error: ModelUnavailable, *, thorough: bool = False
    ) -> None:
        async with asked.aside():
            await self._health.recover(error, thorough=thorough)

    async def _request(
        self, asked: _Asked, numbers: Sequence[int], *, hurried: bool
    ) -> dict[int, Answer]:
        numbers = [number for number in numbers if asked.wanted(number)]
        if not numbers:
            return {}
        rows = [asked.rows[number] for number in numbers]
        batches = self._model.max_batch_size > 0
        inputs: Mapping[str, Input] = _by_name(rows) if batches else rows[0]
        began_s = time.perf_counter()
        outputs = await self._triton.infer(
            asked.lane, inputs, self._output_names, timeout_s=self._timeout_s, hurried=hurried
        )
        compute_ms = _ms_since(began_s)
        self._compute_seconds.observe(compute_ms / 1000)
        self._batch_rows.observe(len(rows))
        if not batches:
            return {numbers[0]: Answer(outputs, compute_ms)}
        for name, array in outputs.items():
            # Fewer or more rows than asked for would mix predictions up.
            if array.shape[:1] != (len(rows),):
                shape = list(array.shape)
                raise BatchFailed(f"the model answered {len(rows)} rows with {name} {shape}")
        return {
            number: Answer({name: array[place] for name, array in outputs.items()}, compute_ms)
            for place, number in enumerate(numbers)
        }


def _grouped_by_shape(rows: Sequence[Tensors]) -> list[list[int]]:
    """The numbers of the rows that can be stacked, together, in order."""
    groups: dict[object, list[int]] = {}
    for number, tensors in enumerate(rows):
        shapes = tuple((name, array.dtype, array.shape) for name, array in tensors.items())
        groups.setdefault(shapes, []).append(number)
    return list(groups.values())


def _by_name(rows: Sequence[Tensors]) -> Mapping[str, Input]:
    return {name: [tensors[name] for tensors in rows] for name in rows[0]}


def _ms_since(began_s: float) -> float:
    return (time.perf_counter() - began_s) * 1000
