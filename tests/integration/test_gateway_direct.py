"""The two busiest requests, which the gateway answers in front of FastAPI: as FastAPI would."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import open_gateway
from gateway.direct import Direct
from gateway.edge import Edge
from gateway.settings import GatewaySettings
from tests.gateways import ALICE, ECHO, RunningGateway

UNKNOWN = "/v1/predictions/" + "0" * 26
JSON = {"content-type": "application/json"}


def spoken_to(app: ASGIApp) -> httpx.AsyncClient:
    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {}}, receive, send)

    transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=ALICE)


@pytest.fixture
async def edge(settings: GatewaySettings) -> AsyncIterator[Edge]:
    async with open_gateway(settings) as gateway:
        assert isinstance(gateway.asgi, Edge)
        yield gateway.asgi


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", ECHO, JSON, b"{"),
        ("POST", ECHO, JSON, b'{"input": {"INPUT9": 1}}'),
        ("POST", ECHO, {"content-type": "text/plain"}, b"x"),
        ("POST", ECHO, {}, b""),
        ("POST", ECHO, {**JSON, "content-encoding": "gzip"}, b"{}"),
        ("POST", ECHO, {**JSON, "X-Priority": "soon"}, b"{}"),
        ("POST", ECHO, {**JSON, "Cancel-After": "later"}, b"{}"),
        ("POST", ECHO + "/", JSON, b"{"),
        ("POST", "/v1/models/triton/nothing/predictions", JSON, b"{}"),
        ("POST", "/v1/models/nobody/identity/predictions", JSON, b"{}"),
        ("POST", "/v1/models//identity/predictions", JSON, b"{}"),
        ("POST", "/v1/models/triton/identity/predictions/x", JSON, b"{}"),
        ("GET", ECHO, {}, b""),
        ("PUT", ECHO, JSON, b"{}"),
        ("GET", "/v1/predictions/nonsense", {}, b""),
        ("GET", "/v1/predictions/a%2Fb", {}, b""),
        ("GET", f"{UNKNOWN}?wait=soon", {}, b""),
        ("HEAD", UNKNOWN, {}, b""),
        ("POST", UNKNOWN, JSON, b"{}"),
        ("DELETE", UNKNOWN, {}, b""),
        ("GET", "/v1/prediction", {}, b""),
    ],
)
async def test_what_is_refused_is_refused_in_the_same_words(
    edge: Edge, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    assert isinstance(edge._app, Direct)
    behind = Edge(edge._app._app, edge._auth, edge._limits)
    answers = []
    for app in (edge, behind):
        async with spoken_to(app) as client:
            answers.append(await client.request(method, path, headers=headers, content=body))
    direct, plain = answers
    assert direct.status_code >= 400
    assert (direct.status_code, direct.content) == (plain.status_code, plain.content)
    assert direct.headers == plain.headers


async def test_a_bug_is_answered_as_such_and_left_to_the_server_to_log() -> None:
    async def breaks(_: Request) -> Response:
        raise RuntimeError("a secret")

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("not asked")

    direct = Direct(nothing, submit=breaks, read=breaks)
    async with spoken_to(direct) as client:
        answer = await client.get(UNKNOWN)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
    with pytest.raises(RuntimeError):
        await raising(direct)


async def raising(app: ASGIApp) -> None:
    """What the server sees of it, which logs it."""

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {}}, receive, send)

    transport = httpx.ASGITransport(with_state)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await client.get(UNKNOWN)


async def test_of_a_header_that_comes_twice_the_first_counts(edge: Edge) -> None:
    """At the edge and in the application: nothing is judged by the one and done by the other."""
    headers = [("Authorization", "Bearer nobody-token"), ("Authorization", ALICE["Authorization"])]
    async with spoken_to(edge) as client:
        del client.headers["Authorization"]
        assert (await client.get(UNKNOWN, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("head", "begins"),
    [
        (f"HEAD {UNKNOWN} HTTP/1.1", b"HTTP/1.1 404 "),
        (f"POST {ECHO} HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue", b"HTTP/1.1 100 "),
    ],
)
async def test_an_answer_that_is_all_head_is_not_held_back(
    gateway: RunningGateway, head: str, begins: bytes
) -> None:
    """Who waits for the 100 sends no body before; a HEAD has no answer but its head."""
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    json_of_alice = f"Content-Type: application/json\r\nAuthorization: {ALICE['Authorization']}"
    writer.write(f"{head}\r\nHost: {url.netloc.decode()}\r\n{json_of_alice}\r\n\r\n".encode())
    async with asyncio.timeout(15):
        assert (await reader.readline()).startswith(begins)
    writer.close()
