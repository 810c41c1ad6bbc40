"""What is written to the log, and what never is."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from telemetry.logs import bound, configure_logs

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
