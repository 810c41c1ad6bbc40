"""The tables of docs/performance.md say what was measured, by medians of neighbours."""

import operator
from typing import Any

import pytest

from benchmarks import report
from benchmarks.report import DIRECT, GOALS, PRODUCTS, RAW, Goal

SAFE = PRODUCTS[0]


def cell(load: str, system: str, *rounds: dict[str, Any]) -> dict[str, Any]:
    return {"load": load, "system": system, "count": 1, "rounds": list(rounds)}


def results(*cells: dict[str, Any]) -> report.Results:
    return {"cells": list(cells)}


def rates(load: str, system: str, *per_s: float) -> dict[str, Any]:
    return cell(load, system, *({"per_s": each} for each in per_s))


def test_a_figure_is_the_median_of_its_rounds() -> None:
    measured = results(rates("fp32", SAFE, 150, 90, 140))
    assert report.median(measured, "fp32", SAFE, "per_s") == 140


def test_what_was_not_measured_is_left_empty() -> None:
    measured = results(rates("fp32", SAFE, 150))
    assert report.median(measured, "int8", SAFE, "per_s") is None
    assert report.median(measured, "fp32", SAFE, "p50_ms") is None
    assert "| int8: at least 235 images/s |  |  |  |  |" in report.goals_table(measured)


def test_a_difference_is_taken_within_each_round() -> None:
    # The machine was slow in the second round: medians of each alone would say +40.
    measured = results(rates("fp32", SAFE, 150, 60, 160), rates("fp32", DIRECT, 140, 50, 110))
    assert report.paired(measured, "fp32", (SAFE, DIRECT), "per_s", operator.sub) == 10


@pytest.mark.parametrize(
    ("figure", "value", "met"),
    [("per_s", 145, True), ("per_s", 144.9, False), ("cpu_ms", 145, True), ("cpu_ms", 146, False)],
)
def test_a_rate_has_a_floor_and_a_cost_has_a_ceiling(figure: str, value: float, met: bool) -> None:
    assert Goal("", "fp32", figure, 145).is_met(value) is met


def test_a_missed_goal_is_shown_as_missed() -> None:
    measured = results(rates("fp32", SAFE, 150), rates("fp32", PRODUCTS[1], 140))
    assert GOALS[0].text in report.goals_table(measured)
    assert "| 150/s | yes | 140/s | **no** |" in report.goals_table(measured)


def test_what_a_system_adds_to_raw_is_shown_with_its_sign() -> None:
    measured = results(cell("fp32", SAFE, {"cpu_ms": 13.5}), cell("fp32", RAW, {"cpu_ms": 12.25}))
    assert "above raw | +1.25 ms | yes |" in report.goals_table(measured)


def test_processes_that_belong_to_nobody_are_shown_as_one() -> None:
    spent = {"gateway": 0.5, "other": 0.01, "supervisor": 0.02, "ended": 0.03, "redis": 0.001}
    measured = results(cell("fp32", SAFE, {"by_process": spent}))
    shown = report.by_process(measured, "fp32", SAFE)
    assert shown == {"gateway": 0.5, "other": pytest.approx(0.06)}
    assert list(shown) == ["gateway", "other"]


def test_every_goal_is_about_something_that_is_measured() -> None:
    assert {goal.load for goal in GOALS} <= set(report.LOADS)
    measured = {(it["load"], it["system"]) for it in report.committed()["cells"]}
    wanted = {(goal.load, system) for goal in GOALS for system in PRODUCTS}
    wanted |= {(goal.load, goal.beside) for goal in GOALS if goal.beside}
    assert wanted <= measured
