"""What people and programs read: result lines, progress lines, errors, the words for weights."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer import Exit as Ended
from typer.testing import CliRunner

from tritonq import cli
from tritonq.command.batch import Tally
from tritonq.command.exits import Exit, errors_as_exits
from tritonq.command.progress import progress_line
from tritonq.command.show import (
    OUTPUT_CHARACTERS_MAX,
    item_json,
    item_line,
    output_line,
    prediction_text,
    write_models,
)
from tritonq.errors import AcceptanceUnknown, InvalidInput, NoService, PredictionFailed
from tritonq.results import Item, Model, Prediction, Version, ended_item

FILE = Path("a.jpg")


def prediction(**members: Any) -> Prediction:
    plain = {"id": "p1", "model": "triton/m", "version": "triton.m.1", "status": "succeeded"}
    return Prediction(created_at=datetime(2026, 11, 21, tzinfo=UTC), **{**plain, **members})


def test_the_best_labels_of_a_classification_fit_on_a_line() -> None:
    output = [{"label": f"l{n}", "score": 0.5 - n / 10, "index": n} for n in range(5)]
    assert output_line(output) == "l0 0.500, l1 0.400, l2 0.300"


def test_any_other_output_is_json_cut_where_it_is_long() -> None:
    assert output_line({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    long = output_line("x" * 1000)
    assert len(long) < OUTPUT_CHARACTERS_MAX + 50
    assert "1002 characters; --json shows all" in long


def test_a_line_says_why_there_is_no_output() -> None:
    failed = prediction(status="failed", error="no image")
    assert item_line(ended_item(FILE, failed)) == "a.jpg\tfailed: no image"
    refused: Item[Path] = Item(FILE, None, InvalidInput("too large", field="body"))
    assert item_line(refused) == "a.jpg\tfailed: body: too large"


def test_json_lines_leave_the_input_out_and_keep_everything_else() -> None:
    row = json.loads(item_json(ended_item(FILE, prediction(input={"image": "…"}, output=[1]))))
    assert row["file"] == "a.jpg"
    assert (row["id"], row["status"], row["output"]) == ("p1", "succeeded", [1])
    assert "input" not in row


def test_an_unfinished_prediction_is_shown_with_its_place() -> None:
    waiting = prediction(status="starting", queue={"state": "waiting", "position": 3})
    assert prediction_text(waiting).splitlines()[1] == "state waiting, position 3"
    failed = prediction(status="failed", error="boom")
    assert prediction_text(failed).splitlines()[1] == "error: boom"


def test_a_progress_line_has_what_one_wants_to_know() -> None:
    tally = Tally(1000, done=412, failed=3)
    assert progress_line(tally, 20.0) == "412/1000 · 20.6/s · 3 failed · 0:29 left"
    assert progress_line(Tally(10), 5.0) == "0/10 · 0.0/s"


def test_models_are_a_table_on_a_terminal_and_tabs_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = [
        Model(owner="triton", name="m", description="does", latest_version=Version(id="triton.m.1"))
    ]
    write_models(models, Console(file=io.StringIO()))
    assert capsys.readouterr().out == "triton/m\ttriton.m.1\tdoes\n"

    shown = io.StringIO()
    write_models(models, Console(file=shown, force_terminal=True, width=60))
    assert "version" in shown.getvalue()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("no"), Exit.FAILED),
        (PredictionFailed(prediction(status="failed", error="boom")), Exit.FAILED),
        (AcceptanceUnknown("who knows"), Exit.UNAVAILABLE),
        (NoService("nowhere"), Exit.UNAVAILABLE),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ],
)
def test_an_expected_error_is_a_sentence_and_an_exit_code(error: BaseException, code: Exit) -> None:
    notes = io.StringIO()

    with pytest.raises(Ended) as caught, errors_as_exits(Console(file=notes)):
        raise error

    assert caught.value.exit_code == code
    assert notes.getvalue().startswith("error:") or isinstance(error, KeyboardInterrupt)


def test_a_bug_is_not_dressed_up_as_an_expected_error() -> None:
    with pytest.raises(ZeroDivisionError), errors_as_exits(Console(file=io.StringIO())):
        raise ZeroDivisionError


def test_markup_in_a_message_is_text_and_nothing_else() -> None:
    notes = io.StringIO()

    with pytest.raises(Ended), errors_as_exits(Console(file=notes)):
        raise InvalidInput("[red]not markup[/red]")

    assert "[red]not markup[/red]" in notes.getvalue()


def test_a_model_that_cannot_be_built_is_named_with_those_that_can() -> None:
    result = CliRunner().invoke(cli.app, ["build", "nonsense"])

    assert result.exit_code == 1
    assert "nonsense cannot be built" in result.stderr
    assert "efficientnet_lite0" in result.stderr


def test_a_word_whose_packages_are_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    monkeypatch.setattr(cli, "app", missing)

    with pytest.raises(SystemExit) as caught:
        cli.main()

    assert caught.value.code == Exit.USAGE
    assert "tritonq[standalone]" in capsys.readouterr().err
