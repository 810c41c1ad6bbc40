"""Taking work: how much, how often, and what comes back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from broker import Broker, Delivery, Queued
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames
from tests.services import NatsAddress
from tests.tickets import Arrivals, a_ticket, fresh_id, until, until_left

MODEL = "identity"
MIB = 1024 * 1024


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
    await until_left(broker, 0)
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
        done = held.pop(0)
        await done.ack()
        arrivals.intake.release(done)
    assert len(arrivals.all) == 40
    assert {delivery.attempt for delivery in arrivals.all} == {1}, "more was asked for than fits"
    await arrivals.intake.stop()


async def test_what_is_given_back_comes_again_as_the_second_attempt(broker: Broker) -> None:
    (ticket,) = await published(broker, 1)
    arrivals = await intake(broker, 1).start()
    first = await arrivals.next()
    await first.give_back()
    arrivals.intake.release(first)
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
    arrivals.intake.release(first)
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

    await until_left(broker, 0)
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
    first = await arrivals.next()
    pull = arrivals.intake._pull
    assert pull is not None

    async def answer_to_one_more() -> bytes:
        more = a_ticket().to_bytes()
        await client.publish(pull._request, more, reply=f"{namespace}_answers")
        return (await answers.next_msg(timeout=10)).data

    assert await answer_to_one_more() == b"-NAK", "the room is full"
    arrivals.intake.release(first)
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


async def published_raw(
    nats_server: NatsAddress, namespace: str, data: bytes, *, token: str
) -> None:
    """What is on a ticket's subject, without being one."""
    client = Client()
    await client.connect(nats_server.url, token=nats_server.token)
    await client.jetstream().publish(f"{namespace}.normal.{MODEL}.{token}", data)
    await client.close()


async def test_what_is_nobodys_prediction_is_removed_and_the_next_one_arrives(
    broker: Broker, nats_server: NatsAddress, namespace: str
) -> None:
    await published_raw(nats_server, namespace, a_ticket().to_bytes(), token="rubbish")
    (ticket,) = await published(broker, 1)

    arrivals = await intake(broker, 1).start()
    assert (await arrivals.next()).ticket == ticket
    assert arrivals.intake.foreign == 1

    async def removed() -> bool:
        return (await broker.depth()).tickets == 1

    await until(removed)
    await arrivals.intake.stop()


NESTED = b"\x91" * 100_000 + b"\xc0"  # lists in lists
NO_TICKETS = [b"", b"\xc1 rubbish", b"\x80", NESTED, a_ticket().to_bytes()]


@pytest.mark.parametrize("data", NO_TICKETS, ids=["empty", "rubbish", "fields", "deep", "other"])
async def test_an_unreadable_ticket_is_handed_over_with_what_its_subject_says(
    broker: Broker, nats_server: NatsAddress, namespace: str, data: bytes
) -> None:
    """Somebody was told that it was accepted, so it has to end."""
    expected = Ticket(fresh_id(), MODEL, 1, {})
    await published_raw(nats_server, namespace, data, token=expected.id)
    assert await listed(broker) == [] or data == NO_TICKETS[-1]
    arrivals = await intake(broker, 1).start()
    delivery = await arrivals.next()
    assert delivery.ticket == expected
    assert delivery.unreadable
    await delivery.ack()
    await until_left(broker, 0)
    await arrivals.intake.stop()


async def listed(broker: Broker) -> list[Queued]:
    return await broker.waiting(before_sequence=None, tickets_max=10)


async def test_what_is_held_never_exceeds_its_bytes_and_the_flow_goes_on(broker: Broker) -> None:
    """Sizes are mixed, so that requests end by their bytes and by their number."""
    bytes_max = 5 * MIB
    sizes = [MIB, 10, MIB // 2, 2 * MIB - 4096, 1000, MIB] * 5
    for size in sizes:
        await broker.publish(a_ticket(size=size))
    limited = broker.intake(Priority.NORMAL, MODEL, room=20, bytes_max=bytes_max)
    arrivals = await Arrivals(limited).start()
    held: list[Delivery] = []
    largest = 0
    for released in range(len(sizes)):
        await broker.flush()  # what the server had sent has arrived
        largest = max(largest, limited.held_bytes)
        while len(held) + released < len(arrivals.all) or not held:
            held.append(await arrivals.next())
        done = held.pop(0)
        await done.ack()
        limited.release(done)
    assert 2 * MIB < largest <= bytes_max
    assert limited.held_bytes == 0
    assert {delivery.attempt for delivery in arrivals.all} == {1}, "more was asked for than fits"
    await limited.stop()


async def test_a_ticket_of_any_size_fits_even_where_nothing_else_does(broker: Broker) -> None:
    for _ in range(3):
        await broker.publish(a_ticket(size=2 * MIB - 4096))
    narrow = broker.intake(Priority.NORMAL, MODEL, room=20, bytes_max=1)
    arrivals = await Arrivals(narrow).start()
    assert len(await arrivals.finish(3)) == 3
    await narrow.stop()


async def test_a_request_that_ends_in_the_middle_is_followed_by_another(broker: Broker) -> None:
    """Three fit, the fourth ends the request; once there is room, it and the others come."""
    for _ in range(8):
        await broker.publish(a_ticket(size=MIB))
    limited = broker.intake(Priority.NORMAL, MODEL, room=20, bytes_max=4 * MIB)
    arrivals = await Arrivals(limited).start()
    first = await arrivals.take(3)
    for delivery in first:
        await delivery.ack()
        limited.release(delivery)
    assert len(await arrivals.finish(5)) == 5
    await limited.stop()
