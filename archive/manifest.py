"""The manifest: what is in a backup, and the proof that it is all there.

It is written last, under its final name, into a folder whose files are complete: a backup without
it, or with one that does not fit, was cut off.
"""

import hashlib
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from archive.files import Writer, Written, check, sync_folder, writing
from archive.refusals import MadeByNewer, NotWhole
from ledger import SCHEMA_VERSION

NAME = "manifest.json"
FORMAT = 1

QUEUE = "queue.records"
CLAIMS = "claims.records"


class Manifest(msgspec.Struct, frozen=True):
    """What a backup consists of. Fields are only ever added, with defaults."""

    format: int
    id: str
    product: str  # version of the release that made it
    schema: int
    made_at: datetime
    weeks: list[date]  # that the ledger has partitions for
    horizon: datetime | None
    tables: dict[str, list[str]]  # columns in the order in which they were copied
    files: dict[str, Written]
    blobs_missing: int = 0  # listed, and gone or damaged when they were read

    def blob_files(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith("blobs."))

    def summary(self) -> str:
        """What is in it, in a line."""
        files = self.files
        counts = {
            "predictions in the queue": files[QUEUE].records,
            "outcomes": files[table_file("predictions")].records,
            "idempotency keys": files[CLAIMS].records,
            "input files": sum(files[name].records for name in self.blob_files()),
        }
        size = sum(file.size for file in files.values())
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        return f"{told}; {size / 1e6:.1f} MB"


def blob_file(number: int) -> str:
    return f"blobs.{number:06}.records"


def table_file(table: str) -> str:
    return f"{table}.copy"


async def write(folder: Path, manifest: Manifest) -> None:
    """Finish a backup whose files are complete."""
    content = msgspec.to_builtins(manifest)
    text = msgspec.json.format(msgspec.json.encode({**content, "digest": _digest(content)}))
    unfinished = folder / f"{NAME}.unfinished"
    with Writer(unfinished) as file:
        await file.write(text + b"\n")
    with writing(folder):
        unfinished.rename(folder / NAME)
    sync_folder(folder)


def read(folder: Path) -> Manifest:
    """Read a manifest and judge it, without looking at the files.

    Raises:
        NotWhole: there is none, or it has been altered. MadeByNewer.
    """
    try:
        content: dict[str, Any] = msgspec.json.decode((folder / NAME).read_bytes(), type=dict)
    except FileNotFoundError:
        raise NotWhole(f"{folder} is not a backup, or one that was cut off: no {NAME}") from None
    except NotADirectoryError:
        raise NotWhole(f"{folder} is not a folder") from None
    except msgspec.DecodeError:
        raise NotWhole(f"{NAME} of {folder} cannot be read: it was altered or cut off") from None
    product = str(content.get("product", "?"))[:40]
    if (number := content.get("format")) != FORMAT:
        raise MadeByNewer(
            f"{folder} was made by tritonq {product} in format {number!r}; this release reads "
            f"format {FORMAT}: restore it with that release"
        )
    if content.pop("digest", None) != _digest(content):
        raise NotWhole(f"{NAME} of {folder} has been altered since the backup was made")
    manifest = msgspec.convert(content, Manifest)
    if manifest.schema > SCHEMA_VERSION:
        raise MadeByNewer(
            f"{folder} was made by tritonq {product} with schema version {manifest.schema}; this "
            f"release knows {SCHEMA_VERSION}: restore it with that release"
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises NotWhole for the first file that is not what was written. Blocks for long."""
    for name, written in sorted(manifest.files.items()):
        if Path(name).name != name:
            raise NotWhole(f"{NAME} of {folder} names a file outside of it")
        check(folder / name, written)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
