"""Taking work: how much, how often, and what comes back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from broker import Broker, Queued
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames
from tests.services import NatsAddress
from tests.tickets import Arrivals, a_ticket, until

MODEL = "identity"


def intake(broker: Broker, room: int, priority: Priority = Priority.NORMAL) -> Arrivals:
    return Arrivals(broker.intake(priority, MODEL, room=room))


async def published(
    broker: Broker, count: int, priority: Priority = Priority.NORMAL
) -> list[Ticket]:
    tickets = [a_ticket(priority=priority) for _ in range(count)]
    for ticket in tickets:
        await broker.publish(ticket)
    return tickets


@pytest.fixture
async def second(nats_server: NatsAddress, namespace: str) -> AsyncIterator[Broker]:
    """Another process's broker on the same queue."""
    broker = await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="second"
    )
    yield broker
    await broker.close()


async def test_tickets_arrive_in_the_order_of_acceptance(broker: Broker) -> None:
    tickets = await published(broker, 10)
    arrivals = await intake(broker, 4).start()
    assert [delivery.ticket for delivery in await arrivals.finish(10)] == tickets
    await arrivals.intake.stop()


async def test_a_ticket_published_while_the_intake_waits_arrives(broker: Broker) -> None:
    arrivals = await intake(broker, 4).start()
    (ticket,) = await published(broker, 1)
    delivery = await arrivals.next()
    assert (delivery.ticket, delivery.attempt) == (ticket, 1)
    await arrivals.intake.stop()


async def test_an_ack_removes_the_ticket(broker: Broker) -> None:
    await published(broker, 3)
    arrivals = await intake(broker, 4).start()
    await arrivals.finish(3)
    await broker.flush()
    assert (await broker.depth()).tickets == 0
    await arrivals.intake.stop()


@pytest.mark.parametrize("room", [1, 2, 3, 7])
async def test_the_room_is_used_and_never_exceeded(broker: Broker, room: int) -> None:
    await published(broker, 40)
    arrivals = await intake(broker, room).start()
    held = await arrivals.take(room)
    for released in range(40):
        await broker.flush()  # what the server had sent has arrived
        assert len(arrivals.all) - released <= room
        if not held:
            held.append(await arrivals.next())
        await held.pop(0).ack()
        arrivals.intake.release()
    assert len(arrivals.all) == 40
    assert {delivery.attempt for delivery in arrivals.all} == {1}, "more was asked for than fits"
    await arrivals.intake.stop()


async def test_what_is_given_back_comes_again_as_the_second_attempt(broker: Broker) -> None:
    (ticket,) = await published(broker, 1)
    arrivals = await intake(broker, 1).start()
    first = await arrivals.next()
    await first.give_back()
    arrivals.intake.release()
    again = await arrivals.next()
    assert (again.ticket, again.attempt, again.sequence) == (ticket, 2, first.sequence)
    await arrivals.intake.stop()


async def test_a_delay_holds_back_what_is_given_back(broker: Broker) -> None:
    loop = asyncio.get_running_loop()
    await published(broker, 1)
    arrivals = await intake(broker, 1).start()
    first = await arrivals.next()
    began = loop.time()
    await first.give_back(delay_s=0.5)
    arrivals.intake.release()
    await arrivals.next()
    assert loop.time() - began >= 0.45
    await arrivals.intake.stop()


async def test_two_intakes_share_the_work_and_each_ticket_arrives_once(
    broker: Broker, second: Broker
) -> None:
    both = [await intake(broker, 8).start(), await intake(second, 8).start()]
    tickets = await published(broker, 200)

    async def work(arrivals: Arrivals) -> None:
        while True:
            await arrivals.finish(1)

    workers = [asyncio.create_task(work(each)) for each in both]

    async def done() -> bool:
        return (await broker.depth()).tickets == 0

    await until(done)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    arrived = [delivery.ticket.id for each in both for delivery in each.all]
    assert sorted(arrived) == sorted(ticket.id for ticket in tickets)
    assert all(each.all for each in both), "one did all the work"
    for each in both:
        await each.intake.stop()


async def test_a_lane_that_is_stuck_blocks_no_other(broker: Broker) -> None:
    await published(broker, 5)
    (urgent,) = await published(broker, 1, Priority.HIGH)
    stuck = await intake(broker, 1).start()
    await stuck.next()  # and never settles it
    other = await intake(broker, 1, Priority.HIGH).start()
    assert (await other.next()).ticket == urgent
    await stuck.intake.stop()
    await other.intake.stop()


async def test_after_a_stop_everything_not_handed_over_goes_to_others(
    broker: Broker, second: Broker
) -> None:
    stopping = await intake(broker, 64).start()
    await published(broker, 1)
    await stopping.finish(1)
    publishing = asyncio.create_task(published(second, 300))
    await stopping.next()
    before = len(stopping.all)
    await stopping.intake.stop()
    assert len(stopping.all) == before
    tickets = await publishing
    handed_over = {delivery.ticket.id for delivery in stopping.all[1:]}
    others = await intake(second, 64).start()
    rest = {delivery.ticket.id for delivery in await others.finish(300 - len(handed_over))}
    assert handed_over | rest == {ticket.id for ticket in tickets}
    assert not handed_over & rest, "what was handed over is still on loan"
    await others.intake.stop()


async def test_what_arrives_too_late_or_too_much_is_given_back_at_once(
    broker: Broker, nats_server: NatsAddress, namespace: str
) -> None:
    client = Client()
    await client.connect(nats_server.url, token=nats_server.token)
    answers = await client.subscribe(f"{namespace}_answers")
    arrivals = await intake(broker, 1).start()
    await published(broker, 1)
    await arrivals.next()
    pull = arrivals.intake._pull
    assert pull is not None

    async def answer_to_one_more() -> bytes:
        more = a_ticket().to_bytes()
        await client.publish(pull._inbox, more, reply=f"{namespace}_answers")
        return (await answers.next_msg(timeout=10)).data

    assert await answer_to_one_more() == b"-NAK", "the room is full"
    arrivals.intake.release()
    pull.open_for_work = False  # as a stop does first
    assert await answer_to_one_more() == b"-NAK", "it is stopping"
    assert len(arrivals.all) == 1
    await arrivals.intake.stop()
    await client.close()


async def test_nothing_is_handed_over_after_a_stop(broker: Broker) -> None:
    arrivals = await intake(broker, 8).start()
    await arrivals.intake.stop()
    await published(broker, 3)
    await broker.flush()
    assert arrivals.all == []


async def test_an_intake_that_never_started_may_be_stopped(broker: Broker) -> None:
    await broker.intake(Priority.LOW, MODEL, room=1).stop()


async def test_an_unreadable_ticket_is_removed_and_the_next_one_arrives(
    broker: Broker, nats_server: NatsAddress, namespace: str
) -> None:
    client = Client()
    await client.connect(nats_server.url, token=nats_server.token)
    await client.jetstream().publish(f"{namespace}.normal.{MODEL}.rubbish", b"\xc1 rubbish")
    await client.close()
    (ticket,) = await published(broker, 1)
    assert [queued.ticket for queued in await listed(broker)] == [ticket]

    arrivals = await intake(broker, 1).start()
    assert (await arrivals.next()).ticket == ticket
    assert arrivals.intake.unreadable == 1

    async def removed() -> bool:
        return (await broker.depth()).tickets == 1

    await until(removed)
    await arrivals.intake.stop()


async def listed(broker: Broker) -> list[Queued]:
    return await broker.waiting(before_sequence=None, tickets_max=10)
