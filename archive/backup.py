"""Takes a backup of an installation, while it works or while it rests.

The order makes it whole without stopping anybody: first the queue, then the ledger, the claims,
the blobs. What ends meanwhile is recorded before it leaves the queue, so it is in the one, in the
other, or in both; both is harmless, because an outcome is recorded once. A claim is made before
its ticket and a blob put before it, so these come last: a claim or a blob too many does no harm.
"""

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from archive import manifest as manifests
from archive.files import Writer, Written, sync_folder, writing
from archive.manifest import CLAIMS, FORMAT, QUEUE, Manifest, blob_file, table_file
from archive.parts import Parts, Report
from archive.refusals import FolderTaken, NeverStarted, WrongSchema
from archive.weeks import id_of_week
from blobs import BlobMissing
from broker import Carried, NotDeclared
from ledger import COPIED, SCHEMA_VERSION, Snapshot

log = logging.getLogger(__name__)

BLOB_FILE_BYTES_MAX = 1024**3  # then the next file is begun; one blob more may be in it


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """One blob, as a record."""

    week: str
    sha256: str
    content: bytes


async def back_up(parts: Parts, folder: Path, report: Report) -> Manifest:
    """Write a backup to `folder`, which appears only when it is complete and verified.

    It has everything that was accepted before this was called.

    Raises:
        FolderTaken: `folder` is there. WrongSchema: of the ledger. CannotWrite.
        NeverStarted: there is no queue to copy.
        DependencyError: a part is away, and there is no backup.
    """
    with _begun(folder) as unfinished:
        manifest = await _Backup(parts, unfinished, report).take()
        report("verifying", 0, None)
        await asyncio.to_thread(manifests.check_files, unfinished, manifest)
        await manifests.write(unfinished, manifest)
        with writing(folder):
            unfinished.rename(folder)
        sync_folder(folder.parent)
    return manifest


@contextmanager
def _begun(folder: Path) -> Iterator[Path]:
    """Make the folder that becomes `folder` once the backup is complete; gone if that fails."""
    if folder.exists():
        raise FolderTaken(f"{folder} is there already; name a folder that is not")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with writing(unfinished):
        unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(f"another backup is being written to {folder}") from None
        with writing(unfinished):
            for left in unfinished.iterdir():  # by a backup that was cut off
                left.unlink()
        try:
            yield unfinished
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


class _Backup:
    """One backup on its way."""

    def __init__(self, parts: Parts, folder: Path, report: Report) -> None:
        self._parts = parts
        self._folder = folder
        self._report = report
        self._files: dict[str, Written] = {}
        self._missing = 0

    async def take(self) -> Manifest:
        made_at = datetime.now(UTC)
        transfer = self._parts.broker.transfer
        try:
            queue, claims = await transfer.depths()
        except NotDeclared as error:
            raise NeverStarted(
                "this release has never been started on this installation; start it once, so that "
                "its queue is made, or name another with --state"
            ) from error
        await self._messages(QUEUE, transfer.tickets(), queue.tickets)
        async with self._parts.ledger.snapshot() as snapshot:
            schema = await snapshot.schema_version()
            if schema != SCHEMA_VERSION:
                raise WrongSchema(
                    f"the ledger has schema version {schema}, and this release knows "
                    f"{SCHEMA_VERSION}: use the release that runs there"
                )
            weeks, horizon = await snapshot.weeks(), await snapshot.horizon()
            for table in COPIED:
                await self._table(table, snapshot)
        await self._messages(CLAIMS, transfer.claims(), claims.tickets)
        await self._blobs()
        sync_folder(self._folder)
        return Manifest(
            format=FORMAT,
            id=secrets.token_hex(8),
            product=version("tritonq"),
            schema=schema,
            made_at=made_at,
            weeks=weeks,
            horizon=horizon,
            tables={table: list(columns) for table, columns in COPIED.items()},
            files=self._files,
            blobs_missing=self._missing,
        )

    async def _messages(self, name: str, messages: AsyncIterator[Carried], total: int) -> None:
        what = name.partition(".")[0]
        with Writer(self._folder / name) as file:
            done = 0
            async for message in messages:
                await file.append(msgspec.msgpack.encode(message))
                done += 1
                self._report(what, done, max(done, total))
        self._files[name] = file.written()

    async def _table(self, table: str, snapshot: Snapshot) -> None:
        rows = 0
        with Writer(self._folder / table_file(table)) as file:

            async def write(piece: bytes) -> None:
                nonlocal rows
                rows += piece.count(b"\n")  # the text form has one at the end of a row only
                await file.write(piece)
                self._report(table, rows, None)

            rows = await snapshot.copy(table, write)
        self._files[table_file(table)] = file.written(records=rows)

    async def _blobs(self) -> None:
        listed = self._each_blob()
        done, number, more = 0, 0, True
        while more:
            number, more = number + 1, False
            with Writer(self._folder / blob_file(number)) as file:
                async for blob in listed:
                    await file.append(msgspec.msgpack.encode(blob))
                    done += 1
                    self._report("blobs", done, None)
                    if file.size > BLOB_FILE_BYTES_MAX:
                        more = True
                        break
            self._files[blob_file(number)] = file.written()

    async def _each_blob(self) -> AsyncIterator[Blob]:
        blobs = self._parts.blobs
        for week in await blobs.weeks():
            async for sha256 in blobs.names(week):
                try:
                    content = await blobs.get(id_of_week(week), sha256)
                except BlobMissing as error:  # just removed with its week, or damaged
                    log.warning("backup.blob_missing", extra={"blob": sha256, "why": str(error)})
                    self._missing += 1
                else:
                    yield Blob(week.isoformat(), sha256, content)
