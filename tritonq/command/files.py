"""Which files the arguments of `run` mean."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

# What lies beside photographs. Not by `mimetypes`: what that knows differs between machines.
_TEXT_SUFFIXES = (
    ".csv",
    ".html",
    ".json",
    ".jsonl",
    ".log",
    ".md",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
)


class NoSuchFile(Exception):
    """An argument means no file; the message says which and why."""


def find_files(arguments: Sequence[str]) -> list[Path]:
    """The files that `arguments` mean, in their order, each once.

    A folder means the files in it by name, hidden ones and sub-folders left out; a pattern
    (`*`, `?`, `[]`, `**`) means what it matches, by name.

    Raises:
        NoSuchFile: an argument means nothing.
    """
    found: dict[Path, None] = {}  # a dict keeps the order and drops repeats
    for argument in arguments:
        found.update(dict.fromkeys(_meant(argument)))
    return list(found)


def texts_of_folders(files: Sequence[Path], arguments: Sequence[str]) -> set[Path]:
    """Those of `files` that are text by name, and are here as part of a folder only."""
    named = set(map(Path, arguments))
    folders = {path for path in named if path.is_dir()}
    return {
        file
        for file in files
        if file.suffix.lower() in _TEXT_SUFFIXES and file.parent in folders and file not in named
    }


def _meant(argument: str) -> Iterable[Path]:
    path = Path(argument)
    # A file may be named like a pattern, so what is there comes first.
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.is_file() and one.name[0] != ".")
        if not files:
            raise NoSuchFile(f"there are no files in {argument}")
        return files
    if path.is_file():
        return [path]
    matched = glob.glob(argument, recursive=True)  # noqa: PTH207 - Path.glob refuses absolute ones
    files = sorted(match for match in map(Path, matched) if match.is_file())
    if not files:
        raise NoSuchFile(f"there is no file or folder {argument}")
    return files
