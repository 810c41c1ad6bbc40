"""Names that say nothing, and habits that cost later."""

import re
from pathlib import Path

from tests.house.sources import PACKAGES, calls, files, python_files, relative

EMPTY_NAMES = {
    "utils",
    "util",
    "common",
    "core",
    "helpers",
    "helper",
    "manager",
    "misc",
    "base_utils",
}
PURE = ("contract", "tasks")
CLOCKS = {
    "time.time", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow",
    "datetime.datetime.now", "date.today",
}  # fmt: skip
TODO = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TODO_WITH_ISSUE = re.compile(r"\bTODO\(#\d+\)")


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {part for path in python_files() for part in relative(path).with_suffix("").parts}
    assert not names & EMPTY_NAMES


def test_every_todo_names_its_issue() -> None:
    loose = [
        f"{relative(path)}:{number}"
        for path in python_files()
        if path.name != Path(__file__).name
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if TODO.search(line) and not TODO_WITH_ISSUE.search(line)
    ]
    assert not loose


def test_nothing_prints_but_the_command() -> None:
    printing = [
        f"{relative(path)}:{line}"
        for path in python_files(*(package for package in PACKAGES if package != "tritonq"))
        for name, line in calls(path)
        if name == "print"
    ]
    assert not printing


def test_pure_packages_are_told_the_time() -> None:
    asking = [
        f"{relative(path)}:{line} {name}"
        for path in (*python_files(*PURE), *_named("dispatcher/batching.py"))
        for name, line in calls(path)
        if name in CLOCKS
    ]
    assert not asking


def test_a_test_is_named_by_its_promise() -> None:
    short = [
        f"{relative(path)}:{name}"
        for path in python_files("tests")
        for name in re.findall(r"def (test_\w+)", path.read_text())
        if name.count("_") < 3  # test_ and three words at the least
    ]
    assert not short


def _named(name: str) -> list[Path]:
    found = [path for path in files() if str(relative(path)) == name]
    assert found, f"{name} is gone: this rule looks at it"
    return found
