"""How the command ends: its exit codes, and the one place where errors become messages."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console

from tritonq.command.files import NoSuchFile
from tritonq.command.journal import RunningAlready
from tritonq.errors import (
    Expired,
    InvalidInput,
    NoService,
    NotFound,
    Overloaded,
    PredictionFailed,
    ServiceUnavailable,
    StillRunning,
    TritonqError,
    Unauthorized,
    UnexpectedAnswer,
)


class Exit(IntEnum):
    """What a script can rely on. 69 is EX_UNAVAILABLE of sysexits.h, 130 is 128 + SIGINT."""

    OK = 0
    FAILED = 1  # some prediction failed, or an input was refused
    USAGE = 2
    NOT_FOUND = 3
    UNAUTHORIZED = 4
    STILL_RUNNING = 5
    EXPIRED = 6  # the retention has removed it, if it ever was there
    UNAVAILABLE = 69
    INTERRUPTED = 130
    BROKEN_PIPE = 141  # 128 + SIGPIPE: whoever read our output has left


_MEANINGS: tuple[tuple[type[Exception], Exit], ...] = (
    (Expired, Exit.EXPIRED),
    (NotFound, Exit.NOT_FOUND),
    (Unauthorized, Exit.UNAUTHORIZED),
    (StillRunning, Exit.STILL_RUNNING),
    (NoService, Exit.UNAVAILABLE),
    (Overloaded, Exit.UNAVAILABLE),
    (ServiceUnavailable, Exit.UNAVAILABLE),
    (UnexpectedAnswer, Exit.UNAVAILABLE),
    (InvalidInput, Exit.FAILED),
    (PredictionFailed, Exit.FAILED),
    (TritonqError, Exit.FAILED),
    (NoSuchFile, Exit.USAGE),
    (RunningAlready, Exit.USAGE),
)


def exit_of(error: Exception) -> Exit:
    """The exit code that an expected error means."""
    return next(code for kind, code in _MEANINGS if isinstance(error, kind))


@contextmanager
def errors_as_exits(notes: Console) -> Iterator[None]:
    """Turn expected errors into a sentence on stderr and an exit code. A bug stays a traceback."""
    try:
        yield
    except tuple(kind for kind, _ in _MEANINGS) as error:
        told = str(error)
        if isinstance(error, Overloaded):
            told += f"; try again in {error.retry_after_s:g} s"
        tell_error(notes, told, label="expired" if isinstance(error, Expired) else "error")
        raise typer.Exit(exit_of(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit(Exit.BROKEN_PIPE) from None
    except OSError as error:  # a disk that is full, a cache folder that cannot be written
        tell_error(notes, str(error))
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        raise typer.Exit(Exit.FAILED) from error


def _drop_output() -> None:
    # Else Python complains once more when it flushes stdout on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell_error(notes: Console, message: str, *, label: str = "error") -> None:
    notes.print(f"{label}:", style="bold red", end=" ")
    # The message may come from whatever answered: nothing in it is to move the cursor about.
    shown = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in message)
    notes.print(shown, markup=False, highlight=False)
