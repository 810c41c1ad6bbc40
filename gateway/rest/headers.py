"""What callers ask for beside the body: how long to wait, how urgent it is, until when. Pure.

Source of `Prefer`: RFC 7240, and Replicate's use of it (`wait`, `wait=N`). Source of
`Cancel-After`: Replicate's. Source of `Idempotency-Key`: draft-ietf-httpapi-idempotency-key-header.
"""

import re
from collections.abc import Sequence

from contract.errors import InvalidInput
from contract.prediction import Priority

# Generated clients give up after 60 s and POST again, which makes a second prediction; load
# balancers cut at 60 s too. So an answer is never held longer than this.
WAIT_S_MAX = 55.0

CANCEL_AFTER_MS_MIN, CANCEL_AFTER_MS_MAX = 1000, 30 * 24 * 3600 * 1000
KEY_LENGTH_MAX = 255

_PREFERENCE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*"?([^";]*?)"?\s*)?(?:;.*)?')

# `float` reads more: infinity, spaces, 1_0, other scripts' digits.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?(e[0-9]+)?")

_DURATION = re.compile(
    r"(?:(?P<d>[0-9]{1,9})d)?(?:(?P<h>[0-9]{1,9})h)?(?:(?P<m>[0-9]{1,9})m)?"
    r"(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,9})?)s?)?"
)
_UNIT_MS = {"d": 24 * 3600 * 1000, "h": 3600 * 1000, "m": 60 * 1000, "s": 1000}
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def preferred_wait_s(prefer: str | None) -> float | None:
    """The seconds of `Prefer: wait[=N]`, at most WAIT_S_MAX; None where it is not preferred.

    A preference that is unknown or makes no sense is ignored, as the RFC asks.
    """
    for part in (prefer or "").split(","):
        match = _PREFERENCE.fullmatch(part)
        if match is None or match[1].lower() != "wait":
            continue
        if not match[2]:
            return WAIT_S_MAX
        seconds = _seconds(match[2])
        return None if seconds is None else min(seconds, WAIT_S_MAX)
    return None


def queried_wait_s(text: str | None) -> float | None:
    """The seconds of `?wait=N`, at most WAIT_S_MAX; a bare `?wait` is as long as possible.

    Raises:
        InvalidInput: not a number of seconds.
    """
    if text is None:
        return None
    if not text:
        return WAIT_S_MAX
    seconds = _seconds(text)
    if seconds is None:
        raise InvalidInput(
            "wait is a number of seconds, 0 or more", field="query.wait", rule="seconds"
        )
    return min(seconds, WAIT_S_MAX)


def preference_applied(wait_s: float) -> str:
    return f"wait={wait_s:g}"


def parse_priority(value: object, *, field: str) -> Priority:
    """Raises InvalidInput."""
    try:
        return Priority(str(value))
    except ValueError:
        known = ", ".join(Priority)
        raise InvalidInput(f"priority is one of {known}", field=field, rule="enum") from None


def parse_cancel_after_ms(value: object, *, field: str) -> int:
    """Read a duration, as `90s`, `1m30s`, `2h` or a number of seconds, into milliseconds.

    Raises:
        InvalidInput: none of these, or not 1 second to 30 days.
    """
    milliseconds: float
    # A boolean is a number to Python, and none in JSON.
    if isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = value * 1000
    else:
        found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
        if found is None:
            raise InvalidInput(
                "write a duration as 90s, 1m30s or 2h, or as a number of seconds",
                field=field,
                rule="duration",
            )
        parts = found.groupdict(default="0")
        milliseconds = sum(float(parts[unit]) * _UNIT_MS[unit] for unit in _UNIT_MS)
    if not CANCEL_AFTER_MS_MIN <= milliseconds <= CANCEL_AFTER_MS_MAX:
        raise InvalidInput(
            "a deadline is 1 second to 30 days from acceptance", field=field, rule="range"
        )
    return round(milliseconds)


def parse_key(given: Sequence[str]) -> str | None:
    """The idempotency key among the headers of that name; None where there is none.

    Quotes around it are no part of it: the draft asks for them, and most clients leave them out.

    Raises:
        InvalidInput: several, or not 1 to 255 printable characters of ASCII.
    """
    if not given:
        return None
    key = given[0]
    if len(key) >= 2 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if len(given) > 1 or not _KEY.fullmatch(key):
        raise InvalidInput(
            f"an idempotency key is one text of 1 to {KEY_LENGTH_MAX} printable ASCII characters",
            field="header.idempotency-key",
            rule="key",
        )
    return key


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None
