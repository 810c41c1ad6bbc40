"""Shows how far a batch is: a bar on a terminal, otherwise a plain line every few seconds."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tritonq.command.batch import Tally

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.2


@asynccontextmanager
async def shown(
    tally: Tally, notes: Console, *, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[None]:
    """Show `tally` on `notes` while the block runs. One file needs no progress."""
    if tally.total < 2:
        yield
        return
    showing = _bar(tally, notes) if notes.is_terminal else _lines(tally, notes, clock)
    task = asyncio.create_task(showing)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _bar(tally: Tally, notes: Console) -> None:
    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(compact=True),
    )
    # On a terminal, results scroll above the bar; into a pipe or file they go as they are.
    terminal = sys.stdout.isatty()
    with Progress(*columns, console=notes, transient=True, redirect_stdout=terminal) as progress:
        bar = progress.add_task("", total=tally.total, failed="")
        while True:
            progress.update(bar, completed=tally.done, failed=_failed(tally))
            await asyncio.sleep(BAR_EVERY_S)


async def _lines(tally: Tally, notes: Console, clock: Callable[[], float]) -> None:
    began = clock()
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        notes.print(progress_line(tally, clock() - began), highlight=False)


def progress_line(tally: Tally, elapsed_s: float) -> str:
    """`412/1000 · 21.2/s · 3 failed · 0:27 left`."""
    rate = tally.done / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{tally.done}/{tally.total}", f"{rate:.1f}/s", _failed(tally)]
    if rate > 0:
        left_s = round((tally.total - tally.done) / rate)
        parts.append(f"{left_s // 60}:{left_s % 60:02d} left")
    return " · ".join(part for part in parts if part)


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


def _failed(tally: Tally) -> str:
    return f"{tally.failed} failed" if tally.failed else ""
