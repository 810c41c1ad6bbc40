"""From tensors to answers: one Triton request for as many rows as may share it.

A row that a model refuses, or dies of, ends alone; while the model is away its rows wait. Knows
nothing of tickets, tasks or the ledger.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.catalog import Lane, Model
from contract.errors import BatchFailed, InferenceError, ModelUnavailable
from dispatcher.health import ModelHealth
from inference import Triton
from tasks.base import Tensors
from telemetry import metrics

log = logging.getLogger(__name__)

# How often a model may go away under the same rows before they are taken for the cause.
DOWNFALLS_MAX = 4

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one row."""

    outputs: Outputs | InferenceError  # its arrays, without the batch dimension
    compute_ms: float  # of the Triton request that carried it


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
        self._suspects = asyncio.Lock()
        self._compute_seconds = metrics.COMPUTE_SECONDS.labels(model.name)
        self._batch_rows = metrics.BATCH_ROWS.labels(model.name)

    async def run(self, lane: Lane, rows: Sequence[Tensors]) -> list[Answer]:
        """Answer each row, in order. Waits while the model is away, however long that is.

        Args:
            rows: at most `max_batch_size`, without the batch dimension. Rows whose shapes differ
                go in different requests.
        """
        answers: dict[int, Answer] = {}
        for numbers in _grouped_by_shape(rows):
            alike = [rows[number] for number in numbers]
            answers.update(zip(numbers, await self._run_alike(lane, alike), strict=True))
        return [answers[number] for number in range(len(rows))]

    async def _run_alike(self, lane: Lane, rows: Sequence[Tensors]) -> list[Answer]:
        began_s = time.perf_counter()
        try:
            return await self._answers(lane, rows)
        except InferenceError as error:
            if len(rows) == 1:
                return [Answer(error, _ms_since(began_s))]
            # One bad row must not fail its neighbours: halve until it stands alone.
            log.warning("batch.halved", extra={"rows": len(rows), "reason": str(error)})
        middle = len(rows) // 2
        first = await self._run_alike(lane, rows[:middle])
        return first + await self._run_alike(lane, rows[middle:])

    async def _answers(self, lane: Lane, rows: Sequence[Tensors]) -> list[Answer]:
        """One request, repeated for as long as the model is away.

        Raises:
            ModelRejected, BatchFailed: Triton is up, and these rows are not for it.
        """
        try:
            return await self._request(lane, rows)
        except ModelUnavailable as error:
            await self._health.recover(error)
        # These rows may be what brought the model down, and so may those of other batches in
        # flight. One of those batches at a time, or the innocent ones would look as guilty.
        async with self._suspects:
            for _ in range(DOWNFALLS_MAX - 1):
                try:
                    return await self._request(lane, rows)
                except ModelUnavailable as error:
                    await self._health.recover(error)
        raise BatchFailed("the model went down each time it was given this input")

    async def _request(self, lane: Lane, rows: Sequence[Tensors]) -> list[Answer]:
        batches = self._model.max_batch_size > 0
        inputs = _stacked(rows) if batches else rows[0]
        began_s = time.perf_counter()
        outputs = await self._triton.infer(
            lane, inputs, self._output_names, timeout_s=self._timeout_s
        )
        compute_ms = _ms_since(began_s)
        self._compute_seconds.observe(compute_ms / 1000)
        self._batch_rows.observe(len(rows))
        if not batches:
            return [Answer(outputs, compute_ms)]
        for name, array in outputs.items():
            # Fewer or more rows than asked for would mix predictions up.
            if array.shape[:1] != (len(rows),):
                shape = list(array.shape)
                raise BatchFailed(f"the model answered {len(rows)} rows with {name} {shape}")
        return [
            Answer({name: array[number] for name, array in outputs.items()}, compute_ms)
            for number in range(len(rows))
        ]


def _grouped_by_shape(rows: Sequence[Tensors]) -> list[list[int]]:
    """The numbers of the rows that can be stacked, together, in order."""
    groups: dict[object, list[int]] = {}
    for number, tensors in enumerate(rows):
        shapes = tuple((name, array.dtype, array.shape) for name, array in tensors.items())
        groups.setdefault(shapes, []).append(number)
    return list(groups.values())


def _stacked(rows: Sequence[Tensors]) -> Tensors:
    return {name: np.stack([tensors[name] for tensors in rows]) for name in rows[0]}


def _ms_since(began_s: float) -> float:
    return (time.perf_counter() - began_s) * 1000
