"""The documents name files and functions that exist, and say what the code says."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.sources import ROOT, files, relative, tree
from tests.house.tables import MARKED, TABLES, documents, with_tables

NAMED = re.compile(r"`([a-z_]+(?:/[a-z_]+)+\.py):([A-Za-z_]+(?:\.[A-Za-z_]+)?)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MARKDOWN = [path for path in files() if path.suffix == ".md"]


def test_each_step_of_the_walk_is_in_the_file_it_names() -> None:
    steps = NAMED.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(steps) > 20
    missing = [f"{file}:{name}" for file, name in steps if name not in _defined(ROOT / file)]
    assert not missing


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda path: str(relative(path)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    broken = [target for target in targets if not (document.parent / target).exists()]
    assert not broken


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_tables_made_from_the_code_are_up_to_date(document: Path) -> None:
    """`python -m tests.house.tables` brings them up to date."""
    text = document.read_text()
    assert text == with_tables(text)


def test_every_table_that_can_be_made_is_shown_somewhere() -> None:
    shown = {name for path in documents() for name in MARKED.findall(path.read_text())}
    assert shown == set(TABLES)


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    unlisted = [path.name for path in folder.glob("0*.md") if f"({path.name})" not in index]
    assert not unlisted


def _defined(path: Path) -> set[str]:
    """Functions, classes and methods, as `Class.method`."""
    if not path.is_file():
        return set()
    found: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [
                it for it in node.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            found.update(f"{node.name}.{method.name}" for method in methods)
    return found
