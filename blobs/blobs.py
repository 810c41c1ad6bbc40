"""Put bytes, get them back by their sha256.

Content-addressed: the same name always means the same bytes, so a repeated put is harmless, two at
once agree, and what comes back is checked against its name.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256 as digest
from pathlib import Path
from typing import ClassVar

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore

from blobs.location import local_folder, local_store, remote_store
from contract.errors import BlobsUnavailable, ServiceError

log = logging.getLogger(__name__)

BLOB_BYTES_MAX = 256 * 1024 * 1024  # far above any request body: whatever is larger is not ours
CALL_S_MAX = 60.0  # one put or get, retries included

# Hashing takes half a millisecond a MiB; more than this would hold up the event loop.
_HASHED_IN_LOOP_BYTES_MAX = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobMissing(ServiceError):
    """No blob of that name, or what is there under it is something else. It will not come back."""

    code: ClassVar[str] = "blob_missing"


class Blobs:
    """A store of blobs, at `<first two digits>/<sha256>`. Safe to share between processes."""

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder  # None: the store is remote
        self._known_folders: set[Path] = set()  # whose own entries are on disk

    @classmethod
    def open(cls, url: str) -> "Blobs":
        """Open the store at `file:///folder`, `s3://bucket/prefix`, `gs://…` or `az://…`.

        A remote store is not asked for anything yet. A folder is made if it is not there.

        Raises:
            ValueError: not such a URL. BlobsUnavailable: the folder cannot be made.
        """
        folder = local_folder(url)
        return cls(remote_store(url) if folder is None else local_store(folder), folder)

    async def put(self, content: bytes, sha256: str) -> None:
        """Store a blob. Once this returns it is there whole, and outlives a power failure.

        Always writes, even over a blob of the same name. To look first would cost every new blob
        a request, would leave a damaged one damaged, and could rely on one that is about to be
        removed for its age.

        Args:
            content: at most BLOB_BYTES_MAX.
            sha256: of `content`, in lower-case hex; the caller's word is taken for it.

        Raises:
            BlobsUnavailable: not stored, as far as we know.
        """
        assert len(content) <= BLOB_BYTES_MAX
        path = _path(sha256)
        with _errors("put"):
            async with asyncio.timeout(CALL_S_MAX):
                if self._folder is None:
                    await obstore.put_async(self._store, path, content, use_multipart=False)
                else:
                    await asyncio.to_thread(self._put_on_disk, self._folder / path, content)

    async def get(self, sha256: str) -> bytes:
        """Fetch a blob.

        Raises:
            BlobMissing: not there, or damaged. BlobsUnavailable: the store does not answer.
        """
        path = _path(sha256)
        with _errors("get"):
            async with asyncio.timeout(CALL_S_MAX):
                result = await obstore.get_async(self._store, path)
                size = result.meta["size"]
                content = bytes(await result.bytes_async()) if size <= BLOB_BYTES_MAX else b""
        if await _sha256(content) != sha256:
            log.error("blobs.damaged", extra={"sha256": sha256, "bytes": size})
            raise BlobMissing(f"blob {sha256} is damaged")
        return content

    async def exists(self, sha256: str) -> bool:
        """Tell whether there is a blob of that name, without reading it."""
        try:
            with _errors("head"):
                async with asyncio.timeout(CALL_S_MAX):
                    await obstore.head_async(self._store, _path(sha256))
        except BlobMissing:
            return False
        return True

    def _put_on_disk(self, path: Path, content: bytes) -> None:
        """Write a file, and make the disk keep it: obstore renames it into place but never syncs.

        In one thread from beginning to end, which costs less than obstore's own hand-over.
        """
        assert self._folder is not None
        name = path.relative_to(self._folder).as_posix()
        obstore.put(self._store, name, content, use_multipart=False)
        _sync(path)
        _sync(path.parent)
        if path.parent not in self._known_folders:
            _sync(self._folder)
            self._known_folders.add(path.parent)


def _path(sha256: str) -> str:
    """Where a blob lies in its store.

    Raises:
        ValueError: not a sha256, so not a name that ever came from us.
    """
    if not _SHA256.fullmatch(sha256):
        raise ValueError("a blob is named by 64 digits of lower-case hex")
    return f"{sha256[:2]}/{sha256}"


async def _sha256(content: bytes) -> str:
    if len(content) <= _HASHED_IN_LOOP_BYTES_MAX:
        return digest(content).hexdigest()
    return await asyncio.to_thread(lambda: digest(content).hexdigest())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors(operation: str) -> Iterator[None]:
    """Turn what obstore raises into our errors."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if operation == "put":  # the folder was removed under us
            raise BlobsUnavailable("the blob store is gone") from error
        raise BlobMissing("there is no such blob") from None
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
