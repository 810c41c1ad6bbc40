"""Answers the two busiest requests without the application's layers around its endpoints.

FastAPI and Starlette pass a request through seven layers before its endpoint is called, and its
answer back through three: a quarter of what a small submit costs. A submit to a model and a GET of
one prediction need none of them. Everything else, and what is refused about a path or a method,
is the application's.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import problems

Endpoint = Callable[[Request], Awaitable[Response]]

SUBMIT = "/v1/models/{owner}/{name}/predictions"  # also what the metrics call these routes
READ = "/v1/predictions/{id}"


class Direct:
    """An application, with two of its endpoints in front of it."""

    def __init__(self, app: ASGIApp, *, submit: Endpoint, read: Endpoint) -> None:
        self._app = app
        self._submit = submit
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # `gateway.edge` has settled the path: one spelling, without a slash at the end.
        match scope["method"], scope["path"].split("/"):
            case "POST", ["", "v1", "models", owner, name, "predictions"] if owner and name:
                endpoint, route, names = self._submit, SUBMIT, {"owner": owner, "name": name}
            case "GET", ["", "v1", "predictions", prediction_id] if prediction_id:
                endpoint, route, names = self._read, READ, {"id": prediction_id}
            case _:
                await self._app(scope, receive, send)
                return
        scope["path_params"] = names
        scope["state"]["route"] = route
        await _answer(endpoint, scope, receive, send)


async def _answer(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    request = _QuickRequest(scope, receive, send)
    try:
        response = await endpoint(request)
    except Exception as error:
        handler = problems.handler_of(error)
        await (await handler(request, error))(scope, receive, send)
        if handler is problems.answer_bug:
            raise  # the server logs it, as it does for the application
        return
    await response(scope, receive, send)


class _QuickRequest(Request):
    """A request whose headers are looked up, not searched: most that we ask for are not there."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self._headers = _QuickHeaders(scope["headers"])


class _QuickHeaders(Headers):
    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        super().__init__(raw=raw)
        self._first: Mapping[bytes, bytes] = dict(reversed(raw))

    def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
        value = self._first.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        return super().getlist(key) if key in self else []

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower().encode("latin-1") in self._first
