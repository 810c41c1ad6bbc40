"""Tables of the documents that are made from the code.

`python -m tests.house.tables` writes them into the documents; a test compares.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from benchmarks import report
from contract import errors
from contract.moves import MOVES
from dispatcher.settings import DispatcherSettings
from gateway import problems
from gateway.settings import GatewaySettings
from standalone.ports import Ports
from telemetry import metrics
from tests.house import limits
from tests.house.sources import ROOT
from weights.settings import WeightsSettings

MARKED = re.compile(r"<!-- made: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def settings(kind: type[BaseSettings]) -> str:
    prefix = kind.model_config.get("env_prefix", "")
    rows = [
        (f"`{prefix}{name.upper()}`", _default(field), field.description or "")
        for name, field in kind.model_fields.items()
    ]
    return _table(("setting", "default", "meaning"), rows)


def metric_table() -> str:
    found = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    rows = []
    for metric in found:
        kind = str(metric._type)
        name = metric._name + ("_total" if kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append((f"`{name}`", kind, labels, metric._documentation))
    return _table(("metric", "kind", "labels", "meaning"), rows)


def error_table() -> str:
    """Errors that answer requests. (What fails a prediction is its `error_code` instead.)"""
    rows = [
        (str(problems.status_of(kind("", **_arguments(kind))).value), f"`{code}`", _meaning(kind))
        for code, kind in _by_code().items()
    ]
    return _table(("status", "`code`", "meaning"), sorted(rows))


def _by_code() -> dict[str, type[errors.ServiceError]]:
    own = {
        kind
        for module in (errors, problems)
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.ServiceError)
        and not issubclass(kind, errors.InferenceError)
        and kind is not errors.ServiceError
    }
    # Kinds may share a code; the one nearest to the root says what it means.
    return {kind.code: kind for kind in sorted(own, key=lambda it: -len(it.__mro__))}


def _arguments(kind: type[errors.ServiceError]) -> dict[str, Any]:
    return {"retry_after_s": 1} if issubclass(kind, errors.Overloaded) else {}


def _meaning(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def port_table() -> str:
    rows = [(f"`{name}`", str(field.default)) for name, field in Ports.__dataclass_fields__.items()]
    return _table(("what listens", "port, or the next free one"), rows)


def move_table() -> str:
    """The moves as a picture and as a table: from `contract.moves`, as everything else judges."""
    picture = "".join(
        f"    {move.before or '[*]'} --> {move.after}: {move.cause}\n" for move in MOVES
    )
    rows = [(move.before or "", move.after, move.cause, move.effect) for move in MOVES]
    table = _table(("from", "to", "cause", "the one effect"), rows)
    return f"```mermaid\nstateDiagram-v2\n{picture}```\n\n{table}"


def _measured(name: str) -> str:
    """A table of what `make bench` has measured."""
    return report.TABLES[name](report.committed())


TABLES: dict[str, Callable[[], str]] = {
    "gateway_settings": lambda: settings(GatewaySettings),
    "dispatcher_settings": lambda: settings(DispatcherSettings),
    "weights_settings": lambda: settings(WeightsSettings),
    "metrics": metric_table,
    "errors": error_table,
    "limits": limits.table,
    "ports": port_table,
    "moves": move_table,
    **{name: partial(_measured, name) for name in report.TABLES},
}


def with_tables(text: str) -> str:
    """`text` with every marked table as the code has it now."""
    return MARKED.sub(
        lambda found: f"<!-- made: {found[1]} -->\n{TABLES[found[1]]()}<!-- end -->", text
    )


def documents() -> list[Path]:
    return sorted((ROOT / "docs").glob("*.md"))


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, SecretStr):
        default = default.get_secret_value() or None
    if field.default_factory is not None:
        return "of the machine"
    if field.is_required():
        return "**required**"
    if default is None or default in ("", ()):
        return "none"
    return f"`{default}`"


def main() -> None:
    for path in documents():
        path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
