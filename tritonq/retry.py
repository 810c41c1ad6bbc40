"""Decides whether a request that failed is sent again, and after how long. Pure.

Sending again is safe when the first attempt changed nothing. A GET never does. A submit (POST)
did not when the service says so, or when no connection came about; once it was sent and the
answer is missing, nobody knows, so it is not sent again.
"""

from tritonq.wire import ACCEPTANCE_UNKNOWN, NoResponse, Request, Response

BACKOFF_S_FIRST = 0.1
BACKOFF_S_MAX = 5.0
RETRY_AFTER_S_MAX = 60.0  # a service that asks for longer is told to the caller instead

OVERLOADED = 429
UNAVAILABLE = 503
BAD_GATEWAYS = frozenset({502, 504})  # said by a proxy in between: the service may have the request


def retry_delay_s(
    request: Request, reply: Response | NoResponse, *, attempt: int, random: float
) -> float | None:
    """How long to pause before sending `request` again; None for not at all.

    Args:
        attempt: how often it was sent before this reply, from 0.
        random: 0..1, so that many clients do not return in step.
    """
    if isinstance(reply, NoResponse):
        may_repeat = request.is_safe or not reply.was_sent
    elif reply.status == OVERLOADED:
        may_repeat = True
    elif reply.status == UNAVAILABLE:
        may_repeat = request.is_safe or changed_nothing(reply)
    else:
        may_repeat = reply.status in BAD_GATEWAYS and request.is_safe
    if not may_repeat:
        return None
    asked_s = reply.retry_after_s if isinstance(reply, Response) else None
    if asked_s is None:
        return min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0**attempt) * (0.5 + random / 2)
    return asked_s * (1 + random / 10) if asked_s <= RETRY_AFTER_S_MAX else None


def changed_nothing(reply: Response) -> bool:
    """Whether a 503 comes from the service itself and says that nothing was accepted."""
    problem = reply.problem
    return problem is not None and problem.code != ACCEPTANCE_UNKNOWN
