"""Plays the service for `tritonq.calls`, one reply at a time, without any network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonq.calls import Call, Calls, Pause
from tritonq.terms import Terms
from tritonq.wire import Body, NoResponse, Request, Response

BODY = Body(b"...", "image/jpeg")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(
    http_status: int = 200, headers: dict[str, str] | None = None, **members: Any
) -> Response:
    return Response(http_status, headers or {}, json.dumps(members).encode())


def prediction(status: str = "succeeded", **members: Any) -> Response:
    plain: dict[str, Any] = {
        "id": "p1",
        "model": "triton/m",
        "version": "triton.m.1",
        "status": status,
    }
    return answer(created_at="2026-11-21T10:00:00Z", **plain, **members)


def refusal(status: int, code: str, *, retry_after: str = "", **members: Any) -> Response:
    headers = {"content-type": "application/problem+json", "retry-after": retry_after}
    return answer(status, headers, code=code, detail=f"it is {code}", **members)


@dataclass
class Play:
    """Carries a call out against given replies, on a clock that only pauses and waits move."""

    replies: list[Response | NoResponse]
    patience_s: float = 30.0
    clock: Clock = field(default_factory=Clock)
    sent: list[Request] = field(default_factory=list)
    paused_s: list[float] = field(default_factory=list)

    @property
    def calls(self) -> Calls:
        return Calls(self.clock, lambda: 0.5, self.patience_s)

    def carry_out(self, call: Call[Any], hold: Sequence[float] = ()) -> Any:
        """`hold`: how long each request takes; 0 where it is not said."""
        holds = iter(hold)
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    self.paused_s.append(step.seconds)
                    self.clock.now += step.seconds
                    step = call.send(None)
                else:
                    self.sent.append(step)
                    self.clock.now += next(holds, 0.0)
                    step = call.send(self.replies.pop(0))
        except StopIteration as ended:
            return ended.value

    def submit(self, **options: Any) -> Any:
        wait_s = options.pop("wait_s", 0.0)
        return self.carry_out(self.calls.submit("m", BODY, Terms(**options), wait_s=wait_s))
