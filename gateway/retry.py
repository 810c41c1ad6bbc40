"""Retrying what has failed: the input it had, whole, for a new prediction."""

import asyncio

import msgspec

from blobs import BlobMissing, Blobs
from contract.errors import NotRetryable
from contract.prediction import File, Status, Ticket
from gateway.follow import Seen

# Failures after which the ledger does not have the input as it was sent.
INPUT_LOST = frozenset({"input_missing", "unreadable_ticket", "unrecordable"})


async def files_to_retry(seen: Seen, blobs: Blobs) -> dict[str, File]:
    """The files of a failed prediction's input, with their contents.

    Raises:
        NotRetryable: it has not failed, or its input was not kept whole.
        BlobsUnavailable: nobody can tell.
    """
    outcome = seen.outcome
    if outcome is None or outcome.status is not Status.FAILED:
        state = "has not ended" if outcome is None else f"has {_ENDED[outcome.status]}"
        raise NotRetryable(f"only what has failed is retried; this prediction {state}")
    assert outcome.error is not None
    if outcome.error.code in INPUT_LOST:
        raise NotRetryable("the input of this prediction was not kept")
    ticket = seen.ticket
    contents = await asyncio.gather(
        *(_content(ticket, file, blobs) for file in ticket.files.values())
    )
    return {
        name: msgspec.structs.replace(file, content=content)
        for (name, file), content in zip(ticket.files.items(), contents, strict=True)
    }


async def _content(ticket: Ticket, file: File, blobs: Blobs) -> bytes:
    if file.content is not None:  # ended just now, and read from its ticket
        return file.content
    try:
        return await blobs.get(ticket.id, file.sha256)
    except BlobMissing:
        raise NotRetryable("a file of this prediction's input was not kept") from None


_ENDED = {Status.SUCCEEDED: "succeeded", Status.CANCELED: "been canceled"}
