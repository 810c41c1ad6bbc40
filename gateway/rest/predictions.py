"""The endpoints that read predictions: one, a page of them, and an input's files.

Each handler is a Starlette endpoint: FastAPI's own layers would cost a third of a small request.
`gateway.rest.openapi` documents them.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from blobs import BlobMissing, Blobs
from contract.errors import InvalidInput, UnknownPrediction
from contract.ids import PredictionId
from contract.prediction import File
from gateway.auth import EVERYBODY
from gateway.follow import Follower
from gateway.listing import PAGE_MAX, Listing
from gateway.rest import render
from gateway.rest.answers import Answers, asked_id, owner_of, visible
from gateway.rest.headers import preferred_wait_s, queried_wait_s

# What a stranger uploaded is answered from our own address: a browser must neither guess a type
# that runs, nor run anything.
_FILE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=31536000, immutable",
}


class Predictions:
    """Answers what became of predictions."""

    def __init__(
        self, follower: Follower, listing: Listing, blobs: Blobs, answers: Answers
    ) -> None:
        self._follower = follower
        self._listing = listing
        self._blobs = blobs
        self._answers = answers

    async def one(self, request: Request) -> Response:
        """GET /v1/predictions/{id}[?wait=N]."""
        prediction_id = asked_id(request)
        wait_s = queried_wait_s(request.query_params.get("wait"))
        if wait_s is None:
            wait_s = preferred_wait_s(request.headers.get("prefer"))
        if not wait_s:
            seen = visible(await self._follower.find_bare(prediction_id), request)
            return self._answers.answer(seen, request, 200, wait_s)
        with self._follower.waiting(prediction_id) as waiter:
            seen = visible(await self._follower.find_bare(prediction_id, waits=True), request)
            seen = await self._answers.held(seen, waiter, request, wait_s)
        return self._answers.answer(seen, request, 200, wait_s)

    async def input_file(self, request: Request) -> Response:
        """GET /v1/predictions/{id}/input/{field}."""
        seen = visible(await self._follower.find(asked_id(request)), request)
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

    async def page(self, request: Request) -> Response:
        """GET /v1/predictions."""
        query = request.query_params
        owner = owner_of(request)
        page = await self._listing.page(
            query.get("cursor"),
            rows_max=_limit(query.get("limit")),
            owner=None if owner == EVERYBODY else owner,
        )
        base = self._answers.base_url(request)
        content = {
            "next": _page_url(base, query, page.next),
            "previous": _page_url(base, query, page.previous),
            "results": [render.prediction(seen, base) for seen in page.rows],
        }
        return Response(render.encode(content), media_type="application/json")


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
