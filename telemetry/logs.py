"""One JSON line per event, on stderr. The only place that configures logging.

The message of a record is a fixed event name (`batch.done`); everything variable is a field, given
by `extra=` or bound for a while by `bound`. Inputs, outputs and secrets are never logged; as a
last line of defence, passwords inside URLs and rows that Postgres quotes are blotted out.

Whoever can provoke an event can provoke it as often as they like: so each place in the code writes
so many lines a second at most, and none of any length.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import msgspec

_bound: ContextVar[dict[str, object]] = ContextVar("bound_log_fields")

# What `logging` itself puts on a record; anything else came from `extra=`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Without a password as well: NATS takes a token in the place of a user.
_URL_CREDENTIALS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.IGNORECASE)
# What Postgres adds to a message: the row or the value that it did not take.
_QUOTED_ROW = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)
# Libraries whose every request would be a line, or whose lines hold what callers sent (Pillow's
# do); their warnings still pass.
_TOO_CHATTY = ("httpx", "httpcore", "uvicorn", "asyncio", "PIL", "python_multipart")

LINES_PER_S_MAX = 20  # of one place in the code; the next line says how many were left out
FIELD_CHARACTERS_MAX = 2_000
TRACE_CHARACTERS_MAX = 16_000
_FIELDS_MAX = 64


def configure_logs(process: str, level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every log record of this process to `stream` (stderr) as JSON lines.

    Args:
        process: the name of this process, on every line: `gateway`, `dispatcher`.
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    handler.addFilter(_NotTooOften())
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
        for name, value in line.items():
            if isinstance(value, str) and len(value) > FIELD_CHARACTERS_MAX:
                line[name] = _cut(value, FIELD_CHARACTERS_MAX)
        if record.exc_info:
            trace = _QUOTED_ROW.sub(r"\1: (left out)", self.formatException(record.exc_info))
            line["trace"] = _cut(trace, TRACE_CHARACTERS_MAX)
        text = msgspec.json.encode(line, enc_hook=_text).decode()
        if len(text) > TRACE_CHARACTERS_MAX + _FIELDS_MAX * FIELD_CHARACTERS_MAX:
            kept = ("at", "level", "process", "logger", "event")
            text = msgspec.json.encode({name: line[name] for name in kept}).decode()
        return _without_passwords(text)


class Allowance:
    """Lets something happen so many times a second, and counts how often it was not let.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, times_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._times_max = times_max
        self._clock = clock
        self._second: dict[Hashable, tuple[int, int]] = {}  # by kind: which one, and how often
        self._refused: dict[Hashable, int] = {}

    def takes(self, kind: Hashable) -> bool:
        """Whether it may happen now. Kinds are remembered for ever: let there be few."""
        now = int(self._clock())
        second, times = self._second.get(kind, (now, 0))
        times = times + 1 if second == now else 1
        self._second[kind] = (now, times)
        if times > self._times_max:
            self._refused[kind] = self._refused.get(kind, 0) + 1
            return False
        return True

    def refused(self, kind: Hashable) -> int:
        """How often it was not let since this was asked last."""
        return self._refused.pop(kind, 0)


class _NotTooOften(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._lines = Allowance(LINES_PER_S_MAX)

    def filter(self, record: logging.LogRecord) -> bool:
        # By place and not by message: libraries put what varies into theirs.
        place = (record.pathname, record.lineno)
        if not self._lines.takes(place):
            return False
        if left_out := self._lines.refused(place):
            record.left_out = left_out
        return True


def _text(value: object) -> str:
    return _cut(str(value), FIELD_CHARACTERS_MAX)


def _cut(text: str, characters_max: int) -> str:
    """The beginning and the end: of a trace, what was called and what went wrong."""
    if len(text) <= characters_max:
        return text
    half = characters_max // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def _without_passwords(text: str) -> str:
    # The search for "://" is ten times cheaper than the pattern, and almost every line ends here.
    return _URL_CREDENTIALS.sub(r"\g<scheme>***@", text) if "://" in text else text
