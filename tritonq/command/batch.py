"""Runs one model over many files: submit, note, wait; resumable at every step.

The order of effects for a file: read → look into the journal → submit → note the id → wait.
An interruption between any two steps repeats none of them that the service would notice.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from tritonq.calls import FOR_EVER
from tritonq.client import AsyncClient
from tritonq.command.journal import Journal
from tritonq.errors import AcceptanceUnknown, InvalidInput, NotFound
from tritonq.inorder import Turns, in_order
from tritonq.inputs import Scalar, read_file
from tritonq.results import Item, Prediction, Priority, ended_item

ACCEPT_S_MAX = 5.0  # after a stop: how long submits on their way may take to be answered


@dataclass(frozen=True, slots=True)
class Job:
    """What is done with every file. `fields` are further input fields, the same for each."""

    model: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    priority: Priority = "normal"
    wait: bool = True


@dataclass(slots=True)
class Tally:
    """How far a batch has come. Written by `Batch`, read by whoever shows progress."""

    total: int
    submitted: int = 0
    resumed: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0  # submits without an answer


class Batch:
    """One run over files. Items come out in the order of the files."""

    def __init__(self, client: AsyncClient, job: Job, journal: Journal, total: int) -> None:
        self.tally = Tally(total)
        self._client = client
        self._job = job
        self._journal = journal
        self._turns = Turns()
        self._submitting: set[asyncio.Task[Prediction]] = set()

    async def run(
        self, files: Sequence[Path], *, concurrency: int
    ) -> AsyncGenerator[Item[Path], None]:
        """Yield what became of each file.

        A refused input and a failed prediction are items. What concerns every file (no such
        model, service away, token refused) is raised. However it ends, submits on their way are
        awaited and noted first.
        """
        try:
            async with aclosing(in_order(self._one, files, at_once_max=concurrency)) as items:
                async for item in items:
                    yield item
        finally:
            if self._submitting:
                await asyncio.wait(self._submitting, timeout=ACCEPT_S_MAX)

    async def _one(self, path: Path) -> Item[Path]:
        try:
            item = await self._outcome(path)
        except (InvalidInput, AcceptanceUnknown) as error:
            self.tally.unknown += isinstance(error, AcceptanceUnknown)
            item = Item(path, None, error)
        self.tally.done += 1
        self.tally.failed += item.error is not None
        return item

    async def _outcome(self, path: Path) -> Item[Path]:
        async with self._turns.submit:
            content, sha256 = await asyncio.to_thread(_read, path)
            prediction = await self._resumed(path, sha256) or await self._submitted(
                path, content, sha256
            )
        if not self._job.wait:
            return Item(path, prediction, None)
        if not prediction.has_ended:
            async with self._turns.wait:
                prediction = await self._client.get(prediction.id, wait_s=FOR_EVER)
        return ended_item(path, prediction)

    async def _resumed(self, path: Path, sha256: str) -> Prediction | None:
        """The prediction an earlier run submitted for this file, if the service still has it."""
        prediction_id = self._journal.find(str(path), sha256)
        if prediction_id is None:
            return None
        try:
            prediction = await self._client.get(prediction_id)
        except NotFound:
            return None
        self.tally.resumed += 1
        return prediction

    async def _submitted(self, path: Path, content: bytes, sha256: str) -> Prediction:
        # A stop cancels this wait but not the submit itself: an accepted prediction is noted.
        submitting = asyncio.ensure_future(self._submit(path, content, sha256))
        self._submitting.add(submitting)
        submitting.add_done_callback(self._answered)
        return await asyncio.shield(submitting)

    def _answered(self, submitting: asyncio.Task[Prediction]) -> None:
        self._submitting.discard(submitting)
        # After a stop nobody asks for the error of a submit any more; asyncio would complain.
        if not submitting.cancelled():
            submitting.exception()

    async def _submit(self, path: Path, content: bytes, sha256: str) -> Prediction:
        job = self._job
        prediction = await self._client.submit(
            job.model, content, fields=job.fields, priority=job.priority
        )
        self._journal.note(str(path), sha256, prediction.id)
        self.tally.submitted += 1
        return prediction


def _read(path: Path) -> tuple[bytes, str]:
    content = read_file(path).content
    return content, hashlib.sha256(content).hexdigest()
