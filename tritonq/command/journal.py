"""Remembers what a `run` has submitted, so that the same command again submits nothing twice.

One file per command (service, model, inputs and arguments), one JSON line per accepted
prediction, written before anything else is done with its id. It is removed when every file has
an outcome, so a finished command starts afresh the next time.

Each line is one `write`: whatever ends the process leaves whole lines and at most one torn one.
What it cannot cover is a process killed between the service's acceptance and the line (Ctrl-C
waits for that line); such a file is submitted again.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

KEPT_S = 30 * 86_400.0  # a journal nobody came back to within a month is forgotten


class RunningAlready(Exception):
    """The same command is running in another process."""


class _Line(msgspec.Struct):
    file: str
    sha256: str
    id: str


class Journal:
    """The predictions of one command, by file and content. Held by one process at a time."""

    def __init__(self, path: Path, descriptor: int, known: dict[tuple[str, str], str]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._known = known

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
                return cls(path, descriptor, _read(path, descriptor))
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, file: str, sha256: str) -> str | None:
        """The id under which this content of this file was accepted before."""
        return self._known.get((_as_text(file), sha256))

    def note(self, file: str, sha256: str, prediction_id: str) -> None:
        self._known[_as_text(file), sha256] = prediction_id
        line = msgspec.json.encode(_Line(_as_text(file), sha256, prediction_id)) + b"\n"
        os.write(self._descriptor, line)

    def forget(self) -> None:
        """Forget everything: each file has its outcome, or the caller starts over."""
        self._known.clear()
        os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of the journal; an empty one is removed."""
        if not self._known:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def key_of(url: str, model: str, fields: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """The name of a command's journal; the same command in the same place has the same."""
    absolute = [os.path.abspath(argument) for argument in arguments]  # noqa: PTH100 - may be a pattern
    told = json.dumps([url, model, fields, absolute], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def journal_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tritonq" / "runs"


def _as_text(file: str) -> str:
    """A file's name, which may hold bytes that are no text, as JSON can carry it."""
    return file.encode(errors="backslashreplace").decode()


def _read(path: Path, descriptor: int) -> dict[tuple[str, str], str]:
    known: dict[tuple[str, str], str] = {}
    content = path.read_bytes()
    for text in content.splitlines():
        try:
            line = msgspec.json.decode(text, type=_Line)
        except ValueError:
            continue  # torn by the end of the process that wrote it
        known[line.file, line.sha256] = line.id
    if content and not content.endswith(b"\n"):
        os.write(descriptor, b"\n")
    return known


def _forget_old(folder: Path) -> None:
    oldest = time.time() - KEPT_S
    for path in folder.glob("*.jsonl"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
