"""Writes blobs into a folder, many at a time, so that they outlive a power failure.

Blocks: for a thread. Knows names and bytes, nothing of weeks or predictions.

What is made durable one file at a time costs a commit of the file system's journal each. Where the
file system is one that can be relied on for it, one call makes all files of a job durable.
"""

import ctypes
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

# syncfs promises what an fsync of every file would: of these file systems we know that they keep
# it (others only start writing, or do nothing), and of Linux since 5.8 that it reports errors.
_SYNCED_WHOLE = {0xEF53: "ext4", 0x58465342: "xfs"}
_KERNEL_MIN = (5, 8)
# It writes everybody's files. Where somebody else has left this much unwritten, ours do not wait
# for it, but are synced one by one.
UNWRITTEN_BYTES_MAX = 64 * 1024 * 1024

_LIBC = ctypes.CDLL(None, use_errno=True)


class Disk:
    """A folder of blobs. Safe for many threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced_whole = _kernel() >= _KERNEL_MIN and _kind_of(folder) in _SYNCED_WHOLE
        self._known_folders: set[Path] = set()  # whose own entries are on disk

    def write(self, blobs: Iterable[tuple[str, bytes]]) -> None:
        """Write files, given by their paths within the folder. On return all outlive a power cut.

        A file that holds these bytes already is left as it is, and made durable: whoever wrote it
        may not have got so far. So nothing ever replaces a good blob, whole or not.

        Raises:
            OSError: some are not written, or not durable.
        """
        # Opened first: syncfs reports what could not be written since then.
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            paths = []
            for name, content in blobs:
                paths.append(self._folder / name)
                _place(paths[-1], content)
            if self._synced_whole and _unwritten_bytes() <= UNWRITTEN_BYTES_MAX:
                _sync_all(descriptor)
            else:
                self._sync_each(paths)
        finally:
            os.close(descriptor)

    def forget(self, folder: Path) -> None:
        """What is in `folder` was removed: the way to what comes next has to be synced again."""
        self._known_folders = {each for each in self._known_folders if each.parent != folder}

    def _sync_each(self, paths: Sequence[Path]) -> None:
        for path in paths:
            _sync(path)
        for folder in dict.fromkeys(path.parent for path in paths):
            _sync(folder)
            if folder not in self._known_folders:
                _sync(folder.parent)  # the week's folder
                _sync(self._folder)
                self._known_folders.add(folder)


def _place(path: Path, content: bytes) -> None:
    """Have `content` at `path`, whole at every moment; not durable yet."""
    if _holds(path, content):
        return
    # Its name is no blob's: a killed process leaves it, and it goes with its week.
    temporary = Path(f"{path}#{secrets.randbits(63)}")
    try:
        _write(temporary, content)
        try:
            os.link(temporary, path)  # a rename could replace a good one, just made durable
        except OSError:  # there is one now, or this file system has no links
            if not _holds(path, content):
                _sync(temporary)
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    try:
        file = path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    with file:
        file.write(content)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _sync_all(descriptor: int) -> None:
    if _LIBC.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten_bytes() -> int:
    """What all processes together have written that is on no disk yet."""
    with Path("/proc/meminfo").open("rb") as file:
        for line in file:
            if line.startswith(b"Dirty:"):
                return int(line.split()[1]) * 1024
    return UNWRITTEN_BYTES_MAX + 1


def _kind_of(folder: Path) -> int:
    """The number of the folder's file system in statfs(2); 0 where nobody tells."""
    answer = ctypes.create_string_buffer(256)  # a struct statfs has 120 bytes; its kind comes first
    if _LIBC.statfs(os.fsencode(folder), answer):
        return 0
    return ctypes.c_long.from_buffer(answer).value


def _kernel() -> tuple[int, ...]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)
