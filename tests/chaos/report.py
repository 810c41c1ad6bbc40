"""What a campaign found, as lines, as a table, as JSON, and in docs/reliability.md."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median

from tests.chaos.attack import RATE_PER_S, Result
from tests.chaos.campaign import KEPT
from tests.chaos.checker import Kind
from tests.chaos.matrix import Fault, Target
from tests.services import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
MARKED = re.compile(r"<!-- measured: chaos -->\n.*?<!-- end -->", re.DOTALL)


def line_of(result: Result) -> str:
    """One cell in a line; for a red one, what is wrong and how to play it again."""
    name = f"{result.cell.name:32}"
    if result.skipped:
        return f"{name} skipped: {result.skipped}"
    facts = (
        f"{result.took_s:5.1f} s, {result.accepted:4} accepted, {result.refused:3} refused,"
        f" recovered in {result.recovery_s:.2f} s"
    )
    if result.is_green:
        return f"{name} green {facts}"
    wrong = [f"      {each}" for each in [result.error, *result.violations] if each]
    shown = [*wrong[:12], *([f"      and {len(wrong) - 12} more"] if len(wrong) > 12 else [])]
    again = f"      again: make chaos SEED={result.seed} CELLS='{result.cell.name}'"
    return "\n".join([f"{name} RED   {facts}", *shown, again, f"      kept: {result.history}"])


def table_of(results: Sequence[Result]) -> str:
    """The table of one or more campaigns, in Markdown: a row for each process and fault."""
    played = [result for result in results if not result.skipped]
    broken = Counter(v.kind for result in played for v in result.violations)
    green = sum(result.is_green for result in played)
    accepted = sum(result.accepted for result in played)
    head = (
        f"{_now()}, commit {_commit()}, {_seeds(results)}: {len(played)} cells, {green} green"
        + (f", {len(results) - len(played)} skipped" if len(played) < len(results) else "")
        + f". {accepted:,} predictions accepted at {RATE_PER_S:.0f} callers a second:"
        f" lost {broken[Kind.LOST]}, double {broken[Kind.DOUBLE]}, stuck {broken[Kind.STUCK]},"
        f" wrong {broken[Kind.WRONG]}, backwards {broken[Kind.BACKWARDS]},"
        f" 404 for an accepted one {broken[Kind.UNKNOWN]}.\n\n"
    )
    rows = [
        "| process | fault | for | cells | green | recovery, median | worst | all settled, worst |"
    ]
    rows.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for target in Target:
        for fault in Fault:
            of_both = [it for it in played if (it.cell.target, it.cell.fault) == (target, fault)]
            if of_both:
                rows.append(_row(target, fault, of_both))
    return head + "\n".join(rows) + "\n"


def _row(target: Target, fault: Fault, results: Sequence[Result]) -> str:
    recoveries = [result.recovery_s for result in results if not result.error] or [0.0]
    settled = max(result.settled_s for result in results)
    duration_s = results[0].cell.duration_s
    cells = (
        target.value,
        fault.value,
        f"{duration_s:.0f} s" if duration_s else "at once",
        str(len(results)),
        str(sum(result.is_green for result in results)),
        f"{median(recoveries):.2f} s",
        f"{max(recoveries):.2f} s",
        f"{settled:.1f} s",
    )
    return "| " + " | ".join(cells) + " |"


def keep_results(results: Sequence[Result], seed: int) -> None:
    """Write everything measured as JSON, beside the histories of red cells."""
    KEPT.mkdir(exist_ok=True)
    found = [
        {
            "cell": result.cell.name,
            "green": result.is_green,
            "skipped": result.skipped,
            "error": result.error,
            "violations": [str(violation) for violation in result.violations],
            "accepted": result.accepted,
            "refused": result.refused,
            "recovery_s": round(result.recovery_s, 3),
            "settled_s": round(result.settled_s, 3),
            "grown_mb": round(result.grown_mb, 1),
            "took_s": round(result.took_s, 1),
        }
        for result in results
    ]
    facts = {"at": _now(), "commit": _commit(), "seed": seed, "cells": found}
    (KEPT / f"results-{seed}.json").write_text(json.dumps(facts, indent=2) + "\n")


def write_document(results: Sequence[Result]) -> None:
    """Put the table between the marks of docs/reliability.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = f"<!-- measured: chaos -->\n{table_of(results)}<!-- end -->"
    assert MARKED.search(text), f"{DOCUMENT} has no place for the table"
    DOCUMENT.write_text(MARKED.sub(lambda _: table, text), encoding="utf-8")


def _seeds(results: Sequence[Result]) -> str:
    seeds = sorted({result.seed for result in results})
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(str(seed) for seed in seeds)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
