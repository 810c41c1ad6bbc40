"""Fills an empty installation from a backup.

The order is that of the effects: outcomes first, then the files of inputs, then the claims, the
queue last. So whatever a dispatcher meets in the queue has its input, and is known as ended where
it has ended. Cut off anywhere and done again, it goes on: the ledger is filled in one transaction
and remembers by which backup, and everything after that may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TypeVar

import msgspec

from archive import manifest as manifests
from archive.backup import Blob
from archive.files import pieces, records
from archive.manifest import CLAIMS, QUEUE, Manifest, table_file
from archive.parts import Parts, Report
from archive.refusals import NotEmptyYet
from archive.weeks import id_of_week
from broker import Carried, QueueLimits
from contract.queue import id_in_subject
from ledger import NotEmpty

T = TypeVar("T")

# What is on its way at once. Messages stay in order: they share one connection.
AT_ONCE_MAX = 64
AT_ONCE_BYTES_MAX = 16 * 1024 * 1024

_START_AFRESH = (
    "restore into an empty installation: another state folder, or another database and namespace"
)


async def restore(parts: Parts, folder: Path, report: Report) -> Manifest:
    """Restore the backup in `folder`. What was cut off is finished by doing it again.

    Raises:
        NotWhole, MadeByNewer: of the backup; nothing has been touched.
        NotEmptyYet: of the installation; nothing has been touched.
        DependencyError: a part is away; do it again.
    """
    manifest = manifests.read(folder)
    report("verifying", 0, None)
    await asyncio.to_thread(manifests.check_files, folder, manifest)
    return await _Restore(parts, folder, manifest, report).run()


class _Restore:
    """One restore on its way."""

    def __init__(self, parts: Parts, folder: Path, manifest: Manifest, report: Report) -> None:
        self._parts = parts
        self._folder = folder
        self._manifest = manifest
        self._report = report

    async def run(self) -> Manifest:
        ledger, transfer = self._parts.ledger, self._parts.broker.transfer
        await ledger.migrate()
        begun = await ledger.restoring()
        if begun not in (None, self._manifest.id):
            raise NotEmptyYet(
                "the restore of another backup was begun here and not finished; finish it, or "
                + _START_AFRESH
            )
        await transfer.prepare(self._limits())
        if begun is None:
            await self._require_empty_queue()
            await self._fill_ledger()
        await self._each_record(self._manifest.blob_files(), Blob, self._put_blobs)
        await self._each_record([CLAIMS], Carried, self._put_claims)
        await self._each_record([QUEUE], Carried, self._put_tickets)
        await ledger.restored()
        return self._manifest

    def _limits(self) -> QueueLimits:
        """Room for what is restored; the gateway sets its own limits when it starts."""
        usual = QueueLimits()
        queue, claims = self._manifest.files[QUEUE], self._manifest.files[CLAIMS]
        return QueueLimits(
            tickets_max=max(usual.tickets_max, queue.records),
            bytes_max=64 * 1024**2 + 2 * queue.size,
            claims_max=max(usual.claims_max, claims.records),
        )

    async def _require_empty_queue(self) -> None:
        queue, claims = await self._parts.broker.transfer.depths()
        if queue.tickets or claims.tickets:
            raise NotEmptyYet(f"the queue is in use already; {_START_AFRESH}")

    async def _fill_ledger(self) -> None:
        manifest = self._manifest
        self._report("ledger", 0, None)
        try:
            async with self._parts.ledger.filling(manifest.id) as filling:
                await filling.add_weeks(manifest.weeks)
                if manifest.horizon is not None:
                    await filling.move_horizon(manifest.horizon)
                for table, columns in manifest.tables.items():
                    source = pieces(self._folder / table_file(table))
                    rows = await filling.copy(table, columns, source)
                    self._report(table, rows, rows)
        except NotEmpty as error:
            raise NotEmptyYet(f"{error}; {_START_AFRESH}") from error

    async def _each_record(
        self, names: list[str], kind: type[T], put: Callable[[list[T]], Awaitable[None]]
    ) -> None:
        what = names[0].partition(".")[0]
        total = sum(self._manifest.files[name].records for name in names)
        done = 0
        self._report(what, done, total)
        for name in names:
            for chunk in _chunks(records(self._folder / name)):
                await put([msgspec.msgpack.decode(record, type=kind) for record in chunk])
                done += len(chunk)
                self._report(what, done, total)

    async def _put_blobs(self, blobs: list[Blob]) -> None:
        await asyncio.gather(
            *(
                self._parts.blobs.put(
                    id_of_week(date.fromisoformat(blob.week)), blob.content, blob.sha256
                )
                for blob in blobs
            )
        )

    async def _put_claims(self, claims: list[Carried]) -> None:
        await asyncio.gather(*map(self._parts.broker.transfer.put_claim, claims))

    async def _put_tickets(self, tickets: list[Carried]) -> None:
        """Put back what has not ended; the backup may have a ticket and its outcome."""
        ids = [id_in_subject(ticket.subject) for ticket in tickets]
        ended = await self._parts.ledger.ended(each for each in ids if each is not None)
        waiting = [ticket for ticket, id_ in zip(tickets, ids, strict=True) if id_ not in ended]
        await asyncio.gather(*map(self._parts.broker.transfer.put_ticket, waiting))


def _chunks(found: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Records, as many at a time as are on their way at once; one that is large has its own."""
    chunk: list[bytes] = []
    size = 0
    for record in found:
        size += len(record)
        if chunk and (len(chunk) == AT_ONCE_MAX or size > AT_ONCE_BYTES_MAX):
            yield chunk
            chunk, size = [], len(record)
        chunk.append(record)
    if chunk:
        yield chunk
