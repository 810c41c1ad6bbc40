"""Tables of what `python -m benchmarks` measured. Pure: results in, Markdown out.

Every figure is the median of the rounds. Differences and ratios are taken round by round, between
what ran within the same minute, and then the median of these.
"""

import json
import operator
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Results = dict[str, Any]

RAW, DIRECT, PEER = "raw", "direct Triton", "peer"
PRODUCTS = ("product, always", "product, 2m")
SYSTEMS = (RAW, DIRECT, *PRODUCTS, PEER)
TITLES = {
    RAW: "onnxruntime in one process, no service",
    DIRECT: "direct Triton, keeps nothing",
    PRODUCTS[0]: "**tritonq, `sync_interval: always`**",
    PRODUCTS[1]: "**tritonq, `sync_interval: 2m`**",
    PEER: "Celery + RabbitMQ + Redis + FastAPI",
}
LOADS = {
    "fp32": "fp32 photograph, POST and GET",
    "int8": "int8 photograph, POST and GET",
    "noop": "1 KB no-op, submit and wait",
    "submit": "1 KB, submit alone, then run",
    "submit 100 KB": "100 KB, submit alone, then run",
    "one fp32": "fp32 photograph, one at a time",
    "one noop": "1 KB no-op, one at a time",
}
PROCESSES = {  # of the product, and their heads in a table
    "dispatcher": "dispatcher",
    "gateway": "gateway",
    "nats-server": "nats",
    "onnx_worker": "onnx_worker",
    "postgres": "postgres",
    "triton_python_backend_stub": "stub",
    "tritonserver": "tritonserver",
    "other": "other",
}
OTHERS = ("other", "supervisor", "ended")  # shown as one


@dataclass(frozen=True)
class Goal:
    """What must be reached: a figure of one load, by itself or beside another system's.

    A rate has to be at least `bound`, anything else (milliseconds) at most.
    """

    text: str
    load: str
    figure: str
    bound: float
    beside: str | None = None  # subtract what this system took
    digits: int = 0

    @property
    def is_rate(self) -> bool:
        return self.figure == "per_s"

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.is_rate else value <= self.bound

    def shown(self, value: float) -> str:
        sign = "+" if self.beside else ""
        return f"{value:{sign},.{self.digits}f}{'/s' if self.is_rate else ' ms'}"


GOALS = (
    Goal("fp32: at least 145 images/s", "fp32", "per_s", 145),
    Goal("fp32: at most 13.2 CPU-ms", "fp32", "cpu_ms", 13.2, digits=1),
    Goal("fp32: ahead of direct Triton", "fp32", "per_s", 0, DIRECT),
    Goal("fp32: at most 1.5 CPU-ms above raw", "fp32", "cpu_ms", 1.5, RAW, 2),
    Goal("int8: at least 235 images/s", "int8", "per_s", 235),
    Goal("int8: at most 8.2 CPU-ms", "int8", "cpu_ms", 8.2, digits=1),
    Goal("int8: at most 1.5 CPU-ms above raw", "int8", "cpu_ms", 1.5, RAW, 2),
    Goal("1 KB, submit and wait: at least 3,000/s", "noop", "per_s", 3000),
    Goal("1 KB, submit and wait: at most 0.6 CPU-ms", "noop", "cpu_ms", 0.6, digits=3),
    Goal("1 KB, submit alone: at least 6,000/s", "submit", "per_s", 6000),
    Goal("100 KB, submit alone: at least 2,200/s", "submit 100 KB", "per_s", 2200),
    Goal("one photograph at a time: p50 at most 2.5 ms above direct Triton",
         "one fp32", "p50_ms", 2.5, DIRECT, 2),
    Goal("one photograph at a time: p99 at most 8 ms above direct Triton",
         "one fp32", "p99_ms", 8, DIRECT, 2),
)  # fmt: skip


def rounds_of(results: Results, load: str, system: str) -> list[dict[str, Any]]:
    """What each round measured; empty when that was not run."""
    for cell in results["cells"]:
        if (cell["load"], cell["system"]) == (load, system):
            found: list[dict[str, Any]] = cell["rounds"]
            return found
    return []


def median(results: Results, load: str, system: str, figure: str) -> float | None:
    found = [each[figure] for each in rounds_of(results, load, system) if figure in each]
    return statistics.median(found) if found else None


def paired(
    results: Results, load: str, systems: tuple[str, str], figure: str,
    how: Callable[[float, float], float],
) -> float | None:  # fmt: skip
    """The median of `how` applied to the same round of two systems."""
    first, second = (rounds_of(results, load, system) for system in systems)
    found = [
        how(one[figure], other[figure]) for one, other in zip(first, second, strict=False)
        if figure in one and figure in other
    ]  # fmt: skip
    return statistics.median(found) if found else None


def by_process(results: Results, load: str, system: str) -> dict[str, float]:
    """CPU-ms of each kind of process, the largest first; what is below a hundredth is left out."""
    rounds = [each["by_process"] for each in rounds_of(results, load, system)]
    kinds = {kind for each in rounds for kind in each}
    found: dict[str, float] = {}
    for kind in sorted(kinds):
        name = "other" if kind in OTHERS else kind
        middle = statistics.median(each.get(kind, 0.0) for each in rounds)
        found[name] = found.get(name, 0.0) + middle
    shown = {kind: ms for kind, ms in found.items() if ms >= 0.005}
    return dict(sorted(shown.items(), key=lambda it: (-it[1], it[0])))


def reached(results: Results, goal: Goal, system: str) -> float | None:
    if goal.beside is None:
        return median(results, goal.load, system, goal.figure)
    return paired(results, goal.load, (system, goal.beside), goal.figure, operator.sub)


def goals_table(results: Results) -> str:
    rows = []
    for goal in GOALS:
        cells = [goal.text]
        for system in PRODUCTS:
            if (value := reached(results, goal, system)) is None:
                cells += ["", ""]
            else:
                cells += [goal.shown(value), "yes" if goal.is_met(value) else "**no**"]
        rows.append(cells)
    return _table(("goal", "at `always`", "met", "at `2m`", "met"), rows)


def images_table(results: Results) -> str:
    heads = ("", "fp32/s", "CPU-ms", "/ raw", "int8/s", "CPU-ms", "/ raw", "one, p50 ms", "p99 ms")
    rows = []
    for system in SYSTEMS:
        cells = [TITLES[system]]
        for load in ("fp32", "int8"):
            ratio = paired(results, load, (system, RAW), "cpu_ms", operator.truediv)
            cells += [
                _number(median(results, load, system, "per_s"), 0),
                _number(median(results, load, system, "cpu_ms"), 1),
                _number(ratio, 2),
            ]
        cells += [
            _number(median(results, "one fp32", system, figure), 1)
            for figure in ("p50_ms", "p99_ms")
        ]
        rows.append(cells)
    return _table(heads, rows)


def small_table(results: Results) -> str:
    heads = ("", "1 KB, wait, /s", "CPU-ms", "1 KB, accepted/s", "CPU-ms with the run",
             "100 KB, accepted/s", "CPU-ms with the run", "one, p50 ms", "p99 ms")  # fmt: skip
    rows = []
    for system in SYSTEMS[1:]:
        cells = [TITLES[system]]
        for load in ("noop", "submit", "submit 100 KB"):
            cells += [
                _number(median(results, load, system, "per_s"), 0),
                _number(median(results, load, system, "cpu_ms"), 2),
            ]
        cells += [
            _number(median(results, "one noop", system, figure), 2)
            for figure in ("p50_ms", "p99_ms")
        ]
        rows.append(cells)
    return _table(heads, rows)


def processes_table(results: Results) -> str:
    """Where the CPU-ms of the product go."""
    rows = []
    for load, title in LOADS.items():
        for system in PRODUCTS:
            spent = by_process(results, load, system)
            if spent:
                rows.append(
                    [
                        title,
                        f"`{system.rpartition(' ')[2]}`",
                        *(_number(spent.get(kind, 0.0), 2) for kind in PROCESSES),
                        _number(median(results, load, system, "cpu_ms"), 2),
                        _number(median(results, load, system, "client_cpu_ms"), 2),
                    ]
                )
    heads = ("CPU-ms each", "sync", *PROCESSES.values(), "sum", "load generator")
    return _table(heads, rows)


def others_table(results: Results) -> str:
    """Where those of the others go."""
    rows = []
    for load, title in LOADS.items():
        for system in (RAW, DIRECT, PEER):
            if spent := by_process(results, load, system):
                parts = ", ".join(f"{kind} {ms:.2f}" for kind, ms in spent.items())
                rows.append(
                    [title, TITLES[system], _number(median(results, load, system, "cpu_ms"), 2),
                     parts]
                )  # fmt: skip
    return _table(("load", "", "CPU-ms each", "of which"), rows)


def machine_table(results: Results) -> str:
    machine, versions = results["machine"], results["versions"]
    load = " ".join(str(each) for each in machine["load_average"])
    idle = "; ".join(
        f"{name} {sum(spent.values()):.3f}" for name, spent in results["idle_cores"].items()
    )
    rows = [
        ["machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"],
        ["system", machine["system"]],
        ["load average before", load],
        ["idling, share of one core", idle],
        ["taken", f"{results['at']}, commit `{results['commit']}`, {results['rounds']} rounds"],
        ["versions", ", ".join(f"{name} {it}" for name, it in versions.items())],
    ]
    return _table(("", ""), rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[Results], str]] = {
    "bench_goals": goals_table,
    "bench_images": images_table,
    "bench_small": small_table,
    "bench_processes": processes_table,
    "bench_others": others_table,
    "bench_machine": machine_table,
}


@cache
def committed() -> Results:
    """The results that the documents show."""
    results: Results = json.loads((Path(__file__).parent / "results.json").read_text())
    return results
