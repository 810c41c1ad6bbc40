"""What everybody hears on core NATS."""

import asyncio

from broker import Broker
from contract.announcements import Announced, DispatcherStatus
from contract.prediction import Outcome, Status
from contract.queue import QueueNames
from tests.services import NatsAddress
from tests.tickets import fresh_id


def an_outcome(*, size: int = 10) -> Outcome:
    output = b'"' + b"x" * size + b'"'
    return Outcome(fresh_id(), Status.SUCCEEDED, 1, 2, 1, output)


async def another(nats_server: NatsAddress, namespace: str) -> Broker:
    return await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="other"
    )


async def test_outcomes_are_heard_by_everybody_who_listens(
    broker: Broker, nats_server: NatsAddress, namespace: str
) -> None:
    listeners = [await another(nats_server, namespace) for _ in range(2)]
    heard: list[asyncio.Queue[list[Announced]]] = [asyncio.Queue(), asyncio.Queue()]
    for listener, queue in zip(listeners, heard, strict=True):
        await listener.subscribe_outcomes(queue.put_nowait)
        await listener.flush()
    outcomes = [an_outcome(), an_outcome()]
    await broker.announce(outcomes)
    async with asyncio.timeout(10):
        for queue in heard:
            assert await queue.get() == [Announced(each.id, each) for each in outcomes]
    for listener in listeners:
        await listener.close()


async def test_outcomes_too_many_for_one_message_travel_in_several(broker: Broker) -> None:
    heard: list[Announced] = []
    complete = asyncio.Event()

    def listen(announced: list[Announced]) -> None:
        heard.extend(announced)
        if len(heard) == 200:
            complete.set()

    await broker.subscribe_outcomes(listen)
    outcomes = [an_outcome(size=60_000) for _ in range(200)]
    await broker.announce(outcomes)
    async with asyncio.timeout(10):
        await complete.wait()
    assert [each.id for each in heard] == [each.id for each in outcomes]


async def test_a_dispatchers_status_is_heard(
    broker: Broker, nats_server: NatsAddress, namespace: str
) -> None:
    listener = await another(nats_server, namespace)
    heard: asyncio.Queue[DispatcherStatus] = asyncio.Queue()
    await listener.subscribe_dispatchers(heard.put_nowait)
    await listener.flush()
    status = DispatcherStatus("host-1.example", {"identity": ""}, inflight=3)
    await broker.tell_status(status)
    async with asyncio.timeout(10):
        assert await heard.get() == status
    await listener.close()


async def test_an_announcement_nobody_can_read_is_dropped_and_the_next_is_heard(
    broker: Broker, namespace: str
) -> None:
    heard: asyncio.Queue[list[Announced]] = asyncio.Queue()
    await broker.subscribe_outcomes(heard.put_nowait)
    await broker._connection.publish(QueueNames(namespace).outcomes, b"\xc1 not an announcement")
    outcome = an_outcome()
    await broker.announce([outcome])
    async with asyncio.timeout(10):
        assert await heard.get() == [Announced(outcome.id, outcome)]


async def test_announcing_nothing_says_nothing(broker: Broker) -> None:
    heard: asyncio.Queue[list[Announced]] = asyncio.Queue()
    await broker.subscribe_outcomes(heard.put_nowait)
    await broker.announce([])
    await broker.announce([an_outcome()])
    async with asyncio.timeout(10):
        assert len(await heard.get()) == 1
