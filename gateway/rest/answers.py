"""What the endpoints of predictions share: who asks and for which one, and giving the answer."""

from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from contract.errors import DependencyError, InvalidInput, UnknownPrediction
from contract.ids import PredictionId, is_uuid7, parse_prediction_id
from contract.prediction import Outcome
from gateway.auth import EVERYBODY
from gateway.follow import Follower, Seen, Waiter
from gateway.rest import render
from gateway.rest.addresses import base_url
from gateway.rest.headers import preference_applied
from gateway.withdraw import Withdrawer

STILL_THERE_S = 5.0  # how long a caller who left goes on holding a place among those who wait


class Answers:
    """Answers with one prediction.

    Args:
        public_url: the base of all links; empty: the one the caller used.
    """

    def __init__(self, follower: Follower, withdrawer: Withdrawer, *, public_url: str) -> None:
        self._follower = follower
        self._withdrawer = withdrawer
        self._public_url = public_url

    async def held(self, seen: Seen, waiter: Waiter, request: Request, wait_s: float) -> Seen:
        """Hold the answer until the prediction ends, its deadline, or the end of the wait."""
        if seen.outcome is not None:
            return seen
        ticket = seen.ticket
        wait_s = min(wait_s, self._withdrawer.left_s(ticket))
        outcome = await _outcome(waiter, request, wait_s)
        if outcome is None and self._withdrawer.is_overdue(ticket):
            with suppress(DependencyError):  # what is known so far can be answered all the same
                return await self._follower.find(ticket.id)
        if outcome is None and seen.is_assumed:
            return await self._follower.find_bare(ticket.id)
        return Seen(ticket, outcome, seen.running, seen.position)

    def answer(
        self,
        seen: Seen,
        request: Request,
        status: int,
        wait_s: float | None = None,
        *,
        is_replay: bool = False,
    ) -> Response:
        # T1: whoever waited takes every status but `starting` for the end.
        rendered = render.prediction(seen, self.base_url(request), wait_expired=bool(wait_s))
        headers = {}
        if status != 200:
            headers["location"] = rendered.urls["get"]
        if wait_s is not None and "prefer" in request.headers:
            headers["preference-applied"] = preference_applied(wait_s)
        if is_replay:
            headers["idempotent-replayed"] = "true"
        return Response(
            render.encode(rendered),
            status_code=status,
            headers=headers,
            media_type="application/json",
        )

    def base_url(self, request: Request) -> str:
        return base_url(request, self._public_url)


async def _outcome(waiter: Waiter, request: Request, wait_s: float) -> Outcome | None:
    """Wait for the outcome, unless the caller leaves: its place is wanted by others."""
    while wait_s > 0:
        outcome = await waiter.outcome(min(wait_s, STILL_THERE_S))
        wait_s -= STILL_THERE_S
        if outcome is not None or waiter.is_let_go or await request.is_disconnected():
            return outcome
    return None


def owner_of(request: Request) -> str:
    owner: str = request.scope["state"]["owner"]
    return owner


def visible(seen: Seen, request: Request) -> Seen:
    """Raises UnknownPrediction for somebody else's: that it exists is nobody's business."""
    if owner_of(request) not in (EVERYBODY, seen.ticket.owner):
        raise UnknownPrediction(f"there is no prediction {seen.ticket.id}")
    return seen


def asked_id(request: Request) -> PredictionId:
    """The id in the path of a prediction that should be there. Raises UnknownPrediction."""
    try:
        return parse_prediction_id(request.path_params["id"])
    except ValueError as error:
        # 404 and not 422: an id is opaque to callers, and one of another form is simply unknown.
        raise UnknownPrediction(f"there is no such prediction: {error}") from None


def given_id(request: Request) -> PredictionId:
    """The id in the path that a caller made for a new prediction. Raises InvalidInput."""
    try:
        prediction_id = parse_prediction_id(request.path_params["id"])
    except ValueError as error:
        raise InvalidInput(str(error), field="path.id", rule="prediction_id") from None
    if not is_uuid7(prediction_id):
        raise InvalidInput("the id is not a UUIDv7 in base32hex", field="path.id", rule="uuid7")
    return prediction_id
