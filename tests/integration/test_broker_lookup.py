"""Reading the queue without taking from it."""

import asyncio

import pytest

from broker import Broker, Queued
from contract.errors import QueueUnavailable
from contract.ids import PredictionId
from contract.prediction import Priority, Ticket
from tests.tickets import Arrivals, a_ticket, fresh_id, until, until_left

MODEL = "identity"


async def published(broker: Broker, count: int, *, size: int = 100) -> list[Ticket]:
    tickets = [a_ticket(size=size) for _ in range(count)]
    for ticket in tickets:
        await broker.publish(ticket)
    return tickets


async def drained(broker: Broker, tickets_max: int) -> list[Queued]:
    """Every page, from the newest on."""
    everything: list[Queued] = []
    cursor = None
    while page := await broker.waiting(before_sequence=cursor, tickets_max=tickets_max):
        assert len(page) <= tickets_max
        everything += page
        cursor = page[-1].sequence
    return everything


async def test_an_unknown_id_is_not_found(broker: Broker) -> None:
    assert await broker.find(fresh_id()) is None


async def test_an_acked_ticket_is_not_found(broker: Broker) -> None:
    (ticket,) = await published(broker, 1)
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, MODEL, room=4)).start()
    await arrivals.finish(1)
    await arrivals.intake.stop()
    await until_left(broker, 0)
    assert await broker.find(ticket.id) is None


async def test_a_replica_that_is_behind_does_not_make_a_ticket_unknown(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_yet(question: object) -> None:
        return None

    (ticket,) = await published(broker, 1)
    monkeypatch.setattr(broker._lookup._messages, "any_replica", not_yet)
    found = await broker.find(ticket.id)
    assert found is not None
    assert found.ticket == ticket
    assert await broker.find(fresh_id()) is None


async def test_waiting_tickets_have_positions_and_running_ones_have_none(broker: Broker) -> None:
    tickets = await published(broker, 4)
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, MODEL, room=1)).start()
    await arrivals.next()

    async def state() -> list[tuple[bool, int | None]]:
        found = [await broker.find(ticket.id) for ticket in tickets]
        return [(queued.running, queued.position) for queued in found if queued is not None]

    async def settled() -> bool:  # within the second for which progress is cached
        return await state() == [(True, None), (False, 1), (False, 2), (False, 3)]

    await until(settled)
    await arrivals.intake.stop()


async def test_readers_at_the_same_time_share_one_question_about_progress(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = await published(broker, 50)
    asked: list[str] = []
    requests = broker._requests
    ask = requests.ask

    async def counted(subject: str, *args: object, **options: object) -> object:
        asked.append(subject)
        return await ask(subject, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(requests, "ask", counted)
    await asyncio.gather(*(broker.find(ticket.id) for ticket in tickets))
    assert sum(".CONSUMER.INFO." in subject for subject in asked) == 1


async def test_a_model_nobody_declared_is_waiting_at_an_unknown_position(broker: Broker) -> None:
    ticket = a_ticket(model="retired.model")
    await broker.publish(ticket)
    found = await broker.find(ticket.id)
    assert found is not None
    assert (found.running, found.position) == (False, None)


async def test_waiting_lists_the_newest_first_page_by_page(broker: Broker) -> None:
    tickets = await published(broker, 45)
    listed = await drained(broker, 10)
    assert [queued.ticket for queued in listed] == tickets[::-1]


async def test_the_listing_skips_what_has_ended_however_much_that_is(broker: Broker) -> None:
    first = await published(broker, 3)
    arrivals = await Arrivals(broker.intake(Priority.HIGH, MODEL, room=64)).start()
    for _ in range(4):  # 400 sequences of another lane, of which nothing is left
        for _ in range(100):
            await broker.publish(a_ticket(priority=Priority.HIGH))
        await arrivals.finish(100)
    await until_left(broker, len(first))
    last = await published(broker, 2)
    listed = await drained(broker, 2)
    assert [queued.ticket for queued in listed] == (first + last)[::-1]
    await arrivals.intake.stop()


async def test_an_empty_queue_lists_nothing(broker: Broker) -> None:
    assert await broker.waiting(before_sequence=None, tickets_max=10) == []


async def test_a_page_of_large_tickets_is_shorter_but_the_listing_complete(broker: Broker) -> None:
    tickets = await published(broker, 40, size=500_000)
    page = await broker.waiting(before_sequence=None, tickets_max=40)
    assert 1 <= len(page) < 40
    listed = await drained(broker, 40)
    assert [queued.ticket.id for queued in listed] == [ticket.id for ticket in tickets[::-1]]


async def test_the_oldest_is_the_one_that_was_published_first(
    broker: Broker, namespace: str
) -> None:
    assert await broker.oldest() is None
    # Somebody else's rubbish has no age; a ticket that cannot be read has one.
    await broker._connection.publish(f"{namespace}.normal.identity.rubbish", b"")
    assert await until_counted(broker, 1) is None
    unreadable = fresh_id()
    await broker._connection.publish(f"{namespace}.normal.identity.{unreadable}", b"rubbish")
    assert await until_counted(broker, 2) == unreadable
    await published(broker, 2)
    assert await broker.oldest() == unreadable


async def until_counted(broker: Broker, tickets: int) -> PredictionId | None:
    await until_left(broker, tickets)
    return await broker.oldest()


async def test_a_ticket_that_cannot_be_read_is_not_called_unknown(
    broker: Broker, namespace: str
) -> None:
    unreadable = fresh_id()
    await broker._connection.publish(f"{namespace}.normal.identity.{unreadable}", b"rubbish")
    await until_counted(broker, 1)

    with pytest.raises(QueueUnavailable, match="cannot be read"):
        await broker.find(unreadable)


async def test_the_oldest_is_known_by_a_leader_where_a_replica_is_behind(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_yet(question: object) -> None:
        return None

    (ticket,) = await published(broker, 1)
    monkeypatch.setattr(broker._lookup._messages, "any_replica", not_yet)
    assert await broker.oldest() == ticket.id
