"""Remembers what a `run` has submitted, so that the same command again submits nothing twice.

One file per command (service, model, inputs and arguments). Its first line begins the run: a word
nobody has used, of which the idempotency key of each file is made, and the terms on which the run
submits. It is on the disk before the first submit. Then one line per accepted prediction. The file
is removed when every file has an outcome, so a finished command starts afresh the next time.

Each line is one `write`: whatever ends the process leaves whole lines and at most one torn one. A
submit whose line is missing (killed between acceptance and line) is made again with the same key,
and the service answers it with the prediction that was accepted.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import msgspec

from tritonq.results import Priority

KEPT_S = 30 * 86_400.0  # a journal nobody came back to within a month is forgotten


class RunningAlready(Exception):
    """The same command is running in another process."""


class Begun(msgspec.Struct, frozen=True):
    """The first line of a run. It goes on as it was begun: a key stands for one request."""

    run: str
    priority: Priority = "normal"
    cancel_after: str | None = None


class _Accepted(msgspec.Struct, frozen=True):
    file: str
    sha256: str
    id: str


class Journal:
    """The predictions of one command, by file and content. Held by one process at a time.

    Attributes:
        begun: how the run began; None before its first submit.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.begun: Begun | None = None
        self._descriptor = descriptor
        self._known: dict[tuple[str, str], str] = {}
        self._is_torn = False  # its last line is not whole
        self._read()

    @classmethod
    def open(cls, folder: Path, key: str) -> Self:
        """Open the journal of the command `key`; begin one where there is none.

        Raises:
            RunningAlready: another process holds it.
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _forget_old(folder)
        path = folder / f"{key}.jsonl"
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise RunningAlready("the same command is running already") from None
            # Its last holder may have removed the file between our open and our lock.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return cls(path, descriptor)
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, priority: Priority, cancel_after: str | None) -> Begun:
        """How this run submits: as it was begun, or else as said here."""
        if self.begun is None:
            begun = Begun(uuid4().hex, priority, cancel_after)
            self._append(begun)
            # Once, and before the first submit: every key of the run depends on this line.
            os.fsync(self._descriptor)
            _sync_folder(self.path.parent)
            self.begun = begun
        return self.begun

    def key(self, file: str, sha256: str, *, instead_of: str = "") -> str:
        """The idempotency key of this content of this file, the same whenever it is asked for.

        Args:
            instead_of: the id of the prediction that it had before and that is gone.
        """
        assert self.begun is not None, "a run is begun before its first submit"
        told = json.dumps([self.begun.run, _place(file), sha256, instead_of])
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def find(self, file: str, sha256: str) -> str | None:
        """The id under which this content of this file was accepted before."""
        return self._known.get((_place(file), sha256))

    def note(self, file: str, sha256: str, prediction_id: str) -> None:
        self._known[_place(file), sha256] = prediction_id
        self._append(_Accepted(_place(file), sha256, prediction_id))

    def forget(self) -> None:
        """Forget everything: each file has its outcome, or the caller starts over."""
        self._known.clear()
        self.begun = None
        self._is_torn = False
        os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of the journal; an empty one is removed."""
        if not self._known and self.begun is None:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _append(self, entry: Begun | _Accepted) -> None:
        line = (b"\n" if self._is_torn else b"") + msgspec.json.encode(entry) + b"\n"
        written = os.write(self._descriptor, line)
        self._is_torn = written < len(line)
        if self._is_torn:  # as a disk that has just become full does it, without any error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _read(self) -> None:
        content = self.path.read_bytes()
        for text in content.splitlines():
            try:
                line = msgspec.json.decode(text, type=_Accepted)
                self._known[line.file, line.sha256] = line.id
            except ValueError:  # the first line; or torn by the end of the process that wrote it
                with contextlib.suppress(ValueError):
                    self.begun = msgspec.json.decode(text, type=Begun)
        self._is_torn = bool(content) and not content.endswith(b"\n")


def key_of(url: str, model: str, fields: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """The name of a command's journal; the same command in the same place has the same."""
    absolute = [os.path.abspath(argument) for argument in arguments]  # noqa: PTH100 - may be a pattern
    told = json.dumps([url, model, fields, absolute], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def journal_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tritonq" / "runs"


def _place(file: str) -> str:
    """Where a file is, from wherever it is looked at, as JSON can carry it: a name may hold bytes
    that are no text."""
    absolute = os.path.abspath(file)  # noqa: PTH100 - a link stays one
    return absolute.encode(errors="backslashreplace").decode()


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file as lasting as its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_old(folder: Path) -> None:
    oldest = time.time() - KEPT_S
    for path in folder.glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # another run has just finished
            if path.stat().st_mtime < oldest:
                path.unlink()
