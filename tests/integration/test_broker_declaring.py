"""Making the stream and its consumers."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StreamConfig

from broker import Broker, QueueLimits, UnsuitableServer
from contract.errors import Overloaded
from contract.limits import NATS_PAYLOAD_BYTES_MAX
from contract.prediction import Priority
from contract.queue import QueueNames
from standalone.nats import Nats
from standalone.server import running
from tests.services import NatsAddress, free_ports
from tests.tickets import Arrivals, a_ticket

LIMITS = QueueLimits(tickets_max=1000, bytes_max=1 << 24)


async def connected(server: NatsAddress, namespace: str) -> Broker:
    return await Broker.connect(
        server.url, names=QueueNames(namespace), token=server.token, client_name="test"
    )


@pytest.fixture
async def undeclared(nats_server: NatsAddress, namespace: str) -> AsyncIterator[Broker]:
    broker = await connected(nats_server, namespace)
    yield broker
    await broker.close()


@pytest.fixture
async def jetstream(nats_server: NatsAddress) -> AsyncIterator[JetStreamContext]:
    client = Client()
    await client.connect(nats_server.url, token=nats_server.token)
    yield client.jetstream()
    await client.close()


async def config_of(jetstream: JetStreamContext, namespace: str) -> StreamConfig:
    return (await jetstream.stream_info(QueueNames(namespace).stream)).config


async def test_the_stream_never_drops_accepted_work(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    await undeclared.declare(["identity"], LIMITS)
    config = await config_of(jetstream, namespace)
    assert (config.retention, config.storage, config.discard) == ("workqueue", "file", "new")
    assert (config.max_age, config.allow_msg_ttl) == (0, False)
    assert (config.max_msgs, config.max_bytes) == (1000, 1 << 24)
    assert (config.max_msgs_per_subject, config.discard_new_per_subject) == (1, True)


async def test_each_model_has_a_consumer_per_priority(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    await undeclared.declare(["identity", "with.dot"], LIMITS)
    consumers = await jetstream.consumers_info(QueueNames(namespace).stream)
    assert {consumer.config.durable_name for consumer in consumers} == {
        f"{priority}__{model}"
        for priority in ("high", "normal", "low")
        for model in ("identity", "with%2Edot")
    }
    assert {consumer.config.ack_wait for consumer in consumers} == {6}
    assert {consumer.config.max_deliver for consumer in consumers} == {-1}


async def test_consumers_of_an_earlier_release_are_updated_and_park_nothing_any_more(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    """It made them with leases of 30 s, and a limit after which a ticket never came again."""
    names = QueueNames(namespace)
    await undeclared.declare(["identity"], LIMITS)
    consumer = names.consumer(Priority.NORMAL, "identity")
    earlier = (await jetstream.consumer_info(names.stream, consumer)).config
    earlier = dataclasses.replace(earlier, ack_wait=30, max_deliver=2)
    await jetstream.add_consumer(names.stream, earlier)
    ticket = a_ticket()
    await undeclared.publish(ticket)
    arrivals = await Arrivals(undeclared.intake(Priority.NORMAL, "identity", room=1)).start()
    held = await arrivals.next()

    await undeclared.declare(["identity"], LIMITS)
    for attempt in range(1, 5):
        assert (held.ticket, held.attempt) == (ticket, attempt)
        await held.give_back()
        arrivals.intake.release(held)
        held = await arrivals.next()
    config = (await jetstream.consumer_info(names.stream, consumer)).config
    assert (config.ack_wait, config.max_deliver) == (6, -1)
    await arrivals.intake.stop()


async def test_declaring_again_changes_nothing(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    await undeclared.declare(["identity"], LIMITS)
    before = await config_of(jetstream, namespace)
    await undeclared.publish(a_ticket())
    await undeclared.declare(["identity"], LIMITS)
    assert await config_of(jetstream, namespace) == before
    assert (await undeclared.depth()).tickets == 1


async def test_several_processes_may_declare_at_the_same_time(
    nats_server: NatsAddress, namespace: str
) -> None:
    brokers = [await connected(nats_server, namespace) for _ in range(6)]
    await asyncio.gather(
        *(
            each.declare(["identity", "b", "c"], replace(LIMITS, tickets_max=100 + number))
            for number, each in enumerate(brokers)
        )
    )
    await brokers[0].publish(a_ticket())
    for each in brokers:
        await each.close()


async def test_new_limits_are_taken_over_and_cost_no_ticket(undeclared: Broker) -> None:
    await undeclared.declare(["identity"], LIMITS)
    for _ in range(5):
        await undeclared.publish(a_ticket())
    await undeclared.declare(["identity"], replace(LIMITS, tickets_max=2))
    assert (await undeclared.depth()).tickets == 5
    with pytest.raises(Overloaded):
        await undeclared.publish(a_ticket())
    await undeclared.declare(["identity"], replace(LIMITS, bytes_max=100))
    assert (await undeclared.depth()).tickets == 5


async def test_a_stream_someone_made_differently_is_corrected(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    names = QueueNames(namespace)
    await jetstream.add_stream(
        StreamConfig(
            name=names.stream,
            subjects=[names.all_tickets],
            retention=RetentionPolicy.WORK_QUEUE,
            max_age=60,
        )
    )
    await undeclared.declare(["identity"], LIMITS)
    config = await config_of(jetstream, namespace)
    assert (config.max_age, config.discard) == (0, "new")


async def test_a_stream_that_cannot_be_corrected_is_refused_with_the_reason(
    undeclared: Broker, jetstream: JetStreamContext, namespace: str
) -> None:
    names = QueueNames(namespace)
    await jetstream.add_stream(
        StreamConfig(
            name=names.stream, subjects=[names.all_tickets], retention=RetentionPolicy.LIMITS
        )
    )
    with pytest.raises(UnsuitableServer, match="retention"):
        await undeclared.declare(["identity"], LIMITS)


async def test_a_model_with_a_dot_in_its_name_is_served(undeclared: Broker) -> None:
    await undeclared.declare(["resnet.v1-5"], LIMITS)
    ticket = a_ticket(model="resnet.v1-5")
    await undeclared.publish(ticket)
    intake = undeclared.intake(Priority.NORMAL, "resnet.v1-5", room=1)
    arrivals = await Arrivals(intake).start()
    assert (await arrivals.next()).ticket == ticket
    await intake.stop()


class SmallMessages(Nats):
    """A server with the default of nats-server, 1 MiB."""

    def config_text(self) -> str:
        return super().config_text().replace(str(NATS_PAYLOAD_BYTES_MAX), str(1024 * 1024))


async def test_a_server_that_takes_only_small_messages_is_refused(
    tmp_path: Path, namespace: str
) -> None:
    port, monitor_port = free_ports(2)
    server = SmallMessages(tmp_path, port, monitor_port, "token", "2m")
    async with running(server):
        broker = await connected(NatsAddress(server.url, "token"), namespace)
        with pytest.raises(UnsuitableServer, match=f"max_payload to at least {8 * 1024 * 1024}"):
            await broker.declare(["identity"], LIMITS)
        await broker.close()


async def test_a_server_without_room_for_the_queue_is_refused(
    tmp_path: Path, namespace: str
) -> None:
    port, monitor_port = free_ports(2)
    server = Nats(tmp_path, port, monitor_port, "token", "2m", store_bytes_max=1 << 20)
    async with running(server):
        broker = await connected(NatsAddress(server.url, "token"), namespace)
        with pytest.raises(UnsuitableServer, match="lower the queue's bytes_max"):
            await broker.declare(["identity"], LIMITS)
        await broker.close()
