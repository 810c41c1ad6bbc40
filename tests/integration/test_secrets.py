"""No secret, and nothing that callers sent, is in any log, answer or command line.

Real processes, at the most talkative level, with secrets one would recognise, through every failure
that can be provoked from outside.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.settings import GatewaySettings
from tests.outages import Restartable
from tests.services import ROOT, free_ports

MARK = "XqSecretX"  # in every secret below, and nowhere else
ALICE = f"{MARK}-alice-token"
BOB = f"{MARK}-bob-token"
NATS = f"{MARK}-nats"
POSTGRES = f"{MARK}-postgres"
AWS = f"{MARK}-aws"
CONTENT = "XqContentX"  # in every input, which is nobody's business either
INSIDE = ("Traceback", 'File "', str(ROOT), "asyncpg", "SELECT ", "INSERT ", "127.0.0.1:", "errno")

CLASSIFY = "/v1/models/triton/efficientnet_lite0/predictions"
ECHO = "/v1/models/triton/identity/predictions"
UNKNOWN = "0" * 26
DEADLINE_S = 30.0


class Ran:
    """A process that was started, and all it has written."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process = process
        self._path = path
        self.command_line = psutil.Process(process.pid).cmdline()

    def output(self) -> str:
        return self._path.read_text()

    async def line(self, event: str) -> dict[str, object]:
        """Wait for the first line with this event."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for text in self.output().splitlines():
                    line: dict[str, object] = json.loads(text)
                    if line["event"] == event:
                        return line
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    def says_nothing(self) -> None:
        written = self.output() + " ".join(self.command_line)
        for secret in (MARK, CONTENT):
            found = [line for line in written.splitlines() if secret in line]
            assert not found, found


@asynccontextmanager
async def run(folder: Path, module: str, environment: Mapping[str, str]) -> AsyncIterator[Ran]:
    path = folder / f"{module}.log"
    with path.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield Ran(process, path)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def environment(settings: GatewaySettings) -> dict[str, str]:
    """Of both processes; every service is away, unless a test says otherwise."""
    nowhere = free_ports(1)[0]
    common = {
        "NATS_URL": f"nats://127.0.0.1:{nowhere}",
        "NATS_TOKEN": NATS,
        "POSTGRES_DSN": f"postgresql://tritonq:{POSTGRES}@127.0.0.1:{nowhere}/tritonq",
        "BLOBS_URL": "s3://bucket/prefix",
        "MODEL_REPOSITORY": str(settings.model_repository),
        "LOG_LEVEL": "debug",
    }
    given = {
        f"{who}_{name}": it for who in ("GATEWAY", "DISPATCHER") for name, it in common.items()
    }
    return {
        **given,
        "GATEWAY_PORT": "0",
        "GATEWAY_TOKENS": f"alice:{ALICE},bob:{BOB}",
        "DISPATCHER_TRITON_ADDRESS": f"127.0.0.1:{nowhere}",
        "AWS_ACCESS_KEY_ID": AWS,
        "AWS_SECRET_ACCESS_KEY": AWS,
        "AWS_SESSION_TOKEN": AWS,
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{nowhere}",
        "AWS_ALLOW_HTTP": "true",
    }


async def asked(port: object) -> list[httpx.Response]:
    """Answers to requests that succeed, that fail, and that should never have been sent."""
    base = f"http://127.0.0.1:{port}"
    alice, text = {"Authorization": f"Bearer {ALICE}"}, {"input": {"INPUT0": CONTENT}}
    large = {"INPUT0": ("x", CONTENT.encode() * 200_000, "application/octet-stream")}
    async with httpx.AsyncClient(base_url=base, timeout=70) as client:
        answers = [
            await client.get("/v1/models"),
            await client.get("/v1/models", headers={"Authorization": f"Basic {MARK}"}),
            await client.get("/v1/models", headers={"Authorization": f"Bearer {MARK}-wrong"}),
            await client.get(f"/v1/models?token={MARK}", headers=alice),
            await client.get(f"/v1/models/triton/{CONTENT}", headers=alice),
            await client.get(f"/v1/predictions/{UNKNOWN}?wait=1", headers=alice),
            await client.get(f"/v1/predictions/{CONTENT}", headers=alice),
            await client.get(f"/v1/predictions/{UNKNOWN}/input/{CONTENT}", headers=alice),
            await client.get("/v1/predictions", headers=alice),
            await client.get("/readyz"),
            await client.get("/metrics", headers=alice),
            await client.post(ECHO, json=text, headers=alice),
            await client.post(ECHO, json=text, headers={**alice, "Prefer": "wait=1"}),
            await client.post(ECHO, json=text, headers={**alice, "Idempotency-Key": MARK}),
            await client.post(ECHO, files=large, headers=alice),
            await client.post(ECHO, content=f"{{{CONTENT}", headers={**alice, **JSON}),
            await client.post(CLASSIFY, content=CONTENT, headers={**alice, **IMAGE}),
            await client.post(f"/v1/predictions/{UNKNOWN}/cancel", headers=alice),
            await client.post(f"/v1/predictions/{UNKNOWN}/retry", headers=alice),
        ]
    assert isinstance(port, int)
    with socket.create_connection(("127.0.0.1", port)) as raw:  # not HTTP at all
        raw.sendall(f"{CONTENT} / HTTP/9\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode())
        await asyncio.to_thread(raw.recv, 4096)
    return answers


JSON = {"content-type": "application/json"}
IMAGE = {"content-type": "image/jpeg"}


def tell_nothing(answers: list[httpx.Response]) -> None:
    """No secret in any answer, and of our inside nothing where it is an error."""
    for answer in answers:
        assert MARK not in answer.text, answer.text
        if answer.status_code >= 400:
            for word in INSIDE:
                assert word not in answer.text, (answer.request.url, answer.text)


async def test_while_every_service_is_away_neither_log_nor_answer_tells_a_secret(
    environment: dict[str, str], tmp_path: Path
) -> None:
    async with (
        run(tmp_path, "gateway", environment) as gateway,
        run(tmp_path, "dispatcher", environment) as dispatcher,
    ):
        answers = await asked((await gateway.line("gateway.listening"))["port"])
        await dispatcher.line("outage.begun")
        for each in (gateway, dispatcher):
            each.process.terminate()
        assert [await each.ended() for each in (gateway, dispatcher)] == [0, 0]
        gateway.says_nothing()
        dispatcher.says_nothing()
    tell_nothing(answers)
    assert {503, 422, 404, 401} <= {answer.status_code for answer in answers}


async def test_services_that_refuse_our_credentials_are_not_quoted(
    environment: dict[str, str], settings: GatewaySettings, tmp_path: Path
) -> None:
    nats = Restartable(tmp_path / "nats")
    await nats.start()
    host = settings.postgres_dsn.get_secret_value().rpartition("@")[2]
    refusing = {
        "NATS_URL": nats.server.url,
        "POSTGRES_DSN": f"postgresql://postgres:{POSTGRES}@{host}",
    }
    given = {
        f"{who}_{name}": it for who in ("GATEWAY", "DISPATCHER") for name, it in refusing.items()
    }
    try:
        async with (
            run(tmp_path, "gateway", {**environment, **given}) as gateway,
            run(tmp_path, "dispatcher", {**environment, **given}) as dispatcher,
        ):
            answers = await asked((await gateway.line("gateway.listening"))["port"])
            await gateway.line("broker.failed")
            await dispatcher.line("outage.begun")
            gateway.says_nothing()
            dispatcher.says_nothing()
        tell_nothing(answers)
        assert MARK not in (tmp_path / "nats" / "nats.log").read_text()
    finally:
        await nats.stop()


@pytest.mark.parametrize(
    ("who", "name", "value"),
    [
        ("GATEWAY", "POSTGRES_DSN", f"postgresql://tritonq:{MARK}#x@127.0.0.1:5432/tritonq"),
        ("GATEWAY", "POSTGRES_DSN", f"postgresql://tritonq:p@127.0.0.1/tritonq?sslmode={MARK}"),
        ("GATEWAY", "POSTGRES_DSN", MARK),
        ("GATEWAY", "NATS_URL", f"nats://{MARK}@127.0.0.1:x"),
        ("GATEWAY", "NATS_URL", f"nats://user:{MARK}#@127.0.0.1"),
        ("GATEWAY", "BLOBS_URL", f"s3://key:{MARK}@bucket"),
        ("GATEWAY", "BLOBS_URL", f"https://user:{MARK}@host/bucket"),
        ("DISPATCHER", "POSTGRES_DSN", f"postgresql://tritonq:p@127.0.0.1:{MARK}/tritonq"),
        ("DISPATCHER", "POSTGRES_DSN", f"postgresql://t:p@127.0.0.1/tritonq?sslmode={MARK}"),
        ("DISPATCHER", "NATS_URL", f"nats://{MARK}@127.0.0.1"),
    ],
)
async def test_a_wrong_setting_is_named_and_not_quoted(
    environment: dict[str, str], tmp_path: Path, who: str, name: str, value: str
) -> None:
    changed = {**environment, f"{who}_{name}": value}
    async with run(tmp_path, who.lower(), changed) as process:
        async with asyncio.timeout(DEADLINE_S):
            while not any(event in process.output() for event in ("wrong", "listening", "begun")):
                assert process.process.returncode is None, process.output()
                await asyncio.sleep(0.02)
        if "listening" in process.output():
            port = (await process.line("gateway.listening"))["port"]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                headers = {"Authorization": f"Bearer {ALICE}"}
                tell_nothing([await client.get(f"/v1/predictions/{UNKNOWN}", headers=headers)])
        process.says_nothing()


@pytest.mark.parametrize("tokens", [MARK, f"alice:{MARK} x", f"a b:{MARK}", f"a:{MARK},b:{MARK}"])
async def test_wrong_tokens_are_not_quoted(
    environment: dict[str, str], tmp_path: Path, tokens: str
) -> None:
    async with run(tmp_path, "gateway", {**environment, "GATEWAY_TOKENS": tokens}) as gateway:
        assert await gateway.ended() == 2
        gateway.says_nothing()
