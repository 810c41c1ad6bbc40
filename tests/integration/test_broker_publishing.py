"""Accepting work: what a returned publish promises, and every way to be refused."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from broker import Broker, QueueLimits
from contract.errors import AlreadyAccepted, Overloaded, TooLarge
from contract.limits import INLINE_BYTES_MAX, TICKET_BYTES_MAX
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames
from tests.services import NatsAddress
from tests.tickets import Arrivals, a_ticket, until_left

TICKETS_MAX = 3


@pytest.fixture
async def small_queue(nats_server: NatsAddress, namespace: str) -> AsyncIterator[Broker]:
    broker = await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="test"
    )
    await broker.declare(["identity"], QueueLimits(tickets_max=TICKETS_MAX, bytes_max=1 << 20))
    yield broker
    await broker.close()


async def test_a_published_ticket_is_found_by_its_id_alone(broker: Broker) -> None:
    ticket = a_ticket(priority=Priority.HIGH)
    await broker.publish(ticket)
    found = await broker.find(ticket.id)
    assert found is not None
    assert found.ticket == ticket


async def test_an_id_is_accepted_once(broker: Broker) -> None:
    ticket = a_ticket()
    await broker.publish(ticket)
    with pytest.raises(AlreadyAccepted):
        await broker.publish(ticket)
    assert (await broker.depth()).tickets == 1


async def test_an_id_is_accepted_once_even_with_another_model_and_priority(broker: Broker) -> None:
    ticket = a_ticket()
    await broker.publish(ticket)
    other = msgspec.structs.replace(ticket, model="efficientnet_lite0", priority=Priority.LOW)
    with pytest.raises(AlreadyAccepted):
        await broker.publish(other)


async def test_of_many_publishes_of_one_id_at_once_exactly_one_is_accepted(broker: Broker) -> None:
    ticket = a_ticket()
    results = await asyncio.gather(
        *(broker.publish(ticket) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(each, int) for each in results) == 1
    assert sum(isinstance(result, AlreadyAccepted) for result in results) == 19


async def test_the_largest_inline_input_fits(broker: Broker) -> None:
    ticket = a_ticket(size=INLINE_BYTES_MAX)
    await broker.publish(ticket)
    found = await broker.find(ticket.id)
    assert found is not None
    assert found.ticket == ticket


async def test_a_ticket_just_below_the_limit_is_stored_and_one_above_is_refused(
    broker: Broker,
) -> None:
    def sized(size: int) -> Ticket:
        """A ticket of exactly `size` bytes on the wire."""
        ticket = a_ticket(size=1)
        spare = size - len(msgspec.structs.replace(ticket, owner="o" * 70_000).to_bytes())
        return msgspec.structs.replace(ticket, owner="o" * (70_000 + spare))

    fits = TICKET_BYTES_MAX - 512
    assert len(sized(fits).to_bytes()) == fits
    await broker.publish(sized(fits))
    with pytest.raises(TooLarge) as refused:
        await broker.publish(sized(fits + 1))
    assert refused.value.field == "input"
    assert (await broker.depth()).tickets == 1


async def test_a_full_queue_refuses_and_keeps_what_it_has(small_queue: Broker) -> None:
    tickets = [a_ticket() for _ in range(TICKETS_MAX)]
    for ticket in tickets:
        await small_queue.publish(ticket)
    with pytest.raises(Overloaded) as refused:
        await small_queue.publish(a_ticket())
    assert refused.value.retry_after_s == 5, "nothing is measured yet"
    for ticket in tickets:
        assert await small_queue.find(ticket.id) is not None


async def test_a_queue_full_of_bytes_refuses(small_queue: Broker) -> None:
    await small_queue.publish(a_ticket(size=900_000))
    with pytest.raises(Overloaded):
        await small_queue.publish(a_ticket(size=900_000))


async def test_room_in_the_queue_is_used_again(small_queue: Broker) -> None:
    for _ in range(TICKETS_MAX):
        await small_queue.publish(a_ticket())
    arrivals = await Arrivals(small_queue.intake(Priority.NORMAL, "identity", room=1)).start()
    await arrivals.finish(1)
    await until_left(small_queue, TICKETS_MAX - 1)
    await small_queue.publish(a_ticket())
    await arrivals.intake.stop()


async def test_more_submissions_at_once_than_the_cap_are_refused_and_the_others_stored(
    broker: Broker,
) -> None:
    results = await asyncio.gather(
        *(broker.publish(a_ticket()) for _ in range(600)), return_exceptions=True
    )
    assert sum(isinstance(each, int) for each in results) == 512  # their places in the queue
    assert sum(isinstance(each, Overloaded) for each in results) == 600 - 512
    assert (await broker.depth()).tickets == 512
