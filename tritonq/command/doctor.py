"""`tritonq doctor` at the terminal: what a start depends on, and what to do about it."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from standalone.doctor import Check, examine
from standalone.installation import Options

FAILED = 1


def doctor(options: Options, console: Console) -> int:
    """Print every check; exit code 1 if one of them would stop a start."""
    checks = examine(options)
    console.print(_table(checks))
    return 0 if all(check.ok for check in checks) else FAILED


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("FAIL", style="red")
        table.add_row(mark, check.name, check.detail)
        if check.remedy:
            table.add_row("", "", Text(check.remedy, style="yellow"))
    return table
