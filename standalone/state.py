"""The state folder: everything that survives a restart, and the proof that one instance owns it.

<state>/lock            held while `tritonq up` runs; the number of its process is in it
<state>/running.json    where everything listens, for other commands; there while it is up
<state>/secrets/        made at the first start, readable for the owner alone
<state>/<service>/      what each server keeps; its log
<state>/up/up.log       what happened to the services, one JSON line each
<state>/blobs/          inputs
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from standalone.server import CannotStart

DISK_BYTES_MIN = 512 * 1024**2  # Postgres' own log takes 100 MB or more; the rest is for work
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running installation listens."""

    pid: int
    api_url: str
    docs_url: str
    metrics_url: str
    dispatcher_metrics_url: str
    triton_http_url: str
    triton_grpc_address: str
    triton_metrics_url: str
    models: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError or TypeError when `text` is not what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "models": tuple(fields["models"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is written to `path` in this block may meet a full disk, or somebody else's file.

    Raises:
        CannotStart: it did; in a sentence.
    """
    try:
        yield
    except OSError as error:
        raise CannotStart(f"cannot write {error.filename or path}: {error.strerror}") from error


class State:
    """A state folder that this process owns.

    Every method may raise CannotStart: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, name: str) -> Path:
        """A folder of a service; made where it is missing."""
        folder = self.path / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def secret(self, name: str) -> str:
        """A random secret that stays the same as long as the folder exists."""
        path = self.secret_file(name)
        with writing(path):
            if path.exists() and (kept := path.read_text().strip()):
                return kept
        self.keep_secret(name, secrets.token_urlsafe(SECRET_BYTES))
        return path.read_text().strip()

    def keep_secret(self, name: str, content: str) -> Path:
        """Write `content` where only the owner can read it, whole or not at all."""
        path = self.secret_file(name)
        unfinished = path.with_suffix(".unfinished")
        with writing(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # a secret lost to a power failure locks us out of the data
            unfinished.replace(path)
        return path

    def announce(self, running: Running) -> None:
        unfinished = self.path / "running.unfinished"
        with writing(unfinished):
            unfinished.write_text(running.to_json())
            unfinished.replace(_running_path(self.path))

    def retract(self) -> None:
        _running_path(self.path).unlink(missing_ok=True)

    def secret_file(self, name: str) -> Path:
        """Where a secret is, for programs that read it themselves."""
        return self.path / "secrets" / name


@contextmanager
def owned(path: Path) -> Iterator[State]:
    """Own the state folder `path` for the length of a block.

    Raises:
        CannotStart: another process owns it, it cannot be written, or its disk is full.
    """
    if any(letter.isspace() for letter in str(path)):
        raise CannotStart(f"the state folder '{path}' has white space in its path; name another")
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CannotStart(f"cannot write the state folder {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = lock.read().strip() or "unknown"
            raise CannotStart(
                f"tritonq is already running on {path} (process {owner}); stop it, "
                "or name another folder with --state"
            ) from None
        if (free := shutil.disk_usage(path).free) < DISK_BYTES_MIN:
            raise CannotStart(f"the disk of {path} is full: {free // 2**20} MB free, 512 MB needed")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        state = State(path)
        state.retract()  # left by a run that was killed
        try:
            yield state
        finally:
            state.retract()


def find_running(path: Path) -> Running | None:
    """Where the installation with the state folder `path` listens; None if none is up."""
    try:
        with (path / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:  # somebody owns it: it runs
        try:
            return Running.from_json(_running_path(path).read_text())
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None  # it is about to start or to stop
    return None


def _running_path(path: Path) -> Path:
    return path / "running.json"
