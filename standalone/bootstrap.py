"""Makes a fresh checkout ready to run: the environments and the models' weights.

Runs before anything is installed, so it uses the standard library alone and imports nothing of this
project. Each step leaves a stamp that says from what it was made; a step whose stamp still holds
is skipped, so running it again costs next to nothing.

    standalone/setup.sh app triton weights      what `make demo` needs
    standalone/setup.sh dev triton weights      what `make test` needs
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOG_TAIL_LINES = 20
DISK_BYTES_MIN = 2 * 1024**3  # both environments, pip's temporary files and the weights: 1.4 GiB
GLIBC_MIN = (2, 35)  # what the wheel of Triton was built against

Note = Callable[[str], None]  # tells the person waiting what a step is at


class SetupFailed(Exception):
    """The message says what is wrong and what to do about it."""


@dataclass(frozen=True)
class Step:
    """One thing to make. `made_from` decides whether it has to be made again."""

    name: str
    title: str
    made_from: tuple[Path, ...]
    stamp: Path
    make: Callable[["Log", Note], None]
    needs: tuple[str, ...] = ()
    products: str = ""  # a pattern below ROOT; what it matched must stay there

    def is_done(self) -> bool:
        if not self.stamp.is_file():
            return False
        fingerprint, *products = self.stamp.read_text().splitlines()
        return fingerprint == self._fingerprint() and all(
            (ROOT / path).exists() for path in products
        )

    def mark_done(self) -> None:
        products = sorted(ROOT.glob(self.products)) if self.products else []
        lines = [self._fingerprint(), *(str(path.relative_to(ROOT)) for path in products)]
        self.stamp.write_text("\n".join(lines))

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())  # environments cannot be moved
        for path in self.made_from:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass
class Log:
    """What the commands of one step print: kept whole in a file, shown only when they fail."""

    path: Path
    lines: list[str] = field(default_factory=list)

    def run(
        self, command: Sequence[str | Path], heard: Callable[[str], None], folder: Path = ROOT
    ) -> None:
        """Run `command` in `folder`, telling `heard` of each line it prints.

        Raises:
            SetupFailed: it ended with another code than 0.
        """
        with self.path.open("a") as file:
            file.write(f"\n$ {' '.join(map(str, command))}\n")
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"PIP_USER": "0", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            assert process.stdout is not None
            with process:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    self.lines.append(line.rstrip())
                    heard(line.rstrip())
        if process.returncode != 0:
            tail = "\n".join(f"    {line}" for line in self.lines[-LOG_TAIL_LINES:])
            raise SetupFailed(f"a command failed; the end of {self.path}:\n{tail}")


def steps() -> dict[str, Step]:
    app, triton = ROOT / ".venv", ROOT / ".venv-triton"
    locks = ROOT / "requirements"
    project = ROOT / "pyproject.toml"
    weights = sorted((ROOT / "weights").rglob("*.py"))
    made = [
        Step(
            "app",
            "libraries of the service (.venv)",
            (locks / "app.lock", project),
            app / ".made-from-app",
            lambda log, note: make_app(app, locks / "app.lock", log, note),
        ),
        Step(
            "dev",
            "libraries of the tests (.venv)",
            (locks / "dev.lock",),
            app / ".made-from-dev",
            lambda log, note: install(app, locks / "dev.lock", log, note),
            needs=("app",),
        ),
        Step(
            "bench",
            "libraries of the benchmarks (.venv)",
            (locks / "bench.lock",),
            app / ".made-from-bench",
            lambda log, note: install(app, locks / "bench.lock", log, note),
            needs=("app",),
        ),
        Step(
            "triton",
            "NVIDIA Triton and ONNX Runtime (.venv-triton)",
            (locks / "triton.lock",),
            triton / ".made-from-triton",
            lambda log, note: make_triton(triton, locks / "triton.lock", log, note),
        ),
        Step(
            "weights",
            "weights of the models (model_repository)",
            tuple(weights),
            CACHE / "weights.made-from",
            lambda log, note: log.run([app / "bin/python", "-m", "weights"], note),
            needs=("app",),
            products="model_repository/*/[0-9]*/*",
        ),
    ]
    return {step.name: step for step in made}


def make_app(environment: Path, lock: Path, log: Log, note: Note) -> None:
    make_environment(environment, lock, log, note)
    note("tritonq itself")
    in_place = ("--no-deps", "--no-build-isolation", "--editable", ROOT)
    log.run([*pip(environment), "install", *PIP_OPTIONS, *in_place], lambda _: None)


def make_environment(environment: Path, lock: Path, log: Log, note: Note) -> None:
    note("creating the environment")
    # Without pip: Debian splits the part of Python that would install it into a package of its
    # own. The outer pip installs into the environment just as well.
    options = ["--without-pip"] if is_usable(environment) else ["--without-pip", "--clear"]
    log.run([sys.executable, "-m", "venv", *options, environment], lambda _: None)
    install(environment, lock, log, note)


def is_usable(environment: Path) -> bool:
    """Whether the environment has this very version of Python and stands where it was made."""
    settings = environment / "pyvenv.cfg"
    wanted = f"version = {platform.python_version()}"
    return settings.is_file() and wanted in settings.read_text().splitlines()


def make_triton(environment: Path, lock: Path, log: Log, note: Note) -> None:
    make_environment(environment, lock, log, note)
    provide_libpython(environment, log, note)


def provide_libpython(environment: Path, log: Log, note: Note) -> None:
    """See to it that Triton's stub finds the library of Python: it embeds it.

    Debian's python3 does not bring the library; where it is missing, it is taken from Debian's
    package into the environment, which needs no root.
    """
    package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    name = f"{package}.so.1.0"
    places = (sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", environment / "lib")
    if any((Path(str(place)) / name).exists() for place in places):
        return
    note(f"fetching {name}")
    unpacked = CACHE / package
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    try:
        log.run(["apt-get", "download", package], note, folder=unpacked)
        log.run(["dpkg-deb", "-x", *unpacked.glob("*.deb"), unpacked], note)
        (library,) = unpacked.rglob(name)
    except (SetupFailed, OSError, ValueError):
        remedy = f"as root: apt-get update && apt-get install {package}"
        raise SetupFailed(f"{name} is missing, and could not be fetched; {remedy}") from None
    shutil.copy(library, environment / "lib" / name)  # not the link: what it names


PIP_OPTIONS = (
    "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--root-user-action=ignore",
)  # fmt: skip


def pip(environment: Path) -> list[str | Path]:
    return [sys.executable, "-m", "pip", "--python", environment / "bin/python"]


def install(environment: Path, lock: Path, log: Log, note: Note) -> None:
    """Install exactly what `lock` lists, hashes checked, from where the user's pip finds it."""
    total = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
    seen = 0

    def heard(line: str) -> None:
        nonlocal seen
        if match := re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line):
            seen += 1
            note(f"{min(seen, total)}/{total} {match[1]}")
        elif line.startswith("Installing collected packages"):
            note(f"unpacking {total} packages")

    # The lock lists everything: nothing to resolve, nothing to build.
    exactly = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", lock)
    log.run([*pip(environment), "install", *PIP_OPTIONS, *exactly], heard)


def check_machine() -> None:
    """Refuse what could not work, before anything is fetched.

    Raises:
        SetupFailed: naming the reason and the remedy.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupFailed("Triton's wheel runs on Linux on x86-64 only; use docker compose here.")
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC_MIN:
        raise SetupFailed(f"Triton's wheel needs glibc 2.35 or newer; this is {libc} {version}.")
    for command, package in (("bash", "bash"), ("setpriv", "util-linux")):
        if shutil.which(command) is None:
            raise SetupFailed(f"{command} is missing: apt-get install {package}")
    if importlib.util.find_spec("pip") is None:
        raise SetupFailed(f"{sys.executable} has no pip: apt-get install python3-pip")
    if (free := shutil.disk_usage(ROOT).free) < DISK_BYTES_MIN:
        raise SetupFailed(f"{ROOT} has {free / 1024**3:.1f} GiB free; set-up needs 2 GiB.")


class Screen:
    """Says what is going on: one line per finished step, and on a terminal a line that moves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, tuple[float, str]] = {}
        self._moves = sys.stdout.isatty()

    def say(self, text: str) -> None:
        with self._lock:
            self._write(f"{text}\n")

    def begin(self, title: str) -> None:
        with self._lock:
            self._active[title] = (time.monotonic(), "")
            if not self._moves:
                self._write(f"  ... {title}\n")

    def note(self, title: str, text: str) -> None:
        with self._lock:
            self._active[title] = (self._active[title][0], text)

    def end(self, title: str, mark: str) -> None:
        with self._lock:
            began, _ = self._active.pop(title)
            self._write(f"  {mark:>3} {title} ({time.monotonic() - began:.0f} s)\n")

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Redraw the moving line about four times a second."""
        over = threading.Event()
        thread = threading.Thread(target=self._redraw, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _redraw(self, over: threading.Event) -> None:
        while self._moves and not over.wait(0.25):
            with self._lock:
                now = time.monotonic()
                parts = [f"{title} {now - began:.0f} s {text}" for title, (began, text) in
                         self._active.items()]  # fmt: skip
                width = shutil.get_terminal_size().columns - 1
                sys.stdout.write("\r\x1b[K" + " | ".join(parts)[:width])
                sys.stdout.flush()

    def _write(self, text: str) -> None:
        sys.stdout.write(("\r\x1b[K" if self._moves else "") + text)
        sys.stdout.flush()


def carry_out(wanted: Sequence[Step], screen: Screen) -> None:
    """Make `wanted`, in parallel where one does not need the other.

    Raises:
        SetupFailed: of the first that failed; the others are finished first.
    """
    finished = {step.name: threading.Event() for step in wanted}
    failed = threading.Event()

    def make(step: Step) -> None:
        try:
            for name in step.needs:
                if name in finished:
                    finished[name].wait()
            if failed.is_set():
                return
            screen.begin(step.title)
            step.stamp.unlink(missing_ok=True)
            try:
                step.make(
                    Log(CACHE / f"setup-{step.name}.log"), lambda t: screen.note(step.title, t)
                )
            except BaseException:
                failed.set()
                screen.end(step.title, "FAILED")
                raise
            step.mark_done()
            screen.end(step.title, "ok")
        finally:
            finished[step.name].set()

    with screen.moving(), ThreadPoolExecutor(len(wanted)) as pool:
        for outcome in [pool.submit(make, step) for step in wanted]:
            outcome.result()


def main(arguments: Sequence[str]) -> int:
    known = steps()
    parser = argparse.ArgumentParser(description="Make a checkout ready to run.")
    parser.add_argument("steps", nargs="+", choices=known, help="what to make")
    names = set(parser.parse_args(arguments).steps)
    names |= {need for name in names for need in known[name].needs}
    wanted = [step for step in known.values() if step.name in names]
    if all(step.is_done() for step in wanted):
        return 0
    screen = Screen()
    began = time.monotonic()
    try:
        check_machine()
        CACHE.mkdir(exist_ok=True)
        with (CACHE / "setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second `make` waits, and then finds it done
            todo = [step for step in wanted if not step.is_done()]
            screen.say(f"Setting up with Python {platform.python_version()} (logs: {CACHE})")
            carry_out(todo, screen)
    except SetupFailed as failure:
        screen.say(f"Set-up failed: {failure}")
        return 1
    except KeyboardInterrupt:
        screen.say("Set-up interrupted; run it again to go on.")
        return 130
    screen.say(f"Set up in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
