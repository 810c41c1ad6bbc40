"""What a refusal costs the gateway: CPU microseconds of its process, for each kind of answer.

    .venv/bin/python -m benchmarks.refusals

Needs nothing running: the queue is a real nats-server with room for one ticket; Postgres is away,
which refusals must not mind.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from standalone.nats import Nats
from standalone.server import running

TOKEN = "benchmark-token"
COUNT = 5000
CONNECTIONS = 8
ECHO = "/v1/models/triton/identity/predictions"
BODY = json.dumps({"input": {"INPUT0": "a"}}).encode()
NATS_PORT, MONITOR_PORT, GATEWAY_PORT = 24222, 28222, 28080


def request(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "Host: 127.0.0.1", "", ""]).encode() + body


WITH_TOKEN = f"Authorization: Bearer {TOKEN}"
SUBMIT = (f"POST {ECHO} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(BODY)}")
KINDS = {
    "200 healthz": request("GET /healthz HTTP/1.1"),
    "401 no token": request(*SUBMIT, body=BODY),
    "401 wrong token": request(*SUBMIT, "Authorization: Bearer wrong-token", body=BODY),
    "404 unknown model": request(
        "POST /v1/models/triton/nothing/predictions HTTP/1.1", *SUBMIT[1:], WITH_TOKEN, body=BODY
    ),
    "413 length stated": request(
        SUBMIT[0], SUBMIT[1], "Content-Length: 99999999", WITH_TOKEN, "Connection: close"
    ),
    "422 not JSON": request(*SUBMIT, WITH_TOKEN, body=b"x" * len(BODY)),
    "429 queue full": request(*SUBMIT, WITH_TOKEN, body=BODY),
    "431 headers": request("GET /v1 HTTP/1.1", "X: " + "x" * 9000),
}
FRESH_CONNECTION = ("413 length stated", "431 headers")  # the answer closes it


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[psutil.Process]:
    settings = {
        "PORT": GATEWAY_PORT, "TOKENS": f"me:{TOKEN}", "NATS_URL": f"nats://127.0.0.1:{NATS_PORT}",
        "NATS_TOKEN": "token", "POSTGRES_DSN": "postgresql://a:b@127.0.0.1:1/c",
        "BLOBS_URL": (folder / "blobs").as_uri(), "MODELS": "identity", "QUEUE_TICKETS_MAX": 1,
        "QUEUE_BYTES_MAX": 1 << 20, "CLAIMS_MAX": 1,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **{f"GATEWAY_{name}": str(it) for name, it in settings.items()}},
    )  # fmt: skip
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def ask(content: bytes, count: int, *, fresh: bool) -> bytes:
    """Send `content` so often, one after the other; return the last status line."""
    line = b""
    reader = writer = None
    for _ in range(count):
        if reader is None or writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", GATEWAY_PORT)
        writer.write(content)
        line = await reader.readline()
        size = 0
        while header := (await reader.readline()).strip():
            if header.lower().startswith(b"content-length:"):
                size = int(header.partition(b":")[2])
        await reader.readexactly(size)
        if fresh:
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()
    return line.strip()


async def prepared() -> None:
    """Wait until the one ticket that fits is in the queue."""
    async with asyncio.timeout(30):
        while True:
            try:
                if b" 429 " in await ask(KINDS["429 queue full"], 1, fresh=True):
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Nats(folder / "nats", NATS_PORT, MONITOR_PORT, "token", "2m", 1 << 40)
        async with running(server), gateway(folder) as process:
            await prepared()
            for kind, content in KINDS.items():
                fresh = kind in FRESH_CONNECTION
                before = sum(process.cpu_times()[:2])
                share = COUNT // CONNECTIONS
                asked = (ask(content, share, fresh=fresh) for _ in range(CONNECTIONS))
                lines = await asyncio.gather(*asked)
                spent = sum(process.cpu_times()[:2]) - before
                print(
                    f"{kind:20} {1e6 * spent / (share * CONNECTIONS):6.0f} us  {lines[0].decode()}"
                )


if __name__ == "__main__":
    asyncio.run(main())
