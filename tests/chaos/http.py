"""The smallest HTTP client that can tell how a call went: one connection a call, nothing hidden.

No pool, no retry, no keep-alive: what a caller saw is then exactly what was sent and came back.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from standalone.server import LOOPBACK


class NoAnswer(Exception):
    """No answer came: the message says whether it was refused, broken off, or not in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


async def ask(
    port: int,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    within_s: float,
) -> Answer:
    """Make one call to a server on loopback. Raises NoAnswer."""
    head = {
        "Host": f"{LOOPBACK}:{port}",
        "Connection": "close",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    try:
        async with asyncio.timeout(within_s):
            return await _exchange(port, request)
    except TimeoutError:
        raise NoAnswer("not in time") from None
    except ConnectionRefusedError:
        raise NoAnswer("refused") from None
    except (OSError, EOFError, ValueError) as error:
        raise NoAnswer(f"broken off: {type(error).__name__}") from None


async def _exchange(port: int, request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        fields = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
