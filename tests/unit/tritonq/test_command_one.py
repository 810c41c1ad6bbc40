"""The words about single predictions: get, cancel, retry, and a run without files."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from typer.testing import Result

from tests.played_gateway import Gateway, problem, until

Command = Callable[..., Result]


def test_get_shows_a_prediction_and_its_end_decides_the_exit_code(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    tritonq("run", "echo", photos / "00.jpg")
    assert tritonq("get", "p0").exit_code == 0
    assert json.loads(tritonq("get", "p0", "--json").stdout)["id"] == "p0"

    gateway.outcome_of = lambda _: {"status": "failed", "error": "boom"}
    failed = tritonq("get", "p0", "--wait")
    assert (failed.exit_code, "boom" in failed.stdout) == (1, True)

    assert tritonq("get", "p99").exit_code == 3

    gateway.may_end.clear()
    assert tritonq("get", "p0").exit_code == 0
    late = tritonq("get", "p0", "--wait", "--timeout", "0.05")
    assert (late.exit_code, "not ended" in late.stderr) == (5, True)


def test_get_shows_deadline_and_retry_link_and_says_expired(
    tritonq: Command, gateway: Gateway
) -> None:
    gateway.may_end.clear()
    submitted = tritonq("run", "echo", "-i", "n=1", "--cancel-after", "90s", "--no-wait")
    assert "deadline: 2026-11-21 10:01:30 UTC" in submitted.stdout
    assert json.loads(tritonq("get", "p0", "--json").stdout)["deadline"] == "2026-11-21T10:01:30Z"

    gateway.answers.append(problem(410, "expired", detail="it is older than 90 days"))
    gone = tritonq("get", "p0")
    assert gone.exit_code == 6
    assert gone.stderr == "expired: it is older than 90 days\n"


def test_cancel_ends_what_it_can_and_says_what_it_could_not(
    tritonq: Command, gateway: Gateway
) -> None:
    for number in range(3):
        tritonq("run", "echo", "-i", f"n={number}")
    gateway.may_end.clear()
    for number in range(3, 6):
        tritonq("run", "echo", "-i", f"n={number}", "--no-wait")

    canceled = tritonq("cancel", "p3", "p4", "--json")
    assert canceled.exit_code == 0
    rows = [json.loads(line) for line in canceled.stdout.splitlines()]
    assert [(row["id"], row["status"]) for row in rows] == [("p3", "canceled"), ("p4", "canceled")]
    assert tritonq("get", "p3").exit_code == 1

    gateway.may_end.set()
    late = tritonq("cancel", "p0", "p3")
    assert late.exit_code == 1
    assert "p0 had ended before: succeeded" in late.stderr
    assert "p3  canceled" in late.stdout

    gateway.may_end.clear()
    some = tritonq("cancel", "p99", "p5")
    assert some.exit_code == 3
    assert "error: p99: there is no such prediction" in some.stderr
    assert "p5  canceled" in some.stdout


def test_retry_submits_failed_ones_anew_and_links_them(tritonq: Command, gateway: Gateway) -> None:
    gateway.outcome_of = lambda _: {"status": "failed", "error": "boom"}
    tritonq("run", "echo", "-i", "n=1")
    gateway.predictions["p0"]["outcome"] = {"status": "failed", "error": "boom"}
    gateway.outcome_of = lambda _: {"status": "succeeded", "output": 1}

    retried = tritonq("retry", "p0", "--wait", "--json")
    assert retried.exit_code == 0
    row = json.loads(retried.stdout)
    assert (row["id"], row["retry_of"], row["status"]) == ("p1", "p0", "succeeded")
    assert "retry of: p0" in tritonq("get", "p1").stdout

    refused = tritonq("retry", "p1", "p99", "p0")
    assert refused.exit_code == 1
    assert "error: p1: it has not failed" in refused.stderr
    assert "error: p99: there is no such prediction" in refused.stderr
    assert "p2  starting" in refused.stdout


def test_a_run_without_files_takes_its_whole_input_from_fields(
    tritonq: Command, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")

    result = tritonq(
        "run", "echo", "-i", "text=hello", "-i", "n=3", "-i", f"f=@{tmp_path / 'a.bin'}", "--json"
    )

    assert result.exit_code == 0
    given = json.loads(gateway.submits[0])["input"]
    assert given == {"text": "hello", "n": 3, "f": "data:application/octet-stream;base64,YWJj"}
    assert json.loads(result.stdout)["status"] == "succeeded"


def test_an_input_without_files_has_a_key_of_its_own_or_the_one_it_is_given(
    tritonq: Command, gateway: Gateway
) -> None:
    for _ in range(2):
        tritonq("run", "echo", "-i", "n=1")
    assert gateway.accepted == 2

    ids = [
        json.loads(tritonq("run", "echo", "-i", "n=1", "--key", "order-17", "--json").stdout)["id"]
        for _ in range(2)
    ]
    assert ids == ["p2", "p2"]

    other = tritonq("run", "echo", "-i", "n=2", "--key", "order-17")
    assert (other.exit_code, "different request" in other.stderr) == (1, True)


def test_a_wait_says_that_the_service_is_away_and_goes_on(
    tritonq: Command, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tritonq.command.one.PATIENCE_S", 0.0)
    monkeypatch.setattr("tritonq.command.one.PAUSE_S", 0.0)
    away = problem(503, "queue_unavailable", detail="the queue does not answer")
    tritonq("run", "echo", "-i", "n=1")
    gateway.may_end.clear()
    waiting = JSONResponse(gateway.shown("p0"))
    gateway.may_end.set()

    gateway.answers += [waiting, away, away]
    sat_out = tritonq("get", "p0", "--wait")
    assert sat_out.exit_code == 0
    assert sat_out.stderr.count("does not answer; trying again for up to 300 s") == 1

    monkeypatch.setattr("tritonq.command.one.OUTAGE_S_MAX", -1.0)
    gateway.answers += [waiting, away, away]
    given_up = tritonq("get", "p0", "--wait")
    assert given_up.exit_code == 69
    assert "prediction p0 was accepted, fetch it later" in given_up.stderr


def test_a_full_queue_is_told_with_when_to_come_again(tritonq: Command, gateway: Gateway) -> None:
    full = problem(429, "overloaded", detail="the queue is full", headers={"Retry-After": "7"})
    gateway.answers.append(full)
    refused = tritonq("run", "echo", "-i", "n=1")
    assert refused.exit_code == 69
    assert "the queue is full; try again in 7 s" in refused.stderr


def test_nothing_that_answers_can_move_the_cursor(tritonq: Command, gateway: Gateway) -> None:
    gateway.answers.append(problem(422, "invalid_input", detail="no \x1b[2J image"))
    refused = tritonq("run", "echo", "-i", "n=1")
    gateway.outcome_of = lambda _: {"status": "failed", "error": "bo\x1b[2Jom"}
    failed = tritonq("run", "echo", "-i", "n=1")

    assert refused.exit_code == failed.exit_code == 1
    assert "\x1b" not in refused.stderr + failed.stdout


def test_ctrl_c_while_waiting_for_one_says_how_to_go_on(gateway: Gateway) -> None:
    gateway.may_end.clear()
    command = [sys.executable, "-m", "tritonq", "run", "echo", "-i", "n=1", "--url", gateway.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        until(lambda: any("wait" in one.query for one in gateway.requests))
        run.send_signal(signal.SIGINT)
        _, notes = run.communicate(timeout=20)

    assert run.returncode == 130
    assert notes == "it goes on by itself: tritonq get p0 --wait\n"


def test_ctrl_c_before_the_answer_names_the_key_that_finds_it(gateway: Gateway) -> None:
    gateway.may_answer.clear()
    command = [sys.executable, "-m", "tritonq", "run", "echo", "-i", "n=1", "--url", gateway.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        until(lambda: bool(gateway.submits))
        run.send_signal(signal.SIGINT)
        _, notes = run.communicate(timeout=20)
    (submit,) = [one for one in gateway.requests if one.method == "POST"]

    assert run.returncode == 130
    assert f"--key {submit.headers['idempotency-key']} the same command" in notes
