"""The files of the checkout, as the house rules look at them."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "contract", "tasks", "ledger", "blobs", "broker", "inference", "telemetry", "configuration",
    "gateway", "dispatcher", "archive", "weights", "standalone", "tritonq",
)  # fmt: skip
IGNORED = {".git", ".venv", ".venv-triton", ".cache", ".tritonq", "__pycache__", "1"} | {
    f".{tool}_cache" for tool in ("mypy", "ruff", "pytest", "import_linter")
}


@cache
def files() -> tuple[Path, ...]:
    """Everything that is or would be committed; without git, what does not look like a cache."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = [ROOT / name for name in asked.stdout.splitlines()]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in ROOT.rglob("*") if not IGNORED.intersection(relative(path).parts)]
    return tuple(path for path in found if path.is_file())


def python_files(*folders: str) -> Iterator[Path]:
    """The Python files of these top-level folders; of all when none is named."""
    for path in files():
        if path.suffix == ".py" and (not folders or relative(path).parts[0] in folders):
            yield path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """What is called, as it is written (`time.time`), and in which line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def relative(path: Path) -> Path:
    return path.relative_to(ROOT)
