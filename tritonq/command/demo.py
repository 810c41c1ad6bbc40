"""`make demo`: everything from a standing start, shown on real photographs.

Not a word of the `tritonq` command: the photographs are in the checkout, not in the package.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from standalone.installation import ROOT, Options
from standalone.state import Running
from standalone.up import until_stopped
from tritonq.client import AsyncClient
from tritonq.command.show import notes_console
from tritonq.command.up import listening, request_to_try, run_up, say
from tritonq.errors import TritonqError
from tritonq.results import Item

SAMPLES = ROOT / "samples"
PATTERNS = ("*.jpg", "*.png")
MODEL_FAMILY = "efficientnet_lite0"  # fp32 or int8, whichever is the default here


@dataclass(frozen=True, slots=True)
class Shown:
    """One photograph and what became of it."""

    file: str
    label: str
    score: str = ""
    queue_ms: str = ""
    compute_ms: str = ""


def demo(notes: Console, *, once: bool, options: Options | None = None) -> int:
    """Start everything and classify the photographs; then stay up, unless `once`."""

    async def work(running: Running) -> int:
        failed = await show(running, Console())
        say(notes, f"\n{listening(running)}")
        if once:
            return int(failed > 0)
        command = request_to_try(running, photographs()[0].relative_to(ROOT))
        say(notes, f"\nTry it:  {command}")
        say(notes, "\nUp until Ctrl-C; what was accepted is kept.")
        return await until_stopped(running)

    return run_up(options or Options(), notes, work)


async def show(running: Running, console: Console) -> int:
    """Classify the photographs through the API and print a table; return how many failed."""
    model = next(name for name in running.models if name.startswith(MODEL_FAMILY))
    items: list[Item[Path]] = []
    async with AsyncClient(running.api_url) as client:
        async for item in client.map(model, photographs()):
            items.append(item)  # noqa: PERF401 -- AsyncClient.map must be drained in order
    console.print(table([shown(item) for item in items], model))
    return sum(item.error is not None for item in items)


def photographs() -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in SAMPLES.glob(pattern))


def shown(item: Item[Path]) -> Shown:
    if item.error is not None:
        return Shown(item.given.name, f"failed: {_reason(item.error)}")
    assert item.prediction is not None
    best, metrics = item.output[0], item.prediction.metrics
    return Shown(
        item.given.name,
        best["label"],
        f"{best['score']:.3f}",
        f"{metrics['queue_ms']:.1f}",
        f"{metrics['compute_ms']:.1f}",
    )


def table(rows: list[Shown], model: str) -> Table:
    result = Table(
        "file", "label", title=f"{model} on {len(rows)} photographs", title_justify="left"
    )
    for name in ("score", "queue ms", "compute ms"):
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(row.file, row.label, row.score, row.queue_ms, row.compute_ms)
    return result


def _reason(error: TritonqError) -> str:
    return str(error).splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the table")
    return demo(notes_console(), once=parser.parse_args().once)


if __name__ == "__main__":
    sys.exit(main())
