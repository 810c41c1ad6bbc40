"""`tritonq backup` and `tritonq restore` at the terminal."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from archive import ArchiveError, Manifest, Parts, Report, back_up, connected, restore
from archive.manifest import read as read_manifest
from archive.settings import ArchiveSettings
from contract.errors import DependencyError, Overloaded
from ledger import UnfitLedger
from tritonq.command.exits import Exit, tell_error

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.1

Work = Callable[[Parts, Path, Report], Awaitable[Manifest]]


def run_backup(folder: Path, state: Path | None, notes: Console) -> Exit:
    """Back up what is in the state folder `state`, or, if None, what the environment names."""
    return _run(back_up, folder, state, notes, new=False)


def run_restore(folder: Path, state: Path | None, notes: Console) -> Exit:
    """Restore into the state folder `state`, or, if None, into what the environment names."""
    return _run(restore, folder, state, notes, new=True)


def _run(work: Work, folder: Path, state: Path | None, notes: Console, *, new: bool) -> Exit:
    try:
        manifest = asyncio.run(_working(work, folder.absolute(), state, notes, new=new))
    except (ArchiveError, UnfitLedger, Overloaded) as error:
        tell_error(notes, str(error))
        return Exit.FAILED
    except DependencyError as error:
        tell_error(notes, f"{error}; try again")
        return Exit.UNAVAILABLE
    except (ValidationError, ValueError) as error:
        tell_error(notes, _what_is_wrong(error))
        return Exit.USAGE
    if manifest.blobs_missing:
        tell_error(
            notes,
            f"{manifest.blobs_missing} input files were damaged or removed and are not in it",
            label="note",
        )
    sys.stdout.write(f"{folder}\t{manifest.summary()}\n")
    return Exit.OK


async def _working(
    work: Work, folder: Path, state: Path | None, notes: Console, *, new: bool
) -> Manifest:
    if new:
        read_manifest(folder)  # before anything is made or started for it
    async with _parts(state, new=new) as parts:
        with _shown(notes) as report:
            return await work(parts, folder, report)


@asynccontextmanager
async def _parts(state: Path | None, *, new: bool) -> AsyncIterator[Parts]:
    if state is None:
        settings = ArchiveSettings()
        token = settings.nats_token
        async with connected(
            postgres_dsn=settings.postgres_dsn.get_secret_value(),
            nats_url=settings.nats_url,
            nats_token=None if token is None else token.get_secret_value(),
            blobs_url=settings.blobs_url,
            namespace=settings.namespace,
        ) as parts:
            yield parts
    else:
        async with _of_state(state, new=new) as parts:
            yield parts


@asynccontextmanager
async def _of_state(state: Path, *, new: bool) -> AsyncIterator[Parts]:
    # Here, since a container has no servers of its own and not the packages to start them.
    from standalone.server import CannotStart
    from standalone.stores import stores

    try:
        async with (
            stores(state, new=new) as kept,
            connected(
                postgres_dsn=kept.postgres_dsn,
                nats_url=kept.nats_url,
                nats_token=kept.nats_token,
                blobs_url=kept.blobs_url,
            ) as parts,
        ):
            yield parts
    except CannotStart as error:
        raise ArchiveError(str(error)) from error


@contextmanager
def _shown(notes: Console) -> Iterator[Report]:
    """Show how far it is: a bar on a terminal, else a line every few seconds."""
    if not notes.is_terminal:
        yield _lines(notes)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=notes, transient=True) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}
    shown_at = 0.0

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal shown_at
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        elif time.monotonic() - shown_at < BAR_EVERY_S and done != total:
            return
        shown_at = time.monotonic()
        bars.update(tasks[what], completed=done, total=total)

    return report


def _lines(notes: Console) -> Report:
    told: dict[str, float] = {}

    def report(what: str, done: int, total: int | None) -> None:
        if time.monotonic() - told.get(what, float("-inf")) < LINE_EVERY_S:
            return
        told[what] = time.monotonic()
        of = "" if total is None else f"/{total}"
        notes.print(f"{what} {done}{of}" if done else what, markup=False, highlight=False)

    return report


def _what_is_wrong(error: Exception) -> str:
    """Name settings that are wrong, without their values: they may be secrets."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"TRITONQ_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
        for problem in problems
    ]
    return "; ".join(told)
