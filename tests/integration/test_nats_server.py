"""The nats-server of standalone: what it keeps, and whom it lets in."""

import os
import signal
from pathlib import Path

import nats
import nats.errors
import psutil
import pytest
from nats.aio.client import Client

from contract.limits import NATS_PAYLOAD_BYTES_MAX
from standalone import nats as nats_module
from standalone.nats import Nats
from standalone.server import CannotStart, running, start
from tests.services import free_ports

TOKEN = "open sesame"  # with a space: it must be quoted in the configuration


@pytest.fixture
def server(tmp_path: Path) -> Nats:
    port, monitor_port = free_ports(2)
    return Nats(tmp_path / "with space", port, monitor_port, TOKEN)


async def test_what_jetstream_acknowledged_is_there_after_a_kill_and_a_restart(
    server: Nats,
) -> None:
    process = await start(server)
    client = await nats.connect(server.url, token=TOKEN, allow_reconnect=False)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    for number in range(50):
        await client.jetstream().publish("kept", str(number).encode())
    os.kill(process.pid, signal.SIGKILL)
    await client.close()
    assert await process.wait() == -signal.SIGKILL
    await process.stop()

    async with running(server):
        client = await nats.connect(server.url, token=TOKEN)
        assert (await client.jetstream().stream_info("KEPT")).state.messages == 50
        assert client.max_payload == NATS_PAYLOAD_BYTES_MAX
        await client.close()


async def test_nobody_comes_in_without_the_token(server: Nats) -> None:
    async with running(server):
        for token in (None, "wrong"):
            client = Client()
            with pytest.raises(nats.errors.Error):
                await client.connect(server.url, token=token, allow_reconnect=False)
            await client.close()


async def test_it_listens_on_loopback_only_and_keeps_its_token_to_itself(server: Nats) -> None:
    async with running(server) as process:
        listening = [
            connection.laddr
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {(address.ip, address.port) for address in listening} == {
            ("127.0.0.1", port) for port in server.ports
        }
        assert TOKEN not in " ".join(psutil.Process(process.pid).cmdline())
    assert (server.folder / "nats.conf").stat().st_mode & 0o777 == 0o600
    assert TOKEN not in (server.folder / "nats.log").read_text()
    assert TOKEN not in repr(server)


async def test_a_full_disk_is_named_before_the_start(
    server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_module, "FREE_BYTES_MIN", 1 << 60)  # more than any disk has
    with pytest.raises(CannotStart, match=r"the disk of .*jetstream is full: [0-9]+ MB are free"):
        await start(server)


async def test_accepted_work_of_another_user_is_refused_instead_of_lost(
    server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = server.store / "streams" / "1.blk"
    block.parent.mkdir(parents=True)
    block.touch()
    # The user of the tests may be root, who reaches everything.
    monkeypatch.setattr(os, "access", lambda path, _: path != block)
    with pytest.raises(CannotStart, match=r"1\.blk belongs to another user \(uid [0-9]+\)"):
        await start(server)
