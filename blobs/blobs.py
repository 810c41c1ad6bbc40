"""Put bytes, get them back by their sha256.

Content-addressed: the same name always means the same bytes, so a repeated put is harmless, two at
once agree, and what comes back is checked against its name.

Blobs lie in folders by the week in which their prediction was accepted, as its row in the ledger
does, and expire with it. A blob is therefore never shared between weeks: no count of its users is
kept, and no new one can appear while a week is removed.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import partial
from hashlib import sha256 as digest
from pathlib import Path
from typing import ClassVar, NamedTuple

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore

from blobs.disk import Disk
from blobs.location import local_folder, local_store, remote_store
from contract.errors import BlobsUnavailable, ServiceError
from contract.ids import PredictionId, week_of

log = logging.getLogger(__name__)

BLOB_BYTES_MAX = 256 * 1024 * 1024  # far above any request body: whatever is larger is not ours
CALL_S_MAX = 60.0  # one put or get, retries included
_REMOVED_AT_ONCE = 1000  # S3 takes no more in one request
_LISTED_AT_ONCE = 1000

# Hashing takes half a millisecond a MiB; more than this would hold up the event loop.
_HASHED_IN_LOOP_BYTES_MAX = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEEK = re.compile(r"([0-9]{4})_([0-9]{2})_([0-9]{2})")


class BlobMissing(ServiceError):
    """No blob of that name, or what is there under it is something else. It will not come back."""

    code: ClassVar[str] = "blob_missing"


class NewBlob(NamedTuple):
    prediction_id: PredictionId  # says in which week the blob expires
    content: bytes  # at most BLOB_BYTES_MAX
    sha256: str  # of `content`, in lower-case hex; the caller's word is taken for it


class Blobs:
    """A store of blobs, at `<week>/<first two digits>/<sha256>`. Safe to share between processes.

    A week is the Monday in UTC, `2026_11_16`, as in the names of the ledger's partitions.
    """

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder  # None: the store is remote
        self._disk = None if folder is None else Disk(folder)

    @classmethod
    def open(cls, url: str) -> "Blobs":
        """Open the store at `file:///folder`, `s3://bucket/prefix`, `gs://…` or `az://…`.

        A remote store is not asked for anything yet. A folder is made if it is not there.

        Raises:
            ValueError: not such a URL. BlobsUnavailable: the folder cannot be made.
        """
        folder = local_folder(url)
        return cls(remote_store(url) if folder is None else local_store(folder), folder)

    async def put(self, prediction_id: PredictionId, content: bytes, sha256: str) -> None:
        """Store a blob, as `puts` does."""
        for store in self.puts([NewBlob(prediction_id, content, sha256)]):
            await store()

    def puts(self, blobs: Sequence[NewBlob]) -> list[Callable[[], Awaitable[None]]]:
        """What is to be done to store these, each part of it as often as it takes.

        Once a part has returned, its blobs are there whole, and outlive a power failure. In a
        folder all share the way to the disk, so there is one part; in a bucket each goes by itself.

        A bucket is always written to, even over a blob of the same name: to look first would cost
        every new blob a request, would leave a damaged one damaged, and could rely on one that is
        about to be removed for its age.

        Each part raises BlobsUnavailable: not stored, as far as we know.
        """
        assert all(len(each.content) <= BLOB_BYTES_MAX for each in blobs)
        named = [(_path(each.prediction_id, each.sha256), each.content) for each in blobs]
        if self._disk is None:
            return [partial(self._put, path, content) for path, content in named]
        return [partial(self._write, self._disk, named)] if named else []

    async def _put(self, path: str, content: bytes) -> None:
        with _errors("put"):
            async with asyncio.timeout(CALL_S_MAX):
                await obstore.put_async(self._store, path, content, use_multipart=False)

    async def _write(self, disk: Disk, named: Sequence[tuple[str, bytes]]) -> None:
        with _errors("put"):
            async with asyncio.timeout(CALL_S_MAX):
                await asyncio.to_thread(disk.write, named)

    async def get(self, prediction_id: PredictionId, sha256: str) -> bytes:
        """Fetch a blob of a prediction.

        Raises:
            BlobMissing: not there, or damaged. BlobsUnavailable: the store does not answer.
        """
        path = _path(prediction_id, sha256)
        with _errors("get"):
            async with asyncio.timeout(CALL_S_MAX):
                result = await obstore.get_async(self._store, path)
                size = result.meta["size"]
                content = bytes(await result.bytes_async()) if size <= BLOB_BYTES_MAX else b""
        if await _sha256(content) != sha256:
            log.error("blobs.damaged", extra={"sha256": sha256, "bytes": size})
            raise BlobMissing(f"blob {sha256} is damaged")
        return content

    async def exists(self, prediction_id: PredictionId, sha256: str) -> bool:
        """Tell whether there is a blob of that name, without reading it."""
        path = _path(prediction_id, sha256)
        try:
            with _errors("head"):
                async with asyncio.timeout(CALL_S_MAX):
                    await obstore.head_async(self._store, path)
        except BlobMissing:
            return False
        return True

    async def weeks(self) -> list[date]:
        """The weeks that have blobs, oldest first.

        Raises:
            BlobsUnavailable: the store does not answer.
        """
        with _errors("list"):
            async with asyncio.timeout(CALL_S_MAX):
                if self._folder is None:
                    found = await obstore.list_with_delimiter_async(self._store)
                    names = [prefix.rpartition("/")[2] for prefix in found["common_prefixes"]]
                else:
                    folders = await asyncio.to_thread(_entries, self._folder)
                    names = [folder.name for folder in folders]
        # Whatever else somebody keeps there is none of ours.
        return sorted(week for week in map(_week, names) if week is not None)

    async def names(self, week: date) -> AsyncIterator[str]:
        """The names (sha256) of a week's blobs, in no order.

        What is put or removed meanwhile may be among them or not.

        Raises:
            BlobsUnavailable: the store does not answer.
        """
        with _errors("list"):
            listing = obstore.list(self._store, _name(week), chunk_size=_LISTED_AT_ONCE)
            async for listed in listing:
                for each in listed:
                    name = each["path"].rpartition("/")[2]
                    if _SHA256.fullmatch(name):  # else a killed process left it
                        yield name

    async def remove_week(self, week: date) -> int:
        """Remove every blob of a week.

        Cut off in the middle, or done by two at once, it leaves what a repetition removes.

        Returns:
            How many blobs this call removed.

        Raises:
            BlobsUnavailable: some are left, as far as we know.
        """
        with _errors("remove"):
            if self._folder is not None and self._disk is not None:
                folder = self._folder / _name(week)
                self._disk.forget(folder)
                return await asyncio.to_thread(_remove_on_disk, folder)
            removed = 0
            listing = obstore.list(self._store, _name(week), chunk_size=_REMOVED_AT_ONCE)
            async for listed in listing:
                async with asyncio.timeout(CALL_S_MAX):
                    await obstore.delete_async(self._store, [each["path"] for each in listed])
                removed += len(listed)
            return removed


def _path(prediction_id: PredictionId, sha256: str) -> str:
    """Where a blob lies in its store.

    Raises:
        ValueError: not a sha256, so not a name that ever came from us.
    """
    if not _SHA256.fullmatch(sha256):
        raise ValueError("a blob is named by 64 digits of lower-case hex")
    return f"{_name(week_of(prediction_id))}/{sha256[:2]}/{sha256}"


def _name(week: date) -> str:
    return f"{week:%Y_%m_%d}"


def _week(name: str) -> date | None:
    """The week a folder is named after; None where it is named after none."""
    parts = _WEEK.fullmatch(name)
    if parts is None:
        return None
    try:
        return date(*map(int, parts.groups()))
    except ValueError:
        return None


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if it is gone."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _remove_on_disk(week: Path) -> int:
    """Remove a week's folder; returns how many blobs were in it."""
    removed = 0
    for folder in _entries(week):
        for blob in _entries(folder):
            with suppress(FileNotFoundError):  # somebody else removes the same week
                blob.unlink()
                removed += _SHA256.fullmatch(blob.name) is not None
        _remove_folder(folder)
    _remove_folder(week)
    return removed


def _remove_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rmdir()


async def _sha256(content: bytes) -> str:
    if len(content) <= _HASHED_IN_LOOP_BYTES_MAX:
        return digest(content).hexdigest()
    return await asyncio.to_thread(lambda: digest(content).hexdigest())


@contextmanager
def _errors(operation: str) -> Iterator[None]:
    """Turn what obstore raises into our errors."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if operation in ("get", "head"):
            raise BlobMissing("there is no such blob") from None
        # The folder was removed under us, or somebody else removes the same week: GCS and Azure
        # refuse to delete what is gone already.
        raise BlobsUnavailable("what was asked for is gone from the blob store") from error
    except (BaseError, OSError) as error:  # TimeoutError is an OSError
        # Without the cause: obstore's message dumps the request, query and all.
        log.warning(
            "blobs.failed",
            extra={"operation": operation, "error": type(error).__name__, "reason": _reason(error)},
        )
        raise BlobsUnavailable("the blob store does not answer") from None


def _reason(error: Exception) -> str:
    """The first line of an error, without the query of any URL in it: Azure signs in there."""
    first, _, _ = str(error).partition("\n")
    return re.sub(r"\?\S*", "?…", first)[:500]
