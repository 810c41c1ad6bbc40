"""From inputs to tensors: fetches files that travelled outside their ticket, decodes in threads.

Image decoding releases the GIL, so threads use every core while the loop goes on. A few plain
values are encoded sooner than a thread has woken.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from blobs import BlobMissing, Blobs
from contract.catalog import Model
from contract.errors import InvalidInput
from contract.ids import PredictionId
from contract.prediction import File, Ticket
from dispatcher.outages import Outage
from tasks.base import Task, Tensors


class InputMissing(InvalidInput):
    """A file of the input is not in the blobs any more."""

    code = "input_missing"


# Plain values that are encoded in the loop, within about 2 ms: a thread answers 0.25 ms later.
LIGHT_BYTES_MAX = 96 * 1024

Encoded = Tensors | InvalidInput  # an input that cannot be encoded fails alone


class Encoder:
    """The threads in which inputs are decoded, shared by all models of a dispatcher."""

    def __init__(self, threads: int, blobs: Blobs, blobs_outage: Outage) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._blobs = blobs
        self._outage = blobs_outage
        # Files fetched from the blobs are large: no more of them in memory than are being decoded.
        self._fetching = asyncio.Semaphore(threads)

    async def encode(
        self, task: Task, model: Model, tickets: Sequence[Ticket], *, size: int
    ) -> list[Encoded]:
        """Encode each ticket's input, in order. Waits while a file it needs cannot be fetched.

        Args:
            size: of all tickets together as they travelled, in bytes.
        """
        if size <= LIGHT_BYTES_MAX and not any(ticket.files for ticket in tickets):
            return [_encoded(task, model, ticket) for ticket in tickets]
        if all(_is_whole(ticket) for ticket in tickets):
            return await self._in_threads(task, model, tickets)
        return await asyncio.gather(*(self._one(task, model, ticket) for ticket in tickets))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _one(self, task: Task, model: Model, ticket: Ticket) -> Encoded:
        async with self._fetching:
            try:
                files = {
                    name: await self._fetched(ticket.id, name, file)
                    for name, file in ticket.files.items()
                }
            except InputMissing as error:
                return error
            whole = msgspec.structs.replace(ticket, files=files)
            return (await self._in_threads(task, model, [whole]))[0]

    async def _fetched(self, prediction_id: PredictionId, field: str, file: File) -> File:
        if file.content is not None:
            return file
        try:
            get = partial(self._blobs.get, prediction_id, file.sha256)
            content = await self._outage.ride_out(get)
        except BlobMissing as error:
            message = "this file is no longer stored"
            raise InputMissing(message, field=f"input.{field}", rule="stored") from error
        return msgspec.structs.replace(file, content=content)

    async def _in_threads(
        self, task: Task, model: Model, tickets: Sequence[Ticket]
    ) -> list[Encoded]:
        encoded: list[Encoded] = [{}] * len(tickets)
        # A job per thread and not per row, since a hop costs 50 µs. Whichever thread is free takes
        # the next row: `next` of this iterator is atomic.
        numbers = iter(range(len(tickets)))

        def work() -> None:
            for number in numbers:
                encoded[number] = _encoded(task, model, tickets[number])

        loop = asyncio.get_running_loop()
        jobs = min(self._threads, len(tickets))
        await asyncio.gather(*(loop.run_in_executor(self._pool, work) for _ in range(jobs)))
        return encoded


def _encoded(task: Task, model: Model, ticket: Ticket) -> Encoded:
    try:
        return task.encode(model, ticket)
    except InvalidInput as error:
        return error


def _is_whole(ticket: Ticket) -> bool:
    return all(file.content is not None for file in ticket.files.values())
