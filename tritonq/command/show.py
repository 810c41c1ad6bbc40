"""How results look on stdout: lines for people, or one JSON object a line for programs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tritonq.errors import InvalidInput
from tritonq.results import JSON, Item, Model, Prediction

LABELS_SHOWN = 3
OUTPUT_CHARACTERS_MAX = 200  # in a line for people; --json shows everything


def notes_console() -> Console:
    """Everything that is not data. rich leaves colours out for NO_COLOR and for files."""
    return Console(stderr=True, soft_wrap=True)


def write_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def item_line(item: Item[Path]) -> str:
    """One line for a person: the file, then the output, the id, or why there is none."""
    if item.error is not None:
        return f"{one_line(str(item.given))}\tfailed: {one_line(reason(item))}"
    assert item.prediction is not None
    told = output_line(item.output) if item.prediction.has_ended else item.prediction.id
    return f"{one_line(str(item.given))}\t{told}"


def reason(item: Item[Path]) -> str:
    """Why an item has no output."""
    ended = item.prediction is not None and item.prediction.has_ended
    return str(item.prediction.error if ended and item.prediction else item.error)


def one_line(text: str) -> str:
    """The text as it is, or with escapes: a file's name may hold newlines, and bytes of no text."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def item_json(item: Item[Path]) -> str:
    """The same as a JSON object."""
    members: dict[str, JSON] = {"file": str(item.given)}
    if item.prediction is not None:
        members |= prediction_members(item.prediction)
    else:
        members |= {"id": None, "status": "refused", "error": str(item.error)}
        if isinstance(item.error, InvalidInput):
            members |= {"field": item.error.field, "rule": item.error.rule}
    return json.dumps(members)  # in ASCII: a file's name may hold bytes that are no text


def prediction_members(prediction: Prediction) -> dict[str, JSON]:
    """What is told about a prediction: not its input, which may be large."""
    members: dict[str, Any] = msgspec.to_builtins(prediction)
    del members["input"]
    return {name: value for name, value in members.items() if value is not None}


def output_line(output: JSON) -> str:
    """An output in one line; of a classification, its best labels."""
    labels = _labels(output)
    if labels is not None:
        return ", ".join(labels[:LABELS_SHOWN])
    text = json.dumps(output, ensure_ascii=False)
    if len(text) <= OUTPUT_CHARACTERS_MAX:
        return text
    return text[:OUTPUT_CHARACTERS_MAX] + f"… ({len(text)} characters; --json shows all)"


def prediction_text(prediction: Prediction) -> str:
    """A prediction for a person, on a few lines."""
    lines = [f"{prediction.id}  {prediction.status}  {prediction.version}"]
    if prediction.has_succeeded:
        labels = _labels(prediction.output)
        lines += labels if labels is not None else [output_line(prediction.output)]
    elif prediction.error:
        lines.append(f"error: {one_line(prediction.error)}")
    elif prediction.queue:
        lines.append(", ".join(f"{name} {value}" for name, value in prediction.queue.items()))
    if prediction.deadline and not prediction.has_ended:
        lines.append(f"deadline: {prediction.deadline:%Y-%m-%d %H:%M:%S} UTC")
    if prediction.retry_of:
        lines.append(f"retry of: {prediction.retry_of}")
    return "\n".join(lines)


def write_models(models: Sequence[Model], console: Console) -> None:
    """A table on a terminal; otherwise a line each, parts separated by tabs."""
    rows = [
        (
            model.full_name,
            model.latest_version.id if model.latest_version else "",
            model.description or "",
        )
        for model in models
    ]
    if not console.is_terminal:
        for row in rows:
            write_line("\t".join(row))
        return
    table = Table("model", "version", "description", box=None, pad_edge=False)
    for name in (0, 1):
        table.columns[name].no_wrap = True
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _labels(output: JSON) -> list[str] | None:
    """`label score` of each entry, when the output is a list of labels with scores."""
    try:
        return [f"{entry['label']} {entry['score']:.3f}" for entry in output]
    except (TypeError, KeyError, ValueError):
        return None
