"""The endpoints of predictions: submit, read, list, and an input's files.

Each handler is a Starlette endpoint: FastAPI's own layers would cost a third of a small request.
`gateway.rest.openapi` documents them.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from blobs import BlobMissing, Blobs
from contract.catalog import Model, parse_reference
from contract.errors import InvalidInput, UnknownPrediction
from contract.ids import PredictionId, parse_prediction_id
from contract.prediction import File, Outcome, Priority
from gateway.auth import EVERYBODY
from gateway.follow import Follower, Seen, Waiter
from gateway.listing import PAGE_MAX, Listing
from gateway.rest import render
from gateway.rest.addresses import base_url, model_in_path
from gateway.rest.bodies import read_asked
from gateway.rest.headers import (
    parse_priority,
    preference_applied,
    preferred_wait_s,
    queried_wait_s,
)
from gateway.submit import Submitter

STILL_THERE_S = 5.0  # how long a caller who left goes on holding a place among those who wait

# What a stranger uploaded is answered from our own address: a browser must neither guess a type
# that runs, nor run anything.
_FILE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=31536000, immutable",
}


class Predictions:
    """Answers for /v1/predictions and for the predictions of a model.

    Args:
        public_url: the base of all links; empty: the one the caller used.
    """

    def __init__(
        self,
        submitter: Submitter,
        follower: Follower,
        listing: Listing,
        blobs: Blobs,
        *,
        public_url: str,
    ) -> None:
        self._submitter = submitter
        self._follower = follower
        self._listing = listing
        self._blobs = blobs
        self._public_url = public_url

    async def collection(self, request: Request) -> Response:
        """POST and GET /v1/predictions."""
        if request.method == "POST":
            return await self._submit(request, named=None)
        return await self._page(request)

    async def of_model(self, request: Request) -> Response:
        """POST /v1/models/{owner}/{name}/predictions."""
        # A wrong path is refused before its body is read.
        named = self._submitter.resolve(*model_in_path(request))
        return await self._submit(request, named=named)

    async def one(self, request: Request) -> Response:
        """GET /v1/predictions/{id}[?wait=N]."""
        prediction_id = _prediction_id(request)
        wait_s = queried_wait_s(request.query_params.get("wait"))
        if wait_s is None:
            wait_s = preferred_wait_s(request.headers.get("prefer"))
        if not wait_s:
            seen = _visible(await self._follower.find(prediction_id), request)
            return self._answer(seen, request, 200, wait_s)
        with self._follower.waiting(prediction_id) as waiter:
            seen = _visible(await self._follower.find(prediction_id), request)
            if seen.outcome is None:
                outcome = await _outcome(waiter, request, wait_s)
                seen = Seen(seen.ticket, outcome, seen.running, seen.position)
        return self._answer(seen, request, 200, wait_s)

    async def input_file(self, request: Request) -> Response:
        """GET /v1/predictions/{id}/input/{field}."""
        seen = _visible(await self._follower.find(_prediction_id(request)), request)
        field = request.path_params["field"]
        file = seen.ticket.files.get(field)
        if file is None:
            raise UnknownPrediction(f"the input of this prediction has no file {field[:80]!a}")
        headers = {**_FILE_HEADERS, "etag": f'"{file.sha256}"'}
        return Response(
            await self._content(seen.ticket.id, file), media_type=file.media_type, headers=headers
        )

    async def _content(self, prediction_id: PredictionId, file: File) -> bytes:
        if file.content is not None:
            return file.content
        try:
            return await self._blobs.get(prediction_id, file.sha256)
        except BlobMissing:
            raise UnknownPrediction("this file was not kept") from None

    async def _submit(self, request: Request, *, named: tuple[Model, int] | None) -> Response:
        wait_s = preferred_wait_s(request.headers.get("prefer"))
        priority = _header_priority(request)
        asked = await read_asked(request, names_model=named is None)
        model, version = named or self._submitter.resolve(*parse_reference(asked.reference or ""))
        ticket = await self._submitter.prepare(
            asked, model, version, priority=priority, owner=_owner(request)
        )
        del asked
        if not wait_s:
            ticket = await self._submitter.accept(ticket)
            request.state.release_body()
            return self._answer(Seen(ticket), request, 202, wait_s)
        with self._follower.waiting(ticket.id) as waiter:
            ticket = await self._submitter.accept(ticket)
            request.state.release_body()
            outcome = await _outcome(waiter, request, wait_s)
        return self._answer(Seen(ticket, outcome), request, 201 if outcome else 202, wait_s)

    async def _page(self, request: Request) -> Response:
        query = request.query_params
        owner = _owner(request)
        page = await self._listing.page(
            query.get("cursor"),
            rows_max=_limit(query.get("limit")),
            owner=None if owner == EVERYBODY else owner,
        )
        base = self._base_url(request)
        content = {
            "next": _page_url(base, query, page.next),
            "previous": _page_url(base, query, page.previous),
            "results": [render.prediction(seen, base) for seen in page.rows],
        }
        return Response(render.encode(content), media_type="application/json")

    def _answer(self, seen: Seen, request: Request, status: int, wait_s: float | None) -> Response:
        base = self._base_url(request)
        # T1: whoever waited takes every status but `starting` for the end.
        rendered = render.prediction(seen, base, wait_expired=bool(wait_s))
        headers = {}
        if status != 200:
            headers["location"] = rendered.urls["get"]
        if wait_s is not None and "prefer" in request.headers:
            headers["preference-applied"] = preference_applied(wait_s)
        return Response(
            render.encode(rendered),
            status_code=status,
            headers=headers,
            media_type="application/json",
        )

    def _base_url(self, request: Request) -> str:
        return base_url(request, self._public_url)


async def _outcome(waiter: Waiter, request: Request, wait_s: float) -> Outcome | None:
    """Wait for the outcome, unless the caller leaves: its place is wanted by others."""
    while wait_s > 0:
        outcome = await waiter.outcome(min(wait_s, STILL_THERE_S))
        wait_s -= STILL_THERE_S
        if outcome is not None or waiter.is_let_go or await request.is_disconnected():
            return outcome
    return None


def _owner(request: Request) -> str:
    owner: str = request.scope["state"]["owner"]
    return owner


def _visible(seen: Seen, request: Request) -> Seen:
    """Raises UnknownPrediction for somebody else's: that it exists is nobody's business."""
    owner = _owner(request)
    if owner not in (EVERYBODY, seen.ticket.owner):
        raise UnknownPrediction(f"there is no prediction {seen.ticket.id}")
    return seen


def _prediction_id(request: Request) -> PredictionId:
    try:
        return parse_prediction_id(request.path_params["id"])
    except ValueError as error:
        # 404 and not 422: an id is opaque to callers, and one of another form is simply unknown.
        raise UnknownPrediction(f"there is no such prediction: {error}") from None


def _header_priority(request: Request) -> Priority:
    given = request.headers.get("x-priority")
    return Priority.NORMAL if given is None else parse_priority(given, field="header.x-priority")


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_MAX
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= PAGE_MAX):
        raise InvalidInput(
            f"limit is a number from 1 to {PAGE_MAX}", field="query.limit", rule="range"
        )
    return int(text)


def _page_url(base: str, query: Mapping[str, str], cursor: str | None) -> str | None:
    if cursor is None:
        return None
    others = {name: value for name, value in query.items() if name == "limit"}
    return f"{base}/v1/predictions?{urlencode({**others, 'cursor': cursor})}"
