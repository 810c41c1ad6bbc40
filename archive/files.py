"""The files of a backup: written once, counted and hashed on the way, and on the disk when closed.

A file of records holds, for each, its length (4 bytes, the most significant first) and that many
bytes of MessagePack. Nothing is ever read into memory but one record, or one piece of a file.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from archive.refusals import CannotWrite, NotWhole
from blobs import BLOB_BYTES_MAX

PIECE_BYTES = 1024 * 1024
RECORD_BYTES_MAX = BLOB_BYTES_MAX + 64 * 1024
_LENGTH_BYTES = 4


class Written(msgspec.Struct, frozen=True):
    """What is known of a finished file."""

    size: int  # bytes
    sha256: str
    records: int


class Writer:
    """Writes one new file. Leaving its block makes the disk keep it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0  # bytes, so far
        self._records = 0
        self._buffer = bytearray()  # rows come one by one

    def __enter__(self) -> Self:
        with writing(self._path):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._empty_buffer()
                with writing(self._path):
                    os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    async def write(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)
        self._buffer += piece
        if len(self._buffer) >= PIECE_BYTES:
            self._empty_buffer()

    def _empty_buffer(self) -> None:
        with writing(self._path), memoryview(self._buffer) as left:
            written = 0
            while written < len(left):
                written += os.write(self._descriptor, left[written:])
        self._buffer.clear()

    async def append(self, record: bytes) -> None:
        """Add a record to a file of records."""
        assert len(record) <= RECORD_BYTES_MAX
        await self.write(len(record).to_bytes(_LENGTH_BYTES, "big"))
        await self.write(record)
        self._records += 1

    def written(self, *, records: int | None = None) -> Written:
        """What the file has become; `records` where it is no file of records."""
        count = self._records if records is None else records
        return Written(self.size, self._hash.hexdigest(), count)


def check(path: Path, expected: Written) -> None:
    """Make sure that a file is what was written. Blocks.

    Raises:
        NotWhole: it is missing, shorter, longer, or altered.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size == expected.size:
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
    except FileNotFoundError:
        raise NotWhole(f"{path.name} is missing from the backup") from None
    if size != expected.size:
        raise NotWhole(f"{path.name} has {size} bytes, and had {expected.size} when it was made")
    if digest.hexdigest() != expected.sha256:
        raise NotWhole(f"{path.name} has been altered since the backup was made")


def records(path: Path) -> Iterator[bytes]:
    """Read a file of records that `check` has passed.

    Raises:
        NotWhole: it is no file of records after all.
    """
    with path.open("rb") as file:
        while head := file.read(_LENGTH_BYTES):
            length = int.from_bytes(head, "big")
            if len(head) < _LENGTH_BYTES or length > RECORD_BYTES_MAX:
                raise NotWhole(f"{path.name} is not made of records")
            record = file.read(length)
            if len(record) < length:
                raise NotWhole(f"{path.name} ends in the middle of a record")
            yield record


async def pieces(path: Path) -> AsyncIterator[bytes]:
    """Read a file in pieces."""
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def sync_folder(path: Path) -> None:
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk is a sentence, and never mistaken for an error of what is being read."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from error
