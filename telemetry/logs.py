"""One JSON line per event, on stderr. The only place that configures logging.

The message of a record is a fixed event name (`batch.done`); everything variable is a field, given
by `extra=` or bound for a while by `bound`. Inputs, outputs and secrets are never logged; as a
last line of defence, passwords inside URLs are blotted out of whatever is written.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import msgspec

_bound: ContextVar[dict[str, object]] = ContextVar("bound_log_fields")

# What `logging` itself puts on a record; anything else came from `extra=`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_URL_PASSWORD = re.compile(
    r"(?P<user>\b[a-z][a-z0-9+.-]*://[^\s/:@\"']*):[^\s/@\"']+@", re.IGNORECASE
)
# Libraries whose every request would be a line; their warnings still pass.
_TOO_CHATTY = ("httpx", "httpcore", "uvicorn.access", "asyncio")


def configure_logs(process: str, level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every log record of this process to `stream` (stderr) as JSON lines.

    Args:
        process: the name of this process, on every line: `gateway`, `dispatcher`.
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _TOO_CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Put `fields` on every line logged inside, also by the tasks started inside."""
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: at, level, process, logger, event, then its fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": record.getMessage(),
            **_bound.get({}),
            **{name: it for name, it in vars(record).items() if name not in _OWN_ATTRIBUTES},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _without_passwords(msgspec.json.encode(line, enc_hook=str).decode())


def _without_passwords(text: str) -> str:
    # The search for "://" is ten times cheaper than the pattern, and almost every line ends here.
    return _URL_PASSWORD.sub(r"\g<user>:***@", text) if "://" in text else text
