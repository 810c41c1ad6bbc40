"""What callers ask for beside the body: how long to wait, and how urgent it is. Pure.

Source of `Prefer`: RFC 7240, and Replicate's use of it (`wait`, `wait=N`).
"""

import re

from contract.errors import InvalidInput
from contract.prediction import Priority

# Generated clients give up after 60 s and POST again, which makes a second prediction; load
# balancers cut at 60 s too. So an answer is never held longer than this.
WAIT_S_MAX = 55.0

_PREFERENCE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*"?([^";]*?)"?\s*)?(?:;.*)?')

# `float` reads more: infinity, spaces, 1_0, other scripts' digits.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?(e[0-9]+)?")


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


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None
