"""The plots of docs/performance.md, as SVG: the same results make the same files."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks import report
from benchmarks.report import PRODUCTS, SYSTEMS, Results

matplotlib.use("svg")
from matplotlib import pyplot

NAMES = {
    "raw": "onnxruntime alone",
    "direct Triton": "direct Triton",
    PRODUCTS[0]: "tritonq, always",
    PRODUCTS[1]: "tritonq, 2m",
    "peer": "Celery, RabbitMQ",
}
# What does the work that everybody has to do is dark, what a service adds is bright.
COLOURS = {
    "onnxruntime": "#274060",
    "onnx_worker": "#274060",
    "celery": "#335c81",
    "client": "#8d99ae",
    "tritonserver": "#76b900",
    "triton_python_backend_stub": "#a5d152",
    "dispatcher": "#5899e2",
    "gateway": "#f4a259",
    "nats-server": "#8e7dbe",
    "postgres": "#2a9d8f",
    "peer gateway": "#e76f51",
    "rabbitmq": "#ff9f1c",
    "redis": "#d62828",
    "other": "#cccccc",
}
SAME = {"hashsalt": "tritonq", "fonttype": "none"}


def draw(results: Results, folder: Path) -> None:
    """Write performance-cpu.svg, performance-rate.svg and performance-latency.svg."""
    matplotlib.rcParams.update({f"svg.{name}": value for name, value in SAME.items()})
    matplotlib.rcParams.update({"font.family": "sans-serif", "font.size": 9})
    _saved(_cpu(results), folder / "performance-cpu.svg")
    _saved(_rate(results), folder / "performance-rate.svg")
    _saved(_latency(results), folder / "performance-latency.svg")


def _cpu(results: Results) -> Any:
    """CPU-ms of an fp32 photograph, stacked by process."""
    figure, axes = pyplot.subplots(figsize=(8, 3.2))
    named: set[str] = set()
    for row, system in enumerate(SYSTEMS):
        left = 0.0
        for kind, ms in report.by_process(results, "fp32", system).items():
            label = None if kind in named else kind
            named.add(kind)
            axes.barh(row, ms, left=left, color=COLOURS.get(kind, "#cccccc"), label=label)
            left += ms
        if left:
            axes.text(left, row, f" {left:.1f}", va="center")
    _rows(axes, [NAMES[system] for system in SYSTEMS])
    axes.set_xlabel("CPU-ms for each fp32 photograph, all processes added")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return figure


def _rate(results: Results) -> Any:
    """Photographs and no-ops a second."""
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 2.6), sharey=True)
    titles = {"fp32": "fp32 photographs/s", "int8": "int8 photographs/s", "noop": "1 KB no-ops/s"}
    for axes, (load, title) in zip(panels, titles.items(), strict=True):
        for row, system in enumerate(SYSTEMS):
            if (value := report.median(results, load, system, "per_s")) is not None:
                axes.barh(row, value, color=_colour(system))
                axes.text(value, row, f" {value:,.0f}", va="center")
        axes.set_xlabel(title)
    _rows(panels[0], [NAMES[system] for system in SYSTEMS])
    return figure


def _latency(results: Results) -> Any:
    """One at a time: the median, and the 99th percentile as a mark."""
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 2.6), sharey=True)
    titles = {"one fp32": "one fp32 photograph, ms: p50 | p99", "one noop": "one 1 KB no-op, ms"}
    shown = [system for system in SYSTEMS if system != report.RAW]
    for axes, (load, title) in zip(panels, titles.items(), strict=True):
        for row, system in enumerate(shown):
            middle = report.median(results, load, system, "p50_ms")
            high = report.median(results, load, system, "p99_ms")
            if middle is not None and high is not None:
                axes.barh(row, middle, color=_colour(system))
                axes.plot([high], [row], "|", color="black", markersize=14)
                axes.text(high, row, f"  {middle:.1f}, {high:.1f}", va="center")
        axes.set_xlabel(title)
    _rows(panels[0], [NAMES[system] for system in shown])
    return figure


def _colour(system: str) -> str:
    return "#2b6cb0" if system in PRODUCTS else "#718096"


def _rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _saved(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.margins(x=0.2)  # room for the numbers
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    # matplotlib ends lines with blanks.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
