"""Examines whether `tritonq up` can work on this machine, without starting anything."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from standalone.installation import Options
from standalone.models import built_models, has_vnni
from standalone.ports import Ports, is_free, taken_by
from standalone.postgres import installed_programs
from standalone.privileges import unprivileged
from standalone.server import CannotStart
from standalone.state import DISK_BYTES_MIN, find_running
from standalone.triton import SHARED_MEMORY
from standalone.triton_environment import PYTHONS, STUB, inspect_environment

# 1 MB for each model instance, growing to its largest batch in flight: 8 MB for 32 images.
SHARED_MEMORY_BYTES_MIN = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""  # what to do about it, where it is not ok


def examine(options: Options) -> list[Check]:
    """Look at everything a start depends on. Blocks for about a second."""
    checks = [_python(), _commands(), _white_space(options)]
    checks.append(_attempt("triton environment", lambda: _triton_environment(options)))
    checks.append(_attempt("postgres", lambda: _postgres(options)))
    checks += [_shared_memory(), _disk(options), _models(options), _vnni()]
    checks += _ports(options)
    return checks


def _python() -> Check:
    ok = sys.version_info[:2] in PYTHONS
    detail = f"{platform.python_version()} ({sys.executable})"
    return Check("python", ok, detail, "" if ok else "use Python 3.11 or 3.12")


def _commands() -> Check:
    packages = {"bash": "bash", "setpriv": "util-linux"}
    missing = [name for name in packages if shutil.which(name) is None]
    if not missing:
        return Check("commands", ok=True, detail=", ".join(packages))
    remedy = f"install {', '.join(packages[name] for name in missing)}"
    return Check("commands", ok=False, detail=f"missing: {', '.join(missing)}", remedy=remedy)


def _white_space(options: Options) -> Check:
    paths = (options.state, options.repository, options.triton_environment)
    bad = [str(path) for path in paths if any(map(str.isspace, str(path)))]
    if not bad:
        return Check("paths", ok=True, detail="no white space in them")
    return Check("paths", ok=False, detail=f"white space in '{bad[0]}'", remedy="move it")


def _attempt(name: str, look: Callable[[], str]) -> Check:
    """A check made by what would refuse the start: its refusal names the remedy."""
    try:
        return Check(name, ok=True, detail=look())
    except CannotStart as refusal:
        return Check(name, ok=False, detail="cannot start", remedy=str(refusal))


def _triton_environment(options: Options) -> str:
    environment = inspect_environment(options.triton_environment.absolute())
    with tempfile.TemporaryDirectory(prefix="tritonq-doctor-") as folder:
        backends = environment.assemble_backends(Path(folder) / "backends")
        environment.try_stub(backends / "python" / STUB)
    version = ".".join(map(str, environment.python))
    return f"Python {version}, numpy 1, libpython found ({environment.folder})"


def _postgres(options: Options) -> str:
    account = unprivileged([installed_programs() / "postgres", _existing(options.state)])
    return f"runs as uid {account.uid}" + ("" if account.uid == os.geteuid() else ", not as root")


def _shared_memory() -> Check:
    remedy = f"give it 64 MB or more: mount -o remount,size=1g {SHARED_MEMORY}"
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", ok=False, detail=f"no {SHARED_MEMORY}", remedy=remedy)
    free = shutil.disk_usage(SHARED_MEMORY).free
    ok = free >= SHARED_MEMORY_BYTES_MIN and os.access(SHARED_MEMORY, os.W_OK)
    detail = f"{free // 2**20} MB free in {SHARED_MEMORY}"
    return Check("shared memory", ok, detail, "" if ok else remedy)


def _disk(options: Options) -> Check:
    folder = _existing(options.state)
    free = shutil.disk_usage(folder).free
    ok = free >= DISK_BYTES_MIN
    return Check(
        "disk",
        ok,
        f"{free / 2**30:.1f} GiB free for {options.state}",
        "" if ok else "free 512 MB, or name a state folder on another disk with --state",
    )


def _models(options: Options) -> Check:
    built = sorted(built_models(options.repository))
    if built:
        return Check("models", ok=True, detail=f"built: {', '.join(built)}")
    detail = f"none in {options.repository} has weights"
    return Check("models", ok=False, detail=detail, remedy="run `make weights`")


def _vnni() -> Check:
    detail = "yes: int8 models by default" if has_vnni() else "no: fp32 models by default"
    return Check("VNNI", ok=True, detail=detail)


def _ports(options: Options) -> Iterator[Check]:
    if running := find_running(options.state):
        yield Check("ports", ok=True, detail=f"in use by tritonq itself, at {running.api_url}")
        return
    usual = asdict(Ports())
    for name, port in {**usual, **options.ports}.items():
        title = f"port {port}"
        if is_free(port):
            yield Check(title, ok=True, detail=f"free, for {name}")
        elif name in options.ports:
            detail = f"taken{taken_by(port)}; wanted for {name}"
            yield Check(title, ok=False, detail=detail, remedy="choose another")
        else:
            detail = f"taken{taken_by(port)}; {name} will use the next free one"
            yield Check(title, ok=True, detail=detail)


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
