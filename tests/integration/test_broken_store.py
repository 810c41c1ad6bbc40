"""A queue whose disk was full works again once there is room, without anybody's help."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.js.client import JetStreamContext

from blobs import Blobs
from broker import Broker
from contract.prediction import Priority
from contract.queue import QueueNames
from dispatcher.upkeep import Upkeep
from ledger import Ledger
from standalone.broken_store import StoreRemedy
from standalone.nats import Nats
from standalone.server import running
from standalone.supervisor import Event, Kind, Pace, Service, Supervisor
from tests.ended import succeeded
from tests.outages import up as until_connected
from tests.services import free_ports
from tests.tickets import Arrivals, a_ticket

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted as root only")

DEADLINE_S = 30.0
DISK = "160m"
MODEL, TICKETS = "identity", 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tritonq-test", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def stored(jetstream: JetStreamContext) -> bool:
    try:
        await jetstream.publish("kept", bytes(4096), timeout=0.5)
    except (nats.errors.Error, TimeoutError):
        return False
    return True


async def test_tickets_whose_removal_the_disk_refused_are_found_and_swept(
    small_disk: Path, ledger: Ledger, tmp_path: Path
) -> None:
    port, monitor_port = free_ports(2)
    server = Nats(small_disk, port, monitor_port, "token", store_bytes_max=1 << 40)
    broker = await Broker.connect(
        server.url, names=QueueNames("swept"), token="token", client_name="test"
    )
    ballast = small_disk / "ballast"
    async with running(server):
        await until_connected(broker)
        await broker.declare([MODEL])
        tickets = [a_ticket() for _ in range(TICKETS)]
        for ticket in tickets:
            await broker.publish(ticket)
        assert await broker.leftovers() == []
        arrivals = await Arrivals(broker.intake(Priority.NORMAL, MODEL, room=TICKETS)).start()
        deliveries = await arrivals.take(TICKETS)
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for delivery in deliveries:
            await delivery.ack()
        await broker.flush()
        await arrivals.intake.stop()
        ballast.unlink()
    async with running(server):
        await until_connected(broker)
        left = await broker.leftovers()
        assert left, "the disk refused nothing"
        ended, orphan = left[:-1], left[-1]
        await ledger.record([succeeded(each) for each in ended])
        blobs = Blobs.open((tmp_path / "blobs").as_uri())
        await Upkeep(ledger, broker, blobs, 0).sweep()
        assert await broker.leftovers() == [orphan]
    await broker.close()


async def test_a_queue_whose_disk_was_full_is_started_again_once_there_is_room(
    small_disk: Path,
) -> None:
    port, monitor_port = free_ports(2)
    server = Nats(small_disk, port, monitor_port, "token")
    events: list[Event] = []
    service = Service(server, remedy=StoreRemedy(server))
    supervisor = Supervisor([service], tell=events.append, pace=Pace(probe_every_s=0.1))
    await supervisor.start()
    watching = asyncio.create_task(supervisor.watch())
    client = await nats.connect(server.url, token="token", reconnect_time_wait=0.1)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEPT", subjects=["kept"])
        kept = 0
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        async with asyncio.timeout(DEADLINE_S):
            while await stored(jetstream):
                kept += 1
        ballast.unlink()
        async with asyncio.timeout(DEADLINE_S):
            while not await stored(jetstream):
                pass
        assert [event.kind for event in events][1:] == [Kind.AILING, Kind.RESTARTED]
        assert (await jetstream.stream_info("KEPT")).state.messages == kept + 1
    finally:
        await client.close()
        watching.cancel()
        await asyncio.wait([watching])
        await supervisor.stop()
