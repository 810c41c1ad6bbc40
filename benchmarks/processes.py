"""CPU time and memory of the processes that a benchmark has started, by what each one is."""

from collections import defaultdict

import psutil

SERVERS = ("tritonserver", "triton_python_backend_stub", "onnx_worker", "nats-server")


def cpu_s() -> dict[str, float]:
    """CPU seconds that each kind of process has spent so far, those that ended left out."""
    spent: defaultdict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            spent[_kind(process)] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return dict(spent)


def rss_mib() -> dict[str, int]:
    held: defaultdict[str, int] = defaultdict(int)
    for process in psutil.Process().children(recursive=True):
        try:
            held[_kind(process)] += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return {kind: round(size / 2**20) for kind, size in held.items()}


def pids() -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        try:
            found[_kind(process)].append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return dict(found)


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()) or process.name()
    for kind in ("gateway", "dispatcher"):
        if command.endswith(f"-m {kind}"):
            return kind
    for mark in SERVERS:
        if mark in command:
            return mark
    return "postgres" if process.name() == "postgres" else "other"
