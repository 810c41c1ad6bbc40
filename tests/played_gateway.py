"""A small HTTP server that speaks the gateway's REST dialect, so that the client meets real HTTP.

It plays only our own gateway, and only here: what the real one does with a submit is tested with
the real one, in tests/e2e.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Members = dict[str, Any]
POLL_S = 0.005

ECHO: Members = {"owner": "triton", "name": "echo", "description": "says it back"}
PHOTOS: Members = {
    "owner": "triton",
    "name": "photos",
    "latest_version": {
        "id": "triton.photos.1",
        "openapi_schema": {"components": {"schemas": {"Input": {"properties": {"image": {}}}}}},
    },
}


DEADLINES = {"90s": "2026-11-21T10:01:30.000Z", "1h": "2026-11-21T11:00:00.000Z"}


def problem(
    status: int, code: str, *, detail: str = "no", headers: dict[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> Response:  # fmt: skip
    body = {"type": f"/problems/{code}", "title": code, "status": status, "detail": detail}
    return JSONResponse(
        {**body, "code": code, "errors": errors or []},
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def succeed(content: bytes) -> Members:
    return {"status": "succeeded", "output": {"bytes": len(content)}}


def nothing(_: str) -> None: ...


@dataclass(frozen=True)
class Received:
    """A request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Gateway:
    """What the server was sent, and what it is to answer."""

    url: str = ""
    outcome_of: Callable[[bytes], Members] = succeed
    may_end: threading.Event = field(default_factory=threading.Event)  # cleared: nothing ends
    answers: list[Response] = field(default_factory=list)  # given before anything else, in order
    models: list[Members] = field(default_factory=lambda: [ECHO])
    submits: list[bytes] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    predictions: dict[str, Members] = field(default_factory=dict)
    claims: dict[str, tuple[str, Any]] = field(default_factory=dict)  # key: id, what was asked
    submit_delay_s: float = 0.0
    may_answer: threading.Event = field(default_factory=threading.Event)  # cleared: no submit is
    accepted: int = 0
    has_accepted: Callable[[str], None] = nothing  # between acceptance and answer, with the id

    def __post_init__(self) -> None:
        self.may_end.set()
        self.may_answer.set()

    def shown(self, prediction_id: str) -> Members:
        given = self.predictions[prediction_id]
        ended = {"status": "starting"}
        if "outcome" in given:
            ended = given["outcome"]
        elif self.may_end.is_set():
            ended = self.outcome_of(given["content"])
        return {
            "id": prediction_id,
            "model": "triton/echo",
            "version": "triton.echo.1",
            "created_at": "2026-11-21T10:00:00.000Z",
            "input": {},
            "urls": {"get": f"{self.url}/v1/predictions/{prediction_id}"},
            **given.get("links", {}),
            **ended,
        }

    async def handle(self, request: Request) -> Response:
        self.requests.append(
            Received(
                request.method,
                request.url.path,
                dict(request.query_params),
                dict(request.headers),
            )
        )
        content = await request.body()
        if self.answers:
            return self.answers.pop(0)
        if request.method == "POST":
            return await self.post(request, content)
        if request.url.path == "/v1/models":
            return self.model_page()
        if request.url.path == "/v1/predictions":
            return self.page(request.query_params.get("cursor"))
        return await self.fetch(
            request.url.path.rpartition("/")[2], float(request.query_params.get("wait", 0))
        )

    async def post(self, request: Request, content: bytes) -> Response:
        path, _, word = request.url.path.rpartition("/")
        named = path.rpartition("/")[2]
        if word in ("cancel", "retry") and named not in self.predictions:
            return problem(404, "unknown_prediction", detail="there is no such prediction")
        if word == "cancel":
            self.cancel(named)
            return JSONResponse(self.shown(named))
        links: Members = {}
        if word == "retry":
            if self.shown(named)["status"] != "failed":
                return problem(409, "not_retryable", detail="it has not failed")
            content, links = self.predictions[named]["content"], {"retry_of": named}
        if deadline := request.headers.get("cancel-after"):
            links["deadline"] = DEADLINES[deadline]
        self.submits.append(content)
        await asyncio.sleep(self.submit_delay_s)
        while not self.may_answer.is_set():
            await asyncio.sleep(POLL_S)
        return self.accept(content, links, request.headers.get("idempotency-key"))

    def accept(self, content: bytes, links: Members, key: str | None) -> Response:
        asked = (content, links.get("retry_of"))
        if key is not None and key in self.claims:
            prediction_id, was_asked = self.claims[key]
            if was_asked != asked:
                return problem(409, "key_reused", detail="the key stands for a different request")
            replayed = {"idempotent-replayed": "true"}
            return JSONResponse(self.shown(prediction_id), status_code=200, headers=replayed)
        prediction_id = f"p{self.accepted}"
        self.accepted += 1
        self.predictions[prediction_id] = {"content": content, "links": links}
        if key is not None:
            self.claims[key] = (prediction_id, asked)
        answer = {**self.shown(prediction_id), "status": "starting"}
        self.has_accepted(prediction_id)
        return JSONResponse(answer, status_code=201)

    def cancel(self, prediction_id: str) -> None:
        if not self.may_end.is_set():
            self.predictions[prediction_id].setdefault("outcome", {"status": "canceled"})

    async def fetch(self, prediction_id: str, wait_s: float) -> Response:
        for _ in range(int(wait_s / POLL_S)):
            if self.may_end.is_set() or prediction_id not in self.predictions:
                break
            await asyncio.sleep(POLL_S)
        if prediction_id not in self.predictions:
            return problem(404, "unknown_prediction", detail="there is no such prediction")
        return JSONResponse(self.shown(prediction_id))

    def model_page(self) -> Response:
        return JSONResponse({"results": self.models, "next": None})

    def page(self, cursor: str | None) -> Response:
        newest_first = sorted(self.predictions, reverse=True)
        start = int(cursor or 0)
        more = f"http://elsewhere.invalid/v1/predictions?cursor={start + 2}"
        return JSONResponse(
            {
                "results": [self.shown(one) for one in newest_first[start : start + 2]],
                "next": more if start + 2 < len(newest_first) else None,
            }
        )


@contextmanager
def played_gateway() -> Iterator[Gateway]:
    """Serve a `Gateway` on a free port."""
    gateway = Gateway()
    methods = ["GET", "POST"]
    app = Starlette(routes=[Route("/{path:path}", gateway.handle, methods=methods)])
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(POLL_S)
        port = server.servers[0].sockets[0].getsockname()[1]
        gateway.url = f"http://127.0.0.1:{port}"
        yield gateway
    finally:
        gateway.may_end.set()
        gateway.may_answer.set()
        server.should_exit = True
        thread.join()


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until something has come about."""
    tick = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to that")
