"""Runs one model over many files: submit, note, wait; resumable at every step.

The order of effects for a file: read → look into the journal → submit with the key that the journal
makes of it → note the id → wait. An interruption between any two steps, a kill among them, repeats
none of them that the service would notice.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from tritonq.calls import FOR_EVER
from tritonq.client import AsyncClient
from tritonq.command.journal import Begun, Journal
from tritonq.errors import (
    AcceptanceUnknown,
    Expired,
    InvalidInput,
    KeyReused,
    NotFound,
    TritonqError,
)
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
    cancel_after: str | None = None
    wait: bool = True


@dataclass(slots=True)
class Tally:
    """How far a batch has come. Written by `Batch`, read by whoever shows progress."""

    total: int
    submitted: int = 0
    resumed: int = 0
    done: int = 0
    failed: int = 0
    in_doubt: int = 0  # submits of which nobody knows yet whether they were accepted


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
        except (InvalidInput, KeyReused, Expired) as error:
            if isinstance(error, InvalidInput) and _concerns_all(error):
                raise
            item = Item(path, None, error)
        self.tally.done += 1
        self.tally.failed += item.error is not None
        return item

    async def _outcome(self, path: Path) -> Item[Path]:
        async with self._turns.submit:
            content, sha256 = await asyncio.to_thread(_read, path)
            prediction, gone = await self._resumed(path, sha256)
            if prediction is None:
                prediction = await self._submitted(path, content, sha256, instead_of=gone)
        if not self._job.wait:
            return Item(path, prediction, None)
        if not prediction.has_ended:
            async with self._turns.wait:
                prediction = await self._client.get(prediction.id, wait_s=FOR_EVER)
        return ended_item(path, prediction)

    async def _resumed(self, path: Path, sha256: str) -> tuple[Prediction | None, str]:
        """The prediction an earlier run submitted for this file; its id, if it is gone."""
        prediction_id = self._journal.find(str(path), sha256)
        if prediction_id is None:
            return None, ""
        try:
            prediction = await self._client.get(prediction_id)
        except NotFound:
            return None, prediction_id
        self.tally.resumed += 1
        return prediction, ""

    async def _submitted(
        self, path: Path, content: bytes, sha256: str, *, instead_of: str
    ) -> Prediction:
        # A stop cancels this wait but not the submit itself: an accepted prediction is noted.
        submitting = asyncio.ensure_future(self._submit(path, content, sha256, instead_of))
        self._submitting.add(submitting)
        submitting.add_done_callback(self._answered)
        return await asyncio.shield(submitting)

    def _answered(self, submitting: asyncio.Task[Prediction]) -> None:
        self._submitting.discard(submitting)
        # After a stop nobody asks for the error of a submit any more; asyncio would complain.
        if not submitting.cancelled():
            submitting.exception()

    async def _submit(self, path: Path, content: bytes, sha256: str, instead_of: str) -> Prediction:
        begun = self._journal.begin(self._job.priority, self._job.cancel_after)
        for gone in (instead_of, "expired"):
            key = self._journal.key(str(path), sha256, instead_of=gone)
            try:
                prediction = await self._submit_once(content, begun, key)
            except Expired:
                continue  # accepted by an earlier run that was killed, and no longer kept
            self._journal.note(str(path), sha256, prediction.id)
            self.tally.submitted += 1
            return prediction
        raise Expired("what was submitted for this file is no longer kept; --fresh starts over")

    async def _submit_once(self, content: bytes, begun: Begun, key: str) -> Prediction:
        self.tally.in_doubt += 1  # until there is an answer that says something about it
        try:
            prediction = await self._client.submit(
                self._job.model,
                content,
                fields=self._job.fields,
                priority=begun.priority,
                cancel_after=begun.cancel_after,
                idempotency_key=key,
            )
        except AcceptanceUnknown:
            raise
        except TritonqError:
            self.tally.in_doubt -= 1
            raise
        self.tally.in_doubt -= 1
        return prediction


def _concerns_all(refusal: InvalidInput) -> bool:
    """Whether it refuses what is the same for every file, and no file's fault."""
    return refusal.field == "cancel_after" or refusal.field.startswith("header.")


def _read(path: Path) -> tuple[bytes, str]:
    content = read_file(path).content
    return content, hashlib.sha256(content).hexdigest()
