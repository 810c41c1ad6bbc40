"""The command as a shell sees it: arguments, both streams, exit codes, Ctrl-C."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import Response
from typer.testing import Result

from tests.played_gateway import PHOTOS, Gateway, problem

Command = Callable[..., Result]


def test_results_are_on_stdout_in_the_order_of_the_files(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.outcome_of = lambda content: {
        "status": "succeeded",
        "output": [{"label": content[3:].decode(), "score": 0.5}],
    }

    result = tritonq("run", "echo", photos)

    assert result.exit_code == 0
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines == [[str(photos / f"{n:02d}.jpg"), f"{n} 0.500"] for n in range(30)]
    assert "30 files, 0 failed" in result.stderr


def test_failures_are_listed_at_the_end_and_exit_1(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    (photos / "07.jpg").write_bytes(b"\xff\xd8\xff7")
    gateway.outcome_of = lambda content: (
        {"status": "failed", "error": "seven is no image"}
        if content.endswith(b"\xff7")
        else {"status": "succeeded", "output": 1}
    )

    result = tritonq("run", "echo", photos, "--json")

    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == [str(photos / f"{n:02d}.jpg") for n in range(30)]
    assert (rows[7]["status"], rows[7]["error"]) == ("failed", "seven is no image")
    assert rows[6]["output"] == 1
    assert f"failed: {photos / '07.jpg'}: seven is no image" in result.stderr
    assert "30 files, 1 failed" in result.stderr


def test_a_refused_file_fails_alone_and_says_field_and_rule(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    field = {"field": "input.image", "rule": "decodable_image", "message": "no"}
    refusal = problem(422, "invalid_input", detail="no image", errors=[field])
    gateway.answers += [gateway.model_page(), refusal]

    result = tritonq("run", "echo", photos, "--json", "--concurrency", 1)

    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows[0] == {
        "file": str(photos / "00.jpg"),
        "id": None,
        "status": "refused",
        "error": "input.image: no image",
        "field": "input.image",
        "rule": "decodable_image",
    }
    assert [row["status"] for row in rows[1:]] == ["succeeded"] * 29


def test_a_name_that_is_no_text_or_no_line_harms_neither_form_of_result(
    gateway: Gateway, tmp_path: Path
) -> None:
    for name in (b"a\xff.jpg", b"b\n.jpg", "c\N{CAT FACE}.jpg".encode()):
        Path(os.fsdecode(bytes(tmp_path / "x")[:-1] + name)).write_bytes(b"\xff\xd8\xff" + name)
    gateway.may_end.clear()
    command = [sys.executable, "-m", "tritonq", "run", "echo", str(tmp_path), "--url", gateway.url]
    stopped = subprocess.run([*command, "--timeout", "1"], capture_output=True, timeout=60)
    gateway.may_end.set()

    told = subprocess.run(command, capture_output=True, timeout=60)
    rows = subprocess.run([*command, "--json"], capture_output=True, timeout=60)

    assert (stopped.returncode, told.returncode, rows.returncode) == (5, 0, 0), told.stderr
    assert b"going on with an interrupted run" in told.stderr
    names = [line.split("\t")[0].rpartition("/")[2] for line in told.stdout.decode().splitlines()]
    assert names == ["a\\udcff.jpg", "b\\n.jpg", "c\N{CAT FACE}.jpg"]
    files = [json.loads(line)["file"] for line in rows.stdout.splitlines()]
    assert sorted(map(os.fsencode, files)) == sorted(map(os.fsencode, tmp_path.iterdir()))


def test_texts_in_a_folder_are_left_out_where_the_model_takes_images(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    (photos / "LICENCE.md").write_text("free")
    gateway.models.append(PHOTOS)

    result = tritonq("run", "triton/photos@1", photos)

    assert result.exit_code == 0
    assert len(gateway.submits) == len(result.stdout.splitlines()) == 30
    assert "left out, since triton/photos@1 takes images: LICENCE.md" in result.stderr
    # Elsewhere they are inputs like others, and so is what is named.
    assert len(tritonq("run", "echo", photos).stdout.splitlines()) == 31
    assert len(tritonq("run", "photos", photos / "LICENCE.md").stdout.splitlines()) == 1


def test_a_folder_of_texts_alone_is_nothing_for_a_model_that_takes_images(
    tritonq: Command, gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    gateway.models.append(PHOTOS)
    result = tritonq("run", "photos", tmp_path)
    assert result.exit_code == 2
    assert "only texts: a.txt" in result.stderr
    assert gateway.submits == []


def test_without_waiting_the_ids_are_printed(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    gateway.may_end.clear()

    result = tritonq("run", "echo", photos, "--no-wait", "--concurrency", 1)

    assert result.exit_code == 0
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == [
        f"p{number}" for number in range(30)
    ]


def test_priority_and_fields_are_passed_on(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    tritonq("run", "echo", photos / "00.jpg", "-i", "top_k=3", "--priority", "low")

    submit = next(one for one in gateway.requests if one.method == "POST")
    assert submit.headers["x-priority"] == "low"
    assert submit.query == {"top_k": "3"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(404, "unknown_model", detail="no model named x"), 3),
        (problem(401, "unauthorized"), 4),
        (Response("<html>", 200), 69),
    ],
)
def test_what_concerns_every_file_ends_the_run_with_its_exit_code(
    tritonq: Command,
    gateway: Gateway,
    photos: Path,
    answer: Response,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway.answers += [answer] * 30

    result = tritonq("run", "echo", photos)

    assert result.exit_code == code
    assert result.stdout == ""
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr
    gc.collect()  # asyncio complains of errors nobody looked at when their tasks are collected
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "echo"),
        ("run", "echo", "/no/such/file"),
        ("run", "echo", "-i", "novalue"),
        ("run", "echo", "-i", "a=1", "-i", "a=2"),
        ("run", "echo", "--priority", "urgent", "x"),
        ("run", "echo", "--concurrency", "0", "x"),
        ("run", "echo", "--key", "k", __file__),
        ("get",),
        ("cancel",),
        ("retry",),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_2_and_sends_nothing(
    tritonq: Command, gateway: Gateway, arguments: tuple[str, ...]
) -> None:
    result = tritonq(*arguments)

    assert result.exit_code == 2
    assert result.stderr
    assert gateway.requests == []


def test_models_lists_what_is_on_offer(tritonq: Command) -> None:
    assert "triton/echo" in tritonq("models").stdout
    assert json.loads(tritonq("models", "--json").stdout)["name"] == "echo"


def test_a_service_that_is_away_is_exit_69_with_a_sentence(
    tritonq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tritonq.cli.PATIENCE_S", 0.0)
    monkeypatch.setenv("TRITONQ_URL", "http://127.0.0.1:9")

    result = tritonq("models")

    assert result.exit_code == 69
    assert "does not answer" in result.stderr
    assert "http://127.0.0.1:9" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.timeout(60)
def test_a_run_that_finds_no_service_says_so_at_once(
    tritonq: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONQ_URL", "http://127.0.0.1:9")
    result = tritonq("run", "echo", photos)
    assert result.exit_code == 69
    assert "does not answer" in result.stderr


def test_a_deadline_that_makes_no_sense_ends_the_run_at_once(
    tritonq: Command, gateway: Gateway, photos: Path
) -> None:
    told = tritonq("run", "echo", photos, "--cancel-after", "a while")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "cancel_after" in told.stderr
    assert gateway.submits == []


def test_a_disk_that_cannot_be_written_is_a_sentence_and_exit_1(
    gateway: Gateway, photos: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tritonq", "run", "echo", str(photos), "--url", gateway.url]
    with Path("/dev/full").open("wb") as full:
        output = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    (tmp_path / "file").touch()
    elsewhere = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file")}
    journal = subprocess.run(command, capture_output=True, env=elsewhere, timeout=60)

    for ended, reason in ((output, b"No space left"), (journal, b"Not a directory")):
        assert ended.returncode == 1
        assert ended.stderr.count(b"error:") == 1
        assert reason in ended.stderr
        assert b"Traceback" not in ended.stderr


def test_help_has_examples_and_the_exit_codes(tritonq: Command) -> None:
    told = tritonq("run", "--help").stdout
    assert "Examples" in told
    assert "130 Ctrl-C" in told


def test_the_version_is_told(tritonq: Command) -> None:
    assert tritonq("--version").stdout.startswith("tritonq 0.")
