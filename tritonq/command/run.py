"""The `run` command over files: carries a batch out, shows it, and says how to go on."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tritonq.calls import model_path
from tritonq.client import AsyncClient
from tritonq.command.batch import Batch, Job
from tritonq.command.exits import Exit, exit_of, tell_error
from tritonq.command.files import NoSuchFile, texts_of_folders
from tritonq.command.journal import Begun, Journal, journal_folder, key_of
from tritonq.command.progress import shown
from tritonq.command.show import item_json, item_line, one_line, reason, write_line
from tritonq.errors import TritonqError
from tritonq.results import Item, Model

FIRST_PATIENCE_S = 2.0  # nothing has begun, and somebody is watching: say soon what is wrong
PATIENCE_S = 300.0  # a batch outlives restarts of the service and a queue that is full for a while
FAILURES_SHOWN = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_EXIT = 128  # a process ended by a signal exits with this and the signal's number


@dataclass(frozen=True, slots=True)
class Options:
    """How a batch runs and is shown."""

    arguments: tuple[str, ...]  # as typed: they name the journal
    concurrency: int
    timeout_s: float | None
    as_json: bool
    fresh: bool  # forget what an interrupted run has submitted


async def run_files(
    url: str | None, job: Job, files: Sequence[Path], options: Options, notes: Console
) -> int:
    """Run `job` over `files` and return the exit code.

    Raises:
        NoSuchFile: none is left that the model could take.
        RunningAlready: the same command is running.
        TritonqError: no service is named, or it does not answer at all.
    """
    async with AsyncClient(url, patience_s=FIRST_PATIENCE_S) as client:
        models = await client.models()
    async with AsyncClient(url, patience_s=PATIENCE_S) as client:
        texts = texts_of_folders(files, options.arguments)
        if texts and _takes_images(models, job.model):
            files = [file for file in files if file not in texts]
            names = ", ".join(sorted(file.name for file in texts))
            if not files:
                raise NoSuchFile(f"{job.model} takes images, and there are only texts: {names}")
            told = one_line(f"left out, since {job.model} takes images: {names}")
            notes.print(told, markup=False, highlight=False)
        key = key_of(client.url, job.model, job.fields, options.arguments)
        with closing(Journal.open(journal_folder(), key)) as journal:
            if options.fresh:
                journal.forget()
            if journal.begun is not None:
                _tell_terms(job, journal.begun, notes)
            if journal:
                notes.print(
                    f"going on with an interrupted run: {len(journal)} of {len(files)} files were "
                    "submitted before (--fresh starts over)",
                    highlight=False,
                )
            batch = Batch(client, job, journal, len(files))
            try:
                return await _Run(batch, journal, options, notes).over(files)
            finally:
                if not journal and batch.tally.in_doubt == 0:
                    journal.forget()  # nothing of it is anywhere


def _tell_terms(job: Job, begun: Begun, notes: Console) -> None:
    """Say that the run goes on as it was begun, where this command says otherwise."""
    if (job.priority, job.cancel_after) != (begun.priority, begun.cancel_after):
        deadline = f" and --cancel-after {begun.cancel_after}" if begun.cancel_after else ""
        notes.print(
            f"it goes on as it was begun, with --priority {begun.priority}{deadline} "
            "(--fresh starts over)",
            markup=False,
            highlight=False,
        )


def _takes_images(models: Sequence[Model], reference: str) -> bool:
    """Whether the model has the input field that image tasks read."""
    path, _, _ = model_path(reference).partition("@")
    for model in models:
        if model.latest_version and model_path(model.full_name) == path:
            schema = model.latest_version.openapi_schema
            return "image" in schema["components"]["schemas"]["Input"].get("properties", {})
    return False


class _Run:
    def __init__(self, batch: Batch, journal: Journal, options: Options, notes: Console) -> None:
        self._batch = batch
        self._journal = journal
        self._options = options
        self._notes = notes
        self._failures: list[Item[Path]] = []
        self._stopped_by: int | None = None

    async def over(self, files: Sequence[Path]) -> int:
        """Show every item, then how it went. Returns the exit code."""
        began = time.monotonic()
        showing = asyncio.ensure_future(self._show_all(files))
        with self._stopped_by_signals(showing):
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    await showing
            except asyncio.CancelledError:
                if self._stopped_by is None:
                    raise
                self._tell_how_to_go_on("stopped")
                return SIGNAL_EXIT + self._stopped_by
            except TimeoutError:
                self._tell_how_to_go_on("the time is over")
                return Exit.STILL_RUNNING
            except TritonqError as error:
                tell_error(self._notes, str(error))
                self._tell_how_to_go_on("given up")
                return exit_of(error)
        self._tell_failures()
        self._tell_summary(time.monotonic() - began)
        self._journal.forget()
        return Exit.FAILED if self._failures else Exit.OK

    @contextmanager
    def _stopped_by_signals(self, showing: asyncio.Future[None]) -> Iterator[None]:
        """Let the first Ctrl-C stop the batch in order; a second one ends the process at once."""

        def stop(signal_number: int) -> None:
            if self._stopped_by is not None:
                os._exit(SIGNAL_EXIT + signal_number)  # the journal is whole after every line
            self._stopped_by = signal_number
            showing.cancel()

        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def _show_all(self, files: Sequence[Path]) -> None:
        line_of = item_json if self._options.as_json else item_line
        items = self._batch.run(files, concurrency=self._options.concurrency)
        async with shown(self._batch.tally, self._notes), aclosing(items):
            async for item in items:
                write_line(line_of(item))
                sys.stdout.flush()
                if item.error is not None:
                    self._failures.append(item)

    def _tell_failures(self) -> None:
        for item in self._failures[:FAILURES_SHOWN]:
            told = one_line(f"{item.given}: {reason(item)}")
            self._notes.print(f"failed: {told}", markup=False, highlight=False)
        if len(self._failures) > FAILURES_SHOWN:
            self._notes.print(f"… and {len(self._failures) - FAILURES_SHOWN} more failed")

    def _tell_how_to_go_on(self, why: str) -> None:
        tally = self._batch.tally
        if not self._journal and tally.in_doubt == 0:
            return
        self._notes.print(
            f"{why}: {tally.done} of {tally.total} files done, {len(self._journal)} submitted; "
            "what is submitted goes on. The same command again continues from here. "
            f"(Their ids are in {self._journal.path}.)",
            markup=False,
            highlight=False,
        )

    def _tell_summary(self, elapsed_s: float) -> None:
        tally = self._batch.tally
        if tally.total > 1:
            rate = tally.total / elapsed_s if elapsed_s > 0 else 0.0
            self._notes.print(
                f"{tally.total} files, {tally.failed} failed, {elapsed_s:.1f} s ({rate:.1f}/s)",
                highlight=False,
            )
