"""What a newcomer must find, and what nobody must find."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.sources import PACKAGES, ROOT, files, python_files, relative, tree

# Places that exist on one machine only, and hosts that a user's own configuration should name.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home/(?!somebody\b)\w+|Users/\w+|opt/pypi)/")
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|deb\.debian\.org|registry\.npmjs", re.IGNORECASE
)
BINARY = {".jpg", ".png", ".jpeg", ".onnx", ".gif", ".webp"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is_for(package: str) -> None:
    docstring = ast.get_docstring(tree(ROOT / package / "__init__.py"))
    assert docstring, f"{package}/__init__.py has no docstring"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(relative(path))
        for path in python_files(*PACKAGES)
        if path.read_text().strip() and not ast.get_docstring(tree(path))
    ]
    assert not silent


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_first_commands(command: str) -> None:
    assert command in (ROOT / "README.md").read_text()


def test_every_word_of_make_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    assert words
    assert words == explained
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert words == set(phony.split())


def test_no_file_names_a_place_of_one_machine_or_a_registry() -> None:
    own = Path(__file__).name
    found = [
        f"{relative(path)}:{number}: {line.strip()[:80]}"
        for path in files()
        if path.suffix not in BINARY and path.name != own
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]
    assert not found
