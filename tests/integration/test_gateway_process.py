"""The gateway as a process: how it starts, refuses to start, and stops."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from contract.prediction import Outcome, Status
from gateway.settings import GatewaySettings
from tests.gateways import ALICE, ECHO, TEXT, TOKENS, connect
from tests.tickets import fresh_id


@pytest.fixture
def environment(settings: GatewaySettings) -> dict[str, str]:
    token = settings.nats_token
    assert token is not None
    given = {
        "PORT": "0",
        "TOKENS": TOKENS,
        "NATS_URL": settings.nats_url,
        "NATS_TOKEN": token.get_secret_value(),
        "NAMESPACE": settings.namespace,
        "POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "BLOBS_URL": settings.blobs_url,
        "MODEL_REPOSITORY": str(settings.model_repository),
    }
    return {f"GATEWAY_{name}": value for name, value in given.items()}


AS_IT_IS = ("-m", "gateway")

# The gateway with a bug in what hears announcements, which no request waits for.
WITH_A_BUG = """
import sys
from gateway.__main__ import main
from gateway.follow import Follower

def fail(*_):
    raise AssertionError("planted")

Follower.heard = fail
sys.exit(main())
"""


@asynccontextmanager
async def started(
    environment: Mapping[str, str], program: tuple[str, ...] = AS_IT_IS
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    """The first line of its log with this event."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for text in process.stderr:
            line: dict[str, object] = json.loads(text)
            if line["event"] == event:
                return line
    raise AssertionError(f"it ended without {event}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_answers_those_who_wait_and_ends_with_0(
    environment: dict[str, str], number: signal.Signals
) -> None:
    async with started(environment) as process:
        port = (await line_of(process, "gateway.listening"))["port"]
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=ALICE, timeout=70
        ) as client:
            wait = {"Prefer": "wait=50"}
            held = asyncio.create_task(client.post(ECHO, json=TEXT, headers=wait))
            async with asyncio.timeout(10):
                while "tritonq_waiters 1.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.01)
            process.send_signal(number)
            assert (await held).json()["status"] == "starting"
        async with asyncio.timeout(10):
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("changed", "event", "reason"),
    [
        ({"GATEWAY_POSTGRES_DSN": ""}, "configuration.wrong", "DSN"),
        ({"GATEWAY_TOKENS": "alice"}, "configuration.wrong", "name:token"),
        ({"GATEWAY_AUTH": "none", "GATEWAY_HOST": "0.0.0.0"}, "settings.wrong", "loopback"),
        ({"GATEWAY_BODY_WAIT_S": "soon"}, "settings.wrong", "number"),
        ({"GATEWAY_RETENTION_DAYS": "3"}, "settings.wrong", '"0 keeps everything; else it is'),
        ({"GATEWAY_MODEL_REPOSITORY": "/nowhere"}, "configuration.wrong", "/nowhere"),
        ({"GATEWAY_MODELS": "nothing"}, "configuration.wrong", "nothing"),
        ({"GATEWAY_BLOBS_URL": "nonsense"}, "configuration.wrong", "blob URL"),
        ({"GATEWAY_HOST": "192.0.2.1"}, "configuration.wrong", "192.0.2.1"),
    ],
)
async def test_a_wrong_configuration_says_what_is_wrong_and_ends_with_2(
    environment: dict[str, str], changed: dict[str, str], event: str, reason: str
) -> None:
    async with started({**environment, **changed}) as process:
        assert reason in json.dumps(await line_of(process, event))
        async with asyncio.timeout(10):
            assert await process.wait() == 2


async def test_every_line_of_its_log_is_an_event_of_ours(environment: dict[str, str]) -> None:
    async with started(environment) as process:
        port = (await line_of(process, "gateway.listening"))["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/healthz")).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events
    assert [each for each in events if not re.fullmatch(r"[a-z]+\.[a-z_]+", each)] == []


async def test_a_taken_port_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with started({**environment, "GATEWAY_PORT": port}) as process:
            assert port in str((await line_of(process, "configuration.wrong"))["reason"])
            async with asyncio.timeout(10):
                assert await process.wait() == 2


async def test_no_secret_is_in_the_log(environment: dict[str, str]) -> None:
    async with started({**environment, "GATEWAY_MODELS": "nothing"}) as process:
        _, log = await process.communicate()
        assert b"configuration.wrong" in log
    for name in ("TOKENS", "NATS_TOKEN", "POSTGRES_DSN"):
        assert environment[f"GATEWAY_{name}"].encode() not in log


async def test_a_bug_that_nobody_awaits_ends_the_process(
    environment: dict[str, str], settings: GatewaySettings
) -> None:
    """Logged only, callers would wait for announcements that nobody takes in any more."""
    async with started(environment, ("-c", WITH_A_BUG)) as process:
        await line_of(process, "gateway.listening")
        broker = await connect(settings)

        async def announce() -> None:
            while True:  # the gateway may not listen to NATS yet
                await broker.announce([Outcome(fresh_id(), Status.CANCELED, 1, 1, 0)])
                await asyncio.sleep(0.1)

        announcing = asyncio.create_task(announce())
        assert "planted" in json.dumps(await line_of(process, "process.bug"))
        announcing.cancel()
        await asyncio.wait([announcing])
        await broker.close()
        async with asyncio.timeout(15):
            assert await process.wait() == 1
