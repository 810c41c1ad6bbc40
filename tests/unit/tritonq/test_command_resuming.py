"""Runs that end in their middle, by Ctrl-C, a kill or the time, and go on with the same command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.played_gateway import Gateway, nothing, problem, until

Command = Callable[..., Result]


def test_a_run_that_takes_too_long_is_exit_5_and_can_be_continued(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()

    late = tritonq("run", "echo", photos, "--timeout", "0.5")
    assert late.exit_code == 5
    gateway.may_end.set()
    again = tritonq("run", "echo", photos)

    assert again.exit_code == 0
    assert "going on with an interrupted run" in again.stderr
    assert sorted(gateway.submits) == sorted(path.read_bytes() for path in photos.iterdir())


def test_starting_over_submits_everything_again(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()
    tritonq("run", "echo", photos, "--timeout", "0.5", "--concurrency", "4")
    submitted = len(gateway.submits)
    gateway.may_end.set()

    assert tritonq("run", "echo", photos, "--fresh").exit_code == 0
    assert len(gateway.submits) == submitted + 30


def test_a_finished_command_starts_afresh(tritonq: Command, gateway: Gateway, photos: Path) -> None:
    tritonq("run", "echo", photos)
    tritonq("run", "echo", photos)

    assert len(gateway.submits) == 60


def test_a_file_that_changed_since_is_submitted_again(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()
    tritonq("run", "echo", photos, "--timeout", "0.5")
    (photos / "03.jpg").write_bytes(b"another")
    gateway.may_end.set()

    assert tritonq("run", "echo", photos).exit_code == 0
    assert gateway.submits.count(b"another") == 1
    assert len(gateway.submits) == len(set(gateway.submits))


def test_what_the_service_no_longer_knows_is_submitted_again(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()
    tritonq("run", "echo", photos, "--timeout", "0.5")
    before = len(gateway.predictions)
    gateway.predictions.clear()
    gateway.may_end.set()

    assert tritonq("run", "echo", photos).exit_code == 0
    assert gateway.accepted == before + 30


def _started(gateway: Gateway, photos: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tritonq", "run", "echo", str(photos), "--concurrency", "4"],
        env={**os.environ, "TRITONQ_URL": gateway.url, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_exits_130_and_the_same_command_again_submits_nothing_twice(
    gateway: Gateway, photos: Path
) -> None:
    """Submits on their way when Ctrl-C comes are awaited and noted: the slow ones count."""
    gateway.may_end.clear()
    gateway.submit_delay_s = 0.3

    with _started(gateway, photos) as run:
        until(lambda: len(gateway.submits) >= 3)
        run.send_signal(signal.SIGINT)
        _, notes = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "The same command again continues" in notes
    assert "Traceback" not in notes

    gateway.may_end.set()
    gateway.submit_delay_s = 0.0
    with _started(gateway, photos) as again:
        lines, notes = again.communicate(timeout=30)
    assert again.returncode == 0
    assert "going on with an interrupted run" in notes
    assert [line.split("\t")[0] for line in lines.splitlines()] == [
        str(photos / f"{number:02d}.jpg") for number in range(30)
    ]
    assert sorted(gateway.submits) == sorted(path.read_bytes() for path in photos.iterdir())


def test_a_run_killed_between_acceptance_and_journal_line_submits_nothing_twice(
    gateway: Gateway, photos: Path
) -> None:
    """Killed exactly there: the service has accepted, and its answer is not yet sent."""
    killed: list[str] = []

    def kill(prediction_id: str) -> None:
        if prediction_id == "p5":
            killed.append(prediction_id)
            run.kill()
            run.wait(timeout=20)

    gateway.has_accepted = kill
    with _started(gateway, photos) as run:
        run.communicate(timeout=60)
    assert killed == ["p5"]
    assert run.returncode == -signal.SIGKILL

    gateway.has_accepted = nothing
    with _started(gateway, photos) as again:
        lines, notes = again.communicate(timeout=60)

    assert again.returncode == 0, notes
    assert len(lines.splitlines()) == 30
    assert gateway.accepted == 30
    assert len(gateway.submits) > 30, "what was in doubt was asked for again"


def test_a_run_goes_on_on_the_terms_it_was_begun_with(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()
    terms = ("--priority", "low", "--cancel-after", "1h")
    assert tritonq("run", "echo", photos, "--timeout", "0.3", *terms).exit_code == 5
    gateway.may_end.set()
    gateway.requests.clear()

    again = tritonq("run", "echo", photos)

    assert again.exit_code == 0
    assert "as it was begun, with --priority low and --cancel-after 1h" in again.stderr
    posts = [one.headers for one in gateway.requests if one.method == "POST"]
    assert {(one["x-priority"], one["cancel-after"]) for one in posts} <= {("low", "1h")}
    assert gateway.accepted == 30


def test_a_run_of_which_nothing_was_accepted_is_not_remembered(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.answers += [gateway.model_page(), *[problem(404, "unknown_model")] * 30]
    assert tritonq("run", "echo", photos, "--priority", "low").exit_code == 3
    gateway.answers.clear()

    again = tritonq("run", "echo", photos, "--priority", "high")

    assert (again.exit_code, "as it was begun" in again.stderr) == (0, False)


def test_a_reader_who_leaves_ends_the_run_quietly(gateway: Gateway, photos: Path) -> None:
    with _started(gateway, photos) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        notes = run.stderr.read()
        run.wait(timeout=20)

    assert run.returncode == 141
    assert "Traceback" not in notes
