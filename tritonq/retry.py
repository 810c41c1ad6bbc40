"""Decides whether a request that failed is sent again, and after how long. Pure.

Sending again is safe when that changes nothing more: a GET, a cancel, a submit with an idempotency
key. A submit without one is sent again when the service says that it accepted nothing, or when no
connection came about; once it was sent and the answer is missing, nobody knows, so it is not.
"""

from tritonq.wire import ACCEPTANCE_UNKNOWN, NoResponse, Request, Response

BACKOFF_S_FIRST = 0.1
BACKOFF_S_MAX = 5.0
DOUBLINGS_MAX = 10  # far beyond BACKOFF_S_MAX, and no power that overflows
RETRY_AFTER_S_MAX = 60.0  # a service that asks for longer is told to the caller instead
FAULTS_MAX = 3  # a fault of the service itself may pass; one that stays is told soon

OVERLOADED = 429
UNAVAILABLE = 503


def retry_delay_s(
    request: Request,
    reply: Response | NoResponse,
    *,
    attempt: int,
    random: float,
) -> float | None:
    """How long to pause before sending `request` again; None for not at all.

    Args:
        attempt: how often it was sent before this reply, from 0.
        random: 0..1, so that many clients do not return in step.
    """
    if not _may_repeat(request, reply):
        return None
    asked_s = reply.retry_after_s if isinstance(reply, Response) else None
    if asked_s is None:
        doubled_s = BACKOFF_S_FIRST * 2.0 ** min(attempt, DOUBLINGS_MAX)
        return min(BACKOFF_S_MAX, doubled_s) * (0.5 + random / 2)
    return asked_s * (1 + random / 10) if asked_s <= RETRY_AFTER_S_MAX else None


def is_fault(reply: Response | NoResponse) -> bool:
    """Whether the service answered, but wrongly: with its own 500, or a success nobody can read."""
    if isinstance(reply, NoResponse):
        return False
    return reply.status < 300 or (reply.status == 500 and reply.problem is not None)


def _may_repeat(request: Request, reply: Response | NoResponse) -> bool:
    if isinstance(reply, NoResponse):
        return request.is_repeatable or not reply.was_sent
    if reply.status == OVERLOADED:
        return True
    if reply.status == UNAVAILABLE:
        return request.is_repeatable or changed_nothing(reply)
    # 5xx: what comes from a proxy passes with the outage behind it. 2xx: cut short on the way.
    return request.is_repeatable and (reply.status >= 500 or reply.status < 300)


def changed_nothing(reply: Response) -> bool:
    """Whether a 503 comes from the service itself and says that nothing was accepted."""
    problem = reply.problem
    return problem is not None and problem.code != ACCEPTANCE_UNKNOWN
