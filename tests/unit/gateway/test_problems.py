import json
from typing import Any

import pytest
from starlette.requests import Request

from contract import errors
from gateway import problems
from gateway.problems import STATUS, problem, status_of
from telemetry.logs import Allowance


def all_errors(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in all_errors(child))]


OURS = [
    kind
    for kind in all_errors(errors.ServiceError)
    if kind.__module__ in {errors.__name__, problems.__name__} and kind is not errors.ServiceError
]


def make(kind: type[errors.ServiceError]) -> errors.ServiceError:
    if issubclass(kind, errors.Overloaded):
        return kind("full", retry_after_s=7)
    return kind("a reason")


def body_of(error: errors.ServiceError) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(bytes(problem(error).body))
    return value


@pytest.mark.parametrize("kind", OURS)
def test_every_expected_error_is_a_problem_document_with_an_explanation(
    kind: type[errors.ServiceError],
) -> None:
    error = make(kind)
    response = problem(error)
    body = body_of(error)
    assert response.media_type == "application/problem+json"
    assert body["status"] == response.status_code == status_of(error) >= 400
    assert body["detail"] == str(error)
    assert body["type"] == f"/problems/{body['code']}"
    assert problems.explain(body["code"]).status_code == 200


def test_statuses_are_the_ones_that_the_error_tree_promises() -> None:
    """contract/errors.py names a status beside each error."""
    promised = {
        line.split()[1]: int(line.split()[-1])
        for line in (errors.__doc__ or "").splitlines()
        if line.strip().startswith("*") and line.split()[-1].isdigit()
    }
    assert promised
    for name, status in promised.items():
        assert status_of(make(getattr(errors, name))) == status


def test_a_field_error_names_field_rule_and_message() -> None:
    error = errors.InvalidInput("too dark", field="input.image", rule="bright")
    assert body_of(error)["errors"] == [
        {"field": "input.image", "rule": "bright", "message": "too dark"}
    ]


def test_what_may_pass_says_when_to_come_back() -> None:
    assert problem(errors.Overloaded("full", retry_after_s=7)).headers["retry-after"] == "7"
    assert problem(errors.LedgerUnavailable("away")).headers["retry-after"].isdigit()


def test_what_must_not_be_sent_again_says_so_to_generated_clients() -> None:
    for error in (errors.AlreadyAccepted("x"), errors.AcceptanceUnknown("x")):
        assert problem(error).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in problem(errors.QueueUnavailable("x")).headers


def test_a_refused_token_says_which_scheme_is_read() -> None:
    assert problem(errors.Unauthorized("who?")).headers["www-authenticate"] == "Bearer"


def test_an_unknown_problem_is_not_explained() -> None:
    with pytest.raises(problems.NotFound):
        problems.explain("nonsense")


def test_the_table_has_no_error_twice() -> None:
    codes = [kind.code for kind in STATUS]
    assert len(codes) == len(set(codes))


async def test_an_outage_is_logged_once_a_second_without_what_drivers_say(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(problems, "_failures", Allowance(1, lambda: now))
    for _ in range(100):
        error = errors.LedgerUnavailable("the ledger does not answer")
        error.__cause__ = ConnectionRefusedError(111, "connect to db.internal:5432 failed")
        answer = await problems.answer_expected(Request({"type": "http"}), error)
        assert answer.status_code == 503
    now = 1.0
    await problems.answer_expected(Request({"type": "http"}), error)
    first, second = caplog.records
    assert vars(first)["reason"] == (
        "LedgerUnavailable: the ledger does not answer < ConnectionRefusedError 111"
    )
    assert vars(second)["left_out"] == 99
    assert "db.internal" not in caplog.text
    assert not first.exc_info
