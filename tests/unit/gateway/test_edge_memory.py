"""What is made of a body counts as much as the body, among all that are held at once."""

import asyncio
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from contract.errors import Overloaded
from gateway.auth import EVERYBODY
from gateway.edge import Edge, EdgeLimits
from gateway.rest import strict_json

LIMITS = EdgeLimits(
    header_bytes_max=1000, body_bytes_max=100, bodies_bytes_max=1000, body_wait_s=5, requests_max=10
)


class Anybody:
    def owner(self, headers: object) -> str:
        return EVERYBODY


def request() -> tuple[Scope, Receive]:
    headers = [(b"content-length", b"10")]
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": "/v1/x", "headers": headers, "state": {},
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(10)}

    return scope, receive


async def test_memory_that_a_body_takes_is_reserved_and_released() -> None:
    seen: list[str] = []
    may_end, holds = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            scope["state"]["reserve_body"](900)
        except Overloaded:
            seen.append("refused")
            raise
        seen.append("held")
        holds.set()
        await may_end.wait()

    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    edge = Edge(app, Anybody(), LIMITS)
    first = asyncio.create_task(edge(*request(), send))
    await holds.wait()
    await edge(*request(), send)
    may_end.set()
    await first
    await edge(*request(), send)
    assert seen == ["held", "refused", "held"]
    assert statuses == [429]


async def test_what_takes_more_than_all_there_is_has_it_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["reserve_body"](10**9)

    edge = Edge(app, Anybody(), LIMITS)

    async def send(_: Message) -> None:
        raise AssertionError("it was refused")

    for _ in range(3):
        await edge(*request(), send)


def test_many_values_count_for_what_they_will_take() -> None:
    few, many = b"[" + b"1" * 200_000 + b"]", b"[" + b"1," * 100_000 + b"1]"
    assert strict_json.memory_bytes(few) == len(few) + strict_json.VALUE_BYTES
    assert strict_json.memory_bytes(many) > 6_000_000
    assert strict_json.memory_bytes(b"[1,1]") == 5
