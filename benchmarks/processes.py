"""CPU time and memory of the processes that a benchmark has started, by what each one is.

Memory is the resident set; pages that processes share (Postgres' buffers) count in each of them.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import psutil

# What a command line ends with, or contains, and what the process is called in the tables.
PROGRAMS = {"-m gateway": "gateway", "-m dispatcher": "dispatcher"}
SERVERS = {
    "tritonserver": "tritonserver",
    "triton_python_backend_stub": "triton_python_backend_stub",
    "onnx_worker": "onnx_worker",
    "nats-server": "nats-server",
    "benchmarks.raw": "onnxruntime",
    "benchmarks.peer.gateway": "peer gateway",
    "benchmarks.peer.worker": "celery",
    "beam.smp": "rabbitmq",
    "redis-server": "redis",
    "benchmarks.systems": "supervisor",
    "benchmarks.peer": "supervisor",
}
PEAKS_EACH_S = 0.5


def cpu_s(root: int | None = None) -> dict[str, float]:
    """CPU seconds that each kind of process has spent so far.

    What a child spent that has ended counts for the process that it was a child of: Postgres'
    workers, which come and go, are in "postgres"; a service that ended is in "ended".

    Args:
        root: the process whose family to look at, itself included; none: the children of this one.
    """
    spent: defaultdict[str, float] = defaultdict(float)
    own = psutil.Process(root).cpu_times()
    spent["ended"] = own.children_user + own.children_system
    if root is not None:
        spent[_kind(psutil.Process(root))] += own.user + own.system
    for kind, process in _found(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[kind] += times.user + times.system
            spent[kind] += times.children_user + times.children_system
    return dict(spent)


def rss_mib() -> dict[str, int]:
    held: defaultdict[str, int] = defaultdict(int)
    for kind, process in _found():
        with contextlib.suppress(psutil.NoSuchProcess):
            held[kind] += process.memory_info().rss
    return {kind: round(size / 2**20) for kind, size in held.items()}


@contextmanager
def frozen(kind: str, root: int | None = None) -> Iterator[None]:
    """Have the processes of a kind do nothing while the block runs. `root` as in `cpu_s`."""
    stopped = [process for found, process in _found(root) if found == kind]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


@dataclass
class Peaks:
    """The most that each kind of process has held at once."""

    mib: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        for kind, size in rss_mib().items():
            self.mib[kind] = max(size, self.mib.get(kind, 0))


@asynccontextmanager
async def peaks() -> AsyncIterator[Peaks]:
    """Watch the memory of every process until the block ends, twice a second."""
    seen = Peaks()

    async def watch() -> None:
        while True:
            # In a thread: a look takes some milliseconds, which a request would wait for.
            await asyncio.to_thread(seen.look)
            await asyncio.sleep(PEAKS_EACH_S)

    seen.look()
    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        seen.look()


def pids() -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for kind, process in _found():
        found[kind].append(process.pid)
    return dict(found)


def _found(root: int | None = None) -> Iterator[tuple[str, psutil.Process]]:
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield _kind(process), process


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()) or process.name()
    for end, kind in PROGRAMS.items():
        if command.endswith(end):
            return kind
    for mark, kind in SERVERS.items():
        if mark in command:
            return kind
    return "postgres" if process.name() == "postgres" else "other"
