"""The queue and its claims leave NATS whole and in order, and arrive so."""

import asyncio

import pytest

from broker import Broker, QueueLimits
from broker.transfer import Carried
from contract.claims import Claim
from contract.errors import Overloaded
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames
from tests import services
from tests.tickets import Arrivals, a_ticket, fresh_id, until_left

MODEL = "identity"


async def test_tickets_and_claims_arrive_in_their_order_whatever_the_namespace(
    broker: Broker, nats_server: services.NatsAddress
) -> None:
    tickets = [a_ticket(size=size) for size in (100, 900_000, 0, 5)]
    tickets += [a_ticket(model="efficientnet_lite0", priority=Priority.LOW) for _ in range(300)]
    for ticket in tickets:
        await broker.publish(ticket)
    claims = {f"{number:064x}": Claim(fresh_id(), "ab", "alice") for number in range(3)}
    for key, claim in claims.items():
        await broker.claim(key, claim)
    carried = [each async for each in broker.transfer.tickets()]
    assert [Ticket.from_bytes(each.data) for each in carried] == tickets
    carried_claims = [each async for each in broker.transfer.claims()]

    names = QueueNames(f"another_{fresh_id()}")
    other = await Broker.connect(
        nats_server.url, names=names, token=nats_server.token, client_name="test"
    )
    assert not await other.transfer.is_declared()
    await other.transfer.prepare(QueueLimits(bytes_max=10_000_000))
    for _ in range(2):  # a restore that was cut off is done again
        for each in carried:
            await other.transfer.put_ticket(each)
        for each in carried_claims:
            await other.transfer.put_claim(each)

    assert [each async for each in other.transfer.tickets()] == carried
    assert [each async for each in other.transfer.claims()] == carried_claims
    for key, claim in claims.items():
        assert await other.claim(key, Claim(fresh_id(), "ab", "alice")) == claim
    queue, kept = await other.transfer.depths()
    assert (queue.tickets, kept.tickets) == (len(tickets), len(claims))
    await other.close()


async def test_what_was_restored_and_removed_is_restored_again_soon_after(broker: Broker) -> None:
    ticket = a_ticket()
    await broker.publish(ticket)
    carried = [each async for each in broker.transfer.tickets()]
    for _ in range(2):
        await broker.withdraw(ticket.id)
        assert [each async for each in broker.transfer.tickets()] == []
        for each in carried:
            await broker.transfer.put_ticket(each)
        assert [each async for each in broker.transfer.tickets()] == carried


async def test_what_leaves_and_enters_the_queue_meanwhile_does_no_harm(broker: Broker) -> None:
    tickets = [a_ticket() for _ in range(1000)]
    await asyncio.gather(*[broker.publish(each) for each in tickets[:500]])
    await asyncio.gather(*[broker.publish(each) for each in tickets[500:]])
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, MODEL, room=64)).start()

    met = []
    async for each in broker.transfer.tickets():
        met.append(each)
        if len(met) == 1:
            ended = {one.ticket.id for one in await arrivals.finish(600)}
            await until_left(broker, len(tickets) - len(ended))
            await broker.publish(a_ticket())
    await arrivals.intake.stop()

    found = {Ticket.from_bytes(each.data).id for each in met}
    assert found | ended == {each.id for each in tickets}


async def test_an_empty_queue_is_read_to_its_end(broker: Broker) -> None:
    assert [each async for each in broker.transfer.tickets()] == []
    assert [each async for each in broker.transfer.claims()] == []


async def test_a_queue_that_is_full_says_so(broker: Broker) -> None:
    await broker.declare((MODEL,), QueueLimits(tickets_max=1, bytes_max=1_000_000))
    tickets = [a_ticket(), a_ticket()]
    carried = [Carried(f"normal.{MODEL}.{each.id}", each.to_bytes()) for each in tickets]
    await broker.transfer.put_ticket(carried[0])
    with pytest.raises(Overloaded):
        await broker.transfer.put_ticket(carried[1])
