"""What a submit may be given beside its input, and the headers that say so. Pure."""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from tritonq.errors import InvalidInput
from tritonq.results import PRIORITIES, Priority
from tritonq.wire import KEY_HEADER

KEY_CHARACTERS_MAX = 255  # the service's limit
DURATION_CHARACTERS_MAX = 50

Duration: TypeAlias = float | str | timedelta
"""Seconds, which are rounded up to whole ones, or a text such as "90s", "1m30s", "2h"."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a prediction is submitted.

    Args:
        idempotency_key: requests with the same key are one prediction, however often they arrive.
        cancel_after: from acceptance to the deadline; past it, it fails without being run.
    """

    priority: Priority = "normal"
    idempotency_key: str | None = None
    cancel_after: Duration | None = None

    def headers(self) -> dict[str, str]:
        """Raises InvalidInput where one of them has no form as a header."""
        if self.priority not in PRIORITIES:
            raise InvalidInput(
                f"write one of {', '.join(PRIORITIES)}", field="priority", rule="priority"
            )
        headers: dict[str, str] = {"X-Priority": self.priority}
        if self.idempotency_key is not None:
            headers[KEY_HEADER] = checked_key(self.idempotency_key)
        if self.cancel_after is not None:
            headers["Cancel-After"] = _duration_text(self.cancel_after)
        return headers


def checked_key(key: str) -> str:
    """Raises InvalidInput where the service would not take the key."""
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not _is_visible(key) or key != key.strip():
        raise InvalidInput(
            f"1 to {KEY_CHARACTERS_MAX} printable ASCII characters, no space around them",
            field="idempotency_key",
            rule="idempotency_key",
        )
    return key


def _duration_text(duration: Duration) -> str:
    # Which durations there are is the service's to say; here only: can it travel?
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, int | float) and math.isfinite(duration) and duration > 0:
        return f"{math.ceil(duration)}s"
    if (
        isinstance(duration, str)
        and 0 < len(duration) <= DURATION_CHARACTERS_MAX
        and _is_visible(duration)
        and " " not in duration
    ):
        return duration
    raise InvalidInput(
        "seconds above 0, or a text such as 90s, 1m30s, 2h",
        field="cancel_after",
        rule="duration",
    )


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable()
