"""What is written to the log, and what never is."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from telemetry.logs import (
    FIELD_CHARACTERS_MAX,
    LINES_PER_S_MAX,
    TRACE_CHARACTERS_MAX,
    Allowance,
    bound,
    configure_logs,
)

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    root.handlers = []
    configure_logs("dispatcher", "INFO", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_an_event_is_one_line_of_json_with_its_fields(lines: Lines) -> None:
    logging.getLogger("dispatcher.execute").info("batch.done", extra={"rows": 8, "at_once": {1}})
    (line,) = lines()
    assert line["event"] == "batch.done"
    assert line["process"] == "dispatcher"
    assert line["logger"] == "dispatcher.execute"
    assert line["level"] == "info"
    assert line["rows"] == 8


def test_bound_fields_are_on_every_line_inside_and_on_none_after(lines: Lines) -> None:
    log = logging.getLogger("any")
    with bound(model="identity"), bound(version=1):
        log.info("inside")
    log.info("after")
    inside, after = lines()
    assert (inside["model"], inside["version"]) == ("identity", 1)
    assert "model" not in after


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach postgresql://tritonq:hunter2@127.0.0.1:5432/db",
        "nats://:hunter2@127.0.0.1",
        "NATS://user:hunter2@host and more",
        "nats://hunter2@127.0.0.1:4222",
    ],
)
def test_a_password_in_a_url_is_blotted_out_wherever_it_stands(lines: Lines, text: str) -> None:
    log = logging.getLogger("any")
    log.error("connect.failed", extra={"url": text}, exc_info=ValueError(text))
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert "ValueError" in line["trace"]


def test_a_url_without_a_password_is_left_alone(lines: Lines) -> None:
    logging.getLogger("any").info("listening", extra={"url": "http://127.0.0.1:8000/a@b"})
    assert lines()[0]["url"] == "http://127.0.0.1:8000/a@b"


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    logging.getLogger("any").debug("detail")
    assert lines() == []


def test_an_event_that_never_stops_fills_neither_the_log_nor_hides_how_often_it_was() -> None:
    now = 0.0
    allowance = Allowance(2, lambda: now)
    assert [allowance.takes("a") for _ in range(5)] == [True, True, False, False, False]
    assert allowance.takes("b")
    now = 1.0
    assert allowance.takes("a")
    assert allowance.refused("a") == 3
    assert allowance.refused("a") == 0


def test_one_place_in_the_code_writes_so_many_lines_a_second_at_most(lines: Lines) -> None:
    log = logging.getLogger("any")
    seconds_min = 2  # the loop below may see the second change
    for number in range(50 * LINES_PER_S_MAX):
        log.warning("attack", extra={"number": number})
    log.warning("another place")
    attacks = [line for line in lines() if line["event"] == "attack"]
    assert LINES_PER_S_MAX <= len(attacks) <= seconds_min * LINES_PER_S_MAX
    assert lines()[-1]["event"] == "another place"


def test_no_line_is_of_any_length(lines: Lines) -> None:
    log = logging.getLogger("any")
    long = "x" * 1_000_000
    log.error(long, extra={"field": long, "object": [long]}, exc_info=ValueError(long))
    log.error("many", extra={f"field{at}": long for at in range(200)})
    for line in lines():
        assert len(json.dumps(line)) < 2 * TRACE_CHARACTERS_MAX + 64 * FIELD_CHARACTERS_MAX
    assert lines()[1]["event"] == "many"


def test_rows_that_postgres_quotes_are_left_out(lines: Lines) -> None:
    error = ValueError("bad row\nDETAIL:  Failing row contains (secret input).\nHINT: none")
    logging.getLogger("any").error("bug", exc_info=error)
    assert "secret input" not in json.dumps(lines())
    assert "HINT" in lines()[0]["trace"]


def test_what_pillow_finds_in_a_callers_file_is_not_logged(lines: Lines) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("PIL.TiffImagePlugin").debug("tag: Artist - value: somebody")
    assert lines() == []
