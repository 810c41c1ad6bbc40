"""The queue on three servers: what the death, the silence and the isolation of one may cost.

Here without gateways and dispatchers; with them in test_cluster_whole.py.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from broker import Broker, QueueLimits, UnsuitableServer
from contract.claims import Claim
from contract.errors import AlreadyAccepted, QueueUnavailable
from contract.prediction import Ticket
from contract.queue import QueueNames
from tests.chaos.cluster import TOKEN, Cluster, cluster
from tests.services import NatsAddress
from tests.tickets import a_ticket, fresh_id

T = TypeVar("T")

MODEL = "identity"
LIMITS = QueueLimits(bytes_max=1 << 28, replicas=3)
PUBLISHERS = 8
STALL_S_MAX = 30.0  # a leader is elected within 4 to 9 s


@pytest.fixture(scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Fixture `broker` mends it after each test."""
    async with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def names(namespace: str) -> QueueNames:
    return QueueNames(namespace)


async def connected(url: str, names: QueueNames) -> Broker:
    return await Broker.connect(url, names=names, token=TOKEN, client_name="test")


@pytest.fixture
async def broker(three: Cluster, names: QueueNames) -> AsyncIterator[Broker]:
    broker = await connected(three.url, names)
    try:
        # A server that has just come back is believed to be away for some seconds.
        await patiently(partial(broker.declare, [MODEL], LIMITS))
        await three.in_sync(names.stream)
        yield broker
    finally:
        await broker.close()
        await three.mend()


async def config_of(three: Cluster, stream: str) -> StreamConfig:
    client = Client()
    await client.connect(next(iter(three.nodes.values())).url, token=TOKEN)
    try:
        return (await client.jetstream().stream_info(stream)).config
    finally:
        await client.close()


class Publishers:
    """Publish one ticket after the other, and remember which were accepted."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.accepted: list[Ticket] = []
        self._more = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PUBLISHERS):
                tasks.create_task(self._publish())

    async def _publish(self) -> None:
        while True:
            ticket = a_ticket()
            try:
                await self._broker.publish(ticket)
            except QueueUnavailable:
                await asyncio.sleep(0.01)
                continue
            self.accepted.append(ticket)
            self._more.set()

    async def accept(self, count: int) -> None:
        """Wait until so many more have been accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(STALL_S_MAX):
            while len(self.accepted) < wanted:
                self._more.clear()
                await self._more.wait()


async def patiently(effect: Callable[[], Awaitable[T]]) -> T:
    """Repeat what the queue is not there for, as a patient caller does."""
    async with asyncio.timeout(STALL_S_MAX):
        while True:
            try:
                return await effect()
            except QueueUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.chaos
async def test_the_number_of_replicas_is_changed_in_place_and_costs_no_ticket(
    three: Cluster, names: QueueNames
) -> None:
    """From one to three takes nats-server 2.15 ten seconds, in which the stream is nobody's."""
    broker = await connected(three.url, names)
    tickets = [a_ticket() for _ in range(20)]
    for replicas in (1, 3, 1):
        limits = QueueLimits(bytes_max=1 << 28, replicas=replicas)
        await patiently(partial(broker.declare, [MODEL], limits))
        if replicas == 1:
            await asyncio.gather(*(patiently(partial(stored, broker, each)) for each in tickets))
        for stream in (names.stream, names.claims_stream):
            assert (await config_of(three, stream)).num_replicas == replicas
        assert (await patiently(broker.depth)).tickets == len(tickets)
    await broker.close()


async def stored(broker: Broker, ticket: Ticket) -> None:
    with suppress(AlreadyAccepted):
        await broker.publish(ticket)


async def test_a_single_server_is_not_taken_for_a_cluster(
    nats_server: NatsAddress, names: QueueNames
) -> None:
    broker = await Broker.connect(
        nats_server.url, names=names, token=nats_server.token, client_name="test"
    )
    with pytest.raises(UnsuitableServer, match="3 servers of one cluster"):
        await broker.declare([MODEL], LIMITS)
    await broker.close()


async def test_a_killed_leader_stalls_submitting_and_loses_nothing(
    three: Cluster, broker: Broker, names: QueueNames
) -> None:
    publishers = Publishers(broker)
    publishing = asyncio.create_task(publishers.run())
    await publishers.accept(200)
    leader = await three.leader(names.stream)
    await three.kill(leader)
    await publishers.accept(200)
    publishing.cancel()
    await asyncio.wait([publishing])
    finding = (patiently(partial(broker.find, each.id)) for each in publishers.accepted)
    found = await asyncio.gather(*finding)
    assert [each and each.ticket for each in found] == publishers.accepted


async def test_a_leader_that_is_cut_off_does_not_say_that_there_is_no_such_prediction(
    three: Cluster, broker: Broker, names: QueueNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on answering while another leads, and knows nothing of what that one accepts."""
    monkeypatch.setattr("broker.watch.LOOKS_MAX", -1)  # nobody leaves the server it is connected to
    leader = await three.leader(names.stream)
    others = ",".join(node.url for name, node in three.nodes.items() if name != leader)
    at_leader = await connected(three.nodes[leader].url, names)
    elsewhere = await connected(others, names)
    three.cut_off(leader)
    accepted = a_ticket()
    await patiently(partial(stored, elsewhere, accepted))
    for _ in range(10):
        with pytest.raises(QueueUnavailable):
            await at_leader.find(accepted.id)
    three.heal()
    found = await patiently(partial(at_leader.find, accepted.id))
    assert found is not None
    assert found.ticket == accepted
    await at_leader.close()
    await elsewhere.close()


async def test_whoever_is_connected_to_a_server_that_is_cut_off_goes_on_at_another(
    three: Cluster, broker: Broker, names: QueueNames
) -> None:
    lost = name_of(three, broker)
    three.cut_off(lost)
    claim = Claim(fresh_id(), "0" * 64)
    await patiently(partial(stored, broker, a_ticket()))
    assert await patiently(partial(broker.claim, "ab", claim)) == claim
    assert await patiently(partial(broker.claim, "ab", Claim(fresh_id(), "1" * 64))) == claim


async def test_a_server_that_hangs_is_left_for_another_whatever_waits_to_be_sent(
    three: Cluster, broker: Broker, names: QueueNames
) -> None:
    """nats-py cannot close a connection with data that nobody reads."""
    victim = name_of(three, broker)
    three.freeze(victim)
    large = [asyncio.create_task(broker.publish(a_ticket(size=1 << 20))) for _ in range(20)]
    async with asyncio.timeout(STALL_S_MAX):
        while name_of(three, broker) == victim or not broker.is_connected:
            await asyncio.sleep(0.05)
    await patiently(partial(stored, broker, a_ticket()))
    three.resume(victim)
    await asyncio.wait(large)


def name_of(three: Cluster, broker: Broker) -> str:
    """Which server the product is connected to, or was last."""
    client = broker._connection._client
    assert client is not None
    assert client._current_server is not None
    port = client._current_server.uri.port
    return next(name for name, node in three.nodes.items() if node.port == port)


@pytest.mark.chaos
async def test_three_servers_killed_at_once_come_back_with_all_that_was_accepted(
    three: Cluster, broker: Broker, names: QueueNames
) -> None:
    tickets = [a_ticket() for _ in range(50)]
    await asyncio.gather(*(broker.publish(ticket) for ticket in tickets))
    await asyncio.gather(*(three.kill(name) for name in three.nodes))
    await asyncio.gather(*(three.start(name) for name in three.nodes))
    for ticket in tickets:
        assert await patiently(partial(broker.find, ticket.id)) is not None
