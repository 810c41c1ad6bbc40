"""`tritonq backup` and `tritonq restore` as people run them: on a state folder, and on services."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from archive import connected
from contract.prediction import Ticket
from standalone.stores import stores
from tests import services
from tests.ended import succeeded
from tests.services import ROOT, free_ports
from tests.tickets import a_ticket
from tritonq.command.exits import Exit


def tritonq(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TRITONQ_")}
    return subprocess.run(
        [sys.executable, "-m", "tritonq", *words],
        cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip


async def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(tritonq, *words, **environment)


async def test_a_stopped_installation_is_backed_up_destroyed_and_restored(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "backup"
    ended, waiting = succeeded(), a_ticket()
    async with stores(state, new=True) as kept:
        secrets = {kept.postgres_dsn.split(":")[2].split("@")[0], kept.nats_token}
        async with connected(
            postgres_dsn=kept.postgres_dsn,
            nats_url=kept.nats_url,
            nats_token=kept.nats_token,
            blobs_url=kept.blobs_url,
        ) as parts:
            await parts.ledger.migrate()
            await parts.ledger.record([ended])
            await parts.broker.declare(["identity"])
            await parts.broker.publish(waiting)

    taken = await run("backup", str(folder), "--state", str(state))
    assert taken.returncode == Exit.OK, taken.stderr
    assert "1 predictions in the queue, 1 outcomes" in taken.stdout
    shutil.rmtree(state)
    restored = await run("restore", str(folder), "--state", str(state))
    assert restored.returncode == Exit.OK, restored.stderr

    async with stores(state, new=False) as kept:
        secrets |= {kept.postgres_dsn.split(":")[2].split("@")[0], kept.nats_token}
        async with connected(
            postgres_dsn=kept.postgres_dsn,
            nats_url=kept.nats_url,
            nats_token=kept.nats_token,
            blobs_url=kept.blobs_url,
        ) as parts:
            assert await parts.ledger.get(ended.id) == ended
            queue = [Ticket.from_bytes(each.data) async for each in parts.broker.transfer.tickets()]
            assert queue == [waiting]
    assert len(secrets) == 4, "a new installation has secrets of its own"
    told = taken.stdout + taken.stderr + restored.stdout + restored.stderr
    content = b"".join(each.read_bytes() for each in folder.iterdir())
    assert not any(secret in told or secret.encode() in content for secret in secrets)

    again = await run("restore", str(folder), "--state", str(state))
    assert again.returncode == Exit.FAILED
    assert "empty installation" in again.stderr


async def test_the_services_may_be_those_that_the_environment_names(
    ledger_dsn: str, nats_server: services.NatsAddress, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(nats_server.token)
    environment = {
        "TRITONQ_POSTGRES_DSN": ledger_dsn,
        "TRITONQ_NATS_URL": nats_server.url,
        "TRITONQ_NATS_TOKEN_FILE": str(tmp_path / "token"),
        "TRITONQ_NAMESPACE": namespace,
        "TRITONQ_BLOBS_URL": (tmp_path / "blobs").as_uri(),
    }
    folder = tmp_path / "backup"
    async with connected(
        postgres_dsn=ledger_dsn,
        nats_url=nats_server.url,
        nats_token=nats_server.token,
        blobs_url=environment["TRITONQ_BLOBS_URL"],
        namespace=namespace,
    ) as parts:
        await parts.broker.declare(["identity"])
        await parts.broker.publish(a_ticket())

    done = await run("backup", str(folder), "--from-environment", **environment)
    assert done.returncode == Exit.OK, done.stderr
    assert "1 predictions in the queue" in done.stdout

    taken = await run("backup", str(folder), "--from-environment", **environment)
    assert (taken.returncode, "there already" in taken.stderr) == (Exit.FAILED, True)

    away = {**environment, "TRITONQ_NATS_URL": f"nats://127.0.0.1:{free_ports(1)[0]}"}
    refused = await run("backup", str(tmp_path / "other"), "--from-environment", **away)
    assert (refused.returncode, "NATS" in refused.stderr) == (Exit.UNAVAILABLE, True)

    del environment["TRITONQ_BLOBS_URL"]
    wrong = await run("backup", str(tmp_path / "other"), "--from-environment", **environment)
    assert (wrong.returncode, "TRITONQ_BLOBS_URL" in wrong.stderr) == (Exit.USAGE, True)
    assert ledger_dsn not in wrong.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["backup", "{0}/backup", "--state", "{0}/nothing"], Exit.FAILED, "no installation"),
        (["restore", "{0}/nothing", "--state", "{0}/state"], Exit.FAILED, "not a backup"),
        (["backup", "{0}/b", "--state", "{0}/s", "--from-environment"], Exit.USAGE, "not both"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    tmp_path: Path, words: list[str], code: Exit, reason: str
) -> None:
    done = await run(*(word.format(tmp_path) for word in words))

    assert done.returncode == code
    assert reason in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
