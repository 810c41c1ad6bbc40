"""What the large benchmarks share: arguments, progress on stderr, and results that say where."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
_BEGAN_S = time.monotonic()


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that every large benchmark takes; `document` explains it."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the result there, instead of to stdout")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (else the usual /tmp)")
    return parser


def tell(what: str) -> None:
    """Tell whoever waits how far it is."""
    sys.stderr.write(f"{time.monotonic() - _BEGAN_S:7.1f} s  {what}\n")
    sys.stderr.flush()


def finish(
    given: argparse.Namespace, figures: dict[str, Any], tables: Sequence[str], **facts: Any
) -> None:
    """Print the tables and write the figures, with what they were taken on."""
    settings = {name: value for name, value in vars(given).items() if name not in _NOT_SETTINGS}
    result = {**circumstances(), "settings": {**settings, **facts}, **figures}
    text = json.dumps(result, indent=1, default=str) + "\n"
    if given.json:
        given.json.write_text(text)
    else:
        sys.stdout.write(text)
    print("\n\n".join(tables))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def quantiles_ms(took_s: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(took_s)
    at = [ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99)]
    return {"p50_ms": round(1000 * at[0], 3), "p99_ms": round(1000 * at[1], 3)}


def files_mib(folder: Path) -> int:
    """What the files below `folder` take of the disk."""
    blocks = 0
    for path in folder.rglob("*"):
        try:
            blocks += path.stat().st_blocks
        except FileNotFoundError:  # removed meanwhile
            continue
    return round(blocks * 512 / 2**20)


_NOT_SETTINGS = ("json", "folder")


def circumstances() -> dict[str, Any]:
    """When, on which commit and on which machine."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": platform.platform(terse=True),
            "load_average": [round(each, 1) for each in os.getloadavg()],
        },
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
