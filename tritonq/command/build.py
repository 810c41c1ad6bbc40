"""`tritonq build` at the terminal: a bar while sources are fetched, a line for each model."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

import weights
from tritonq.command.exits import Exit, tell_error
from weights.settings import WeightsSettings


def run_build(models: Sequence[str], repository: Path | None, notes: Console) -> Exit:
    """Build what is not current and say so on stdout; return the exit code."""
    settings = WeightsSettings()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True) as bars:
        try:
            results = weights.build(
                repository or settings.repository,
                models,
                cache=settings.cache,
                mirror=settings.mirror,
                report=_bars(bars) if notes.is_terminal else _lines(notes),
            )
        except (weights.WeightsError, OSError) as error:
            tell_error(notes, str(error))
            return Exit.FAILED
    for built in results:
        done = "is current" if built.was_current else f"built in {built.seconds:.1f} s"
        sys.stdout.write(f"{built.model}\t{done}\t{built.size} bytes\t{built.path}\n")
    return Exit.OK


def _bars(bars: Progress) -> weights.Report:
    tasks: dict[str, TaskID] = {}

    def report(progress: weights.Progress) -> None:
        text = f"{progress.model}: {progress.step}"
        if progress.model not in tasks:
            tasks[progress.model] = bars.add_task(text, total=None)
        total = progress.total or None
        bars.update(tasks[progress.model], description=text, completed=progress.done, total=total)

    return report


def _lines(notes: Console) -> weights.Report:
    told: set[str] = set()

    def report(progress: weights.Progress) -> None:
        text = f"{progress.model}: {progress.step}"
        if text not in told:
            told.add(text)
            notes.print(text, markup=False, highlight=False)

    return report
