"""The Python environment that Triton runs in, and what must hold in it.

Every rule here stands for a start that hangs without a word, or for silent corruption of data; so
each is checked before every start.
"""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from standalone.server import CannotStart

PYTHONS = ((3, 11), (3, 12))  # numpy 1.26 has no wheel for 3.13
NUMPY_MAJOR = 1
STUB = "triton_python_backend_stub"
OUR_BACKENDS = Path(__file__).with_name("backends")
INSPECT_S_MAX = 30.0

# Runs in the environment itself: only its own Python knows all this. Nothing is imported, since
# importing numpy would cost more than all the rest of a start.
_INSPECTION = """
import importlib.metadata as metadata, json, sys, sysconfig
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "python": list(sys.version_info[:2]),
    "packages": {name: version(name) for name in ("nvidia-pytriton", "numpy", "onnxruntime")},
    "site_packages": sysconfig.get_path("platlib"),
    "library_folder": sysconfig.get_config_var("LIBDIR"),
}))
"""


class _Facts(TypedDict):
    python: list[int]
    packages: dict[str, str | None]
    site_packages: str
    library_folder: str


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """A virtual environment in which Triton's stubs work."""

    folder: Path
    site_packages: Path
    python: tuple[int, int]
    library_folder: Path  # where its libpython is, if not where the system looks anyway

    @property
    def server(self) -> Path:
        return self._triton / "bin" / "tritonserver"

    def variables(self) -> dict[str, str]:
        """The environment variables of the server, and so of its stubs."""
        libraries = (
            self.folder / "lib",  # a libpython put there for a system that has none comes first
            self.site_packages / "nvidia_pytriton.libs",
            self.library_folder,
        )
        return {
            # The first python3 on PATH decides the stub's interpreter.
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries),
            "LANG": "C.UTF-8",
        }

    def assemble_backends(self, folder: Path) -> Path:
        """Lay out a backend directory: Triton's python backend, and ours on top of it.

        Copied, not linked: Triton takes a stub's permissions away when it fails to start, and
        refuses a library that lies outside the directory.
        """
        shutil.rmtree(folder, ignore_errors=True)
        python = folder / "python"
        python.mkdir(parents=True)
        wheel = self._triton / "backends" / "python"
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            shutil.copy(wheel / name, python / name)
        version = ".".join(str(number) for number in self.python)
        shutil.copy(self._triton / "python_backend_stubs" / version / STUB, python / STUB)
        (python / STUB).chmod(0o755)
        for ours in OUR_BACKENDS.glob("*/*.py"):
            backend = folder / ours.parent.name
            backend.mkdir(exist_ok=True)
            shutil.copy(ours, backend / ours.name)
        return folder

    def try_stub(self, stub: Path) -> None:
        """Raises CannotStart if the stub lacks a library. Without arguments it ends at once."""
        done = subprocess.run(
            [str(stub)], env=self.variables(), capture_output=True, text=True, check=False
        )
        if done.returncode == 1:
            return
        reason = done.stderr.strip() or f"it ended with {done.returncode}"
        if "libpython" in reason:
            version = ".".join(str(number) for number in self.python)
            reason += (
                f". Python {version} has no shared library here: install the package "
                f"libpython{version} (Debian, Ubuntu), or a Python built with --enable-shared"
            )
        raise CannotStart(f"Triton's Python stub does not run: {reason}")

    @property
    def _triton(self) -> Path:
        return self.site_packages / "pytriton" / "tritonserver"


def inspect_environment(folder: Path) -> TritonEnvironment:
    """Check the virtual environment in `folder`. Takes about 50 ms.

    Raises:
        CannotStart: Triton would hang or corrupt data with it; says what to change.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise CannotStart(
            "Triton's wheel is for Linux on x86-64, and this is "
            f"{platform.system()} on {platform.machine()}"
        )
    if shutil.which("bash") is None:
        raise CannotStart("Triton starts its stubs with bash, which is missing; install bash")
    python = folder / "bin" / "python3"
    if not python.exists():
        raise CannotStart(f"there is no Triton environment in {folder}; `make setup` makes it")
    facts = _facts(python)
    version = (facts["python"][0], facts["python"][1])
    if version not in PYTHONS:
        raise CannotStart(
            f"{folder} has Python {version[0]}.{version[1]}; Triton's stub needs 3.11 or 3.12 "
            "(numpy 1.26 supports nothing newer)"
        )
    for name, installed in facts["packages"].items():
        if installed is None:
            raise CannotStart(f"the package {name} is missing in {folder}; `make setup` repairs it")
    numpy = str(facts["packages"]["numpy"])
    if int(numpy.split(".")[0]) != NUMPY_MAJOR:
        raise CannotStart(
            f"{folder} has numpy {numpy}, with which this Triton silently corrupts data; "
            "install numpy<2 there"
        )
    return TritonEnvironment(
        folder=folder,
        site_packages=Path(facts["site_packages"]),
        python=version,
        library_folder=Path(facts["library_folder"]),
    )


def _facts(python: Path) -> _Facts:
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _INSPECTION],
            capture_output=True, text=True, check=True, timeout=INSPECT_S_MAX,
            env={"PATH": os.defpath},
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise CannotStart(f"{python} does not work: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise CannotStart(f"{python} did not answer within {INSPECT_S_MAX:.0f} s") from None
    facts: _Facts = json.loads(done.stdout)
    return facts
