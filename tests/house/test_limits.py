"""The table of limits holds every limit there is."""

import ast
from collections.abc import Iterator

from tests.house.limits import EXCEPTED, SETTINGS, places, value_text
from tests.house.sources import PACKAGES, python_files, relative, tree


def constants() -> Iterator[str]:
    """Every public constant of the product that is called a maximum."""
    for path in python_files(*PACKAGES):
        module = ".".join(relative(path).with_suffix("").parts)
        for node in tree(path).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = ast.unparse(target)
                if name.endswith("_MAX") and not name.startswith("_"):
                    yield f"{module}.{name}"


def is_excepted(place: str) -> bool:
    return any(place == each or place.startswith(each + ".") for each in EXCEPTED)


def test_every_limit_of_the_code_is_in_the_table() -> None:
    known = set(places())
    missing = [each for each in constants() if each not in known and not is_excepted(each)]
    assert not missing, "tests/house/limits.py says what they bound, and what is beyond"


def test_every_setting_that_is_a_limit_is_in_the_table() -> None:
    known = set(places())
    settings = {
        f"{owner}.{name}"
        for owner, kind in SETTINGS.items()
        for name in kind.model_fields
        if name.endswith("_max")
    }
    assert settings <= known


def test_no_limit_is_listed_twice_and_each_has_a_value() -> None:
    listed = list(places())
    assert len(listed) == len(set(listed))
    assert all(value_text(each) for each in listed)


def test_no_exception_is_left_over() -> None:
    found = list(constants())
    unused = [
        each
        for each in EXCEPTED
        if not any(place == each or place.startswith(each + ".") for place in found)
    ]
    assert unused in ([], ["weights"])  # whose limits are private


def test_a_rate_is_a_number_and_a_time_has_its_unit() -> None:
    assert value_text("telemetry.logs.LINES_PER_S_MAX") == "20"
    assert value_text("ledger.connections.CONNECT_S_MAX") == "5 s"
