"""NATS dies, hangs, comes back, or was never there: nothing accepted is lost, all resumes."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from broker import Broker
from broker import intake as intake_module
from broker.internals import publish_with_headers
from broker.requests import NoAnswer
from contract.announcements import Announced
from contract.errors import AcceptanceUnknown, QueueUnavailable
from contract.ids import PredictionId
from contract.limits import NATS_PAYLOAD_BYTES_MAX
from contract.prediction import Outcome, Priority, Status
from tests.outages import (
    LIMITS,
    MODEL,
    NAMES,
    Restartable,
    down,
    in_flight,
    note_tries,
    published,
    short_leases,
    up,
)
from tests.tickets import Arrivals, a_ticket, fresh_id, until, until_left


@pytest.fixture(autouse=True)
def _silence_helps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An intake that hears nothing starts anew in the end; here it has to know better."""
    monkeypatch.setattr(intake_module, "SILENCE_S_MAX", 60)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Restartable]:
    nats = Restartable(tmp_path)
    await nats.start()
    yield nats
    await nats.stop()


@pytest.fixture
async def broker(nats: Restartable) -> AsyncIterator[Broker]:
    broker = await nats.connect()
    await broker.declare([MODEL], LIMITS)
    yield broker
    await broker.close()


def intake(broker: Broker, room: int) -> Arrivals:
    return Arrivals(broker.intake(Priority.NORMAL, MODEL, room=room))


async def test_accepted_tickets_survive_a_kill_of_the_server(
    nats: Restartable, broker: Broker
) -> None:
    tickets = await published(broker, 50)
    await nats.kill()
    await nats.start()
    await up(broker)
    for ticket in tickets:
        found = await broker.find(ticket.id)
        assert found is not None
        assert found.ticket == ticket


async def test_what_is_refused_while_the_server_is_down_is_not_stored_later(
    nats: Restartable, broker: Broker
) -> None:
    await nats.kill()
    await down(broker)
    ticket = a_ticket()
    with pytest.raises(QueueUnavailable) as refused:
        await broker.publish(ticket)
    assert not isinstance(refused.value, AcceptanceUnknown)
    await nats.start()
    await up(broker)
    await broker.flush()
    assert await broker.find(ticket.id) is None
    assert (await broker.depth()).tickets == 0


async def test_reads_fail_at_once_while_the_server_is_down(
    nats: Restartable, broker: Broker
) -> None:
    await nats.kill()
    await down(broker)
    for question in (
        broker.find(fresh_id()),
        broker.waiting(before_sequence=None, tickets_max=1),
        broker.ping(),
        broker.declare([MODEL], LIMITS),
    ):
        with pytest.raises(QueueUnavailable):
            await question


async def test_publishes_in_flight_when_the_server_dies_succeed_once_it_is_back(
    nats: Restartable, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.storing.ANSWER_TIMEOUT_S", 60)  # the lost connection must tell
    monkeypatch.setattr("broker.storing.STORE_S_MAX", 60)
    tickets = [a_ticket() for _ in range(200)]
    await nats.freeze()  # so that they are in flight for certain
    publishing = asyncio.gather(*(broker.publish(ticket) for ticket in tickets))
    await in_flight(broker, 200)
    await nats.kill()
    await nats.start()
    async with asyncio.timeout(15):
        await publishing
    assert (await broker.depth()).tickets == 200
    for ticket in tickets:
        assert await broker.find(ticket.id) is not None


async def test_a_publish_the_server_never_confirms_is_unknown(
    nats: Restartable, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.storing.STORE_S_MAX", 0.5)
    await nats.freeze()
    publishing = asyncio.create_task(broker.publish(a_ticket()))
    await in_flight(broker, 1)
    await nats.kill()
    with pytest.raises(AcceptanceUnknown):
        await publishing


async def test_a_publish_repeated_by_ourselves_is_stored_once(
    nats: Restartable, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.storing.ANSWER_TIMEOUT_S", 0.2)
    await nats.freeze()
    tries = note_tries(broker, monkeypatch)
    publishing = asyncio.create_task(broker.publish(a_ticket()))

    async def several() -> bool:
        return len(tries) >= 3

    await until(several)
    nats.signal(signal.SIGCONT)
    await publishing
    assert (await broker.depth()).tickets == 1


async def test_a_repetition_is_not_stored_where_the_first_try_has_been_worked_off_meanwhile(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = await intake(broker, 1).start()

    async def lose_the_first(tries: list[str]) -> None:
        if len(tries) == 1:
            await arrivals.finish(1)
            await until_left(broker, 0)
            raise NoAnswer("lost")

    tries = note_tries(broker, monkeypatch, answered=lose_the_first)
    await broker.publish(a_ticket())
    assert len(tries) == 2
    assert (await broker.depth()).tickets == 0
    await arrivals.intake.stop()


async def test_an_intake_resumes_after_a_restart_by_itself(
    nats: Restartable, broker: Broker
) -> None:
    arrivals = await intake(broker, 4).start()
    await published(broker, 2)
    await arrivals.finish(2)
    await broker.flush()
    for _ in range(2):
        await nats.kill()
        await nats.start()
        await up(broker)
        missing = {ticket.id for ticket in await published(broker, 6)}
        while missing:
            # The last acks before a kill may be forgotten, and the attempts with them: an old
            # ticket may come again, as if for the first time.
            (delivery,) = await arrivals.finish(1)
            missing.discard(delivery.ticket.id)
    await arrivals.intake.stop()


async def test_an_ack_that_meets_a_dead_server_is_lost_in_silence_and_the_ticket_returns(
    nats: Restartable, broker: Broker
) -> None:
    await short_leases(nats, 1.0)
    (ticket,) = await published(broker, 1)
    arrivals = await intake(broker, 1).start()
    first = await arrivals.next()
    await nats.kill()
    await down(broker)
    await first.ack()
    arrivals.intake.release(first)
    await nats.start()
    # A server that is killed may forget the last deliveries, so the attempt may be the first again.
    assert (await arrivals.next()).ticket == ticket
    await arrivals.intake.stop()


async def test_a_lease_that_ends_brings_the_ticket_to_another_and_extending_keeps_it(
    nats: Restartable, broker: Broker
) -> None:
    await short_leases(nats, 0.5)
    extended, left = await published(broker, 2)
    arrivals = await intake(broker, 2).start()
    kept, _ = await arrivals.take(2)
    assert kept.ticket == extended
    other = await nats.connect()
    others = await intake(other, 4).start()

    async def extend() -> None:
        while True:
            await kept.extend_lease()
            await asyncio.sleep(0.1)

    extending = asyncio.create_task(extend())
    returned = await others.next()
    assert (returned.ticket, returned.attempt) == (left, 2)
    await returned.ack()
    with pytest.raises(TimeoutError):
        await others.next(deadline_s=1.0)  # twice the lease
    extending.cancel()
    assert (await broker.depth()).tickets == 1, "extending a lease keeps the ticket"
    for each in (arrivals, others):
        await each.intake.stop()
    await other.close()


async def test_an_intake_notices_a_silent_server_and_neither_loses_nor_exceeds(
    nats: Restartable, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(intake_module, "SILENCE_S_MAX", 0.5)
    arrivals = await intake(broker, 4).start()
    await published(broker, 1)
    await arrivals.finish(1)
    pull = arrivals.intake._pull
    await nats.freeze()

    async def renewed() -> bool:
        return arrivals.intake._pull is not pull

    await until(renewed)
    nats.signal(signal.SIGCONT)
    tickets = await published(broker, 20)
    got: set[PredictionId] = set()
    while len(got) < 20:
        delivery = await arrivals.next()
        got.add(delivery.ticket.id)
        assert arrivals.intake._held <= 4
        await delivery.ack()
        arrivals.intake.release(delivery)
    assert got == {ticket.id for ticket in tickets}
    await arrivals.intake.stop()


async def test_an_intake_uses_all_its_room_however_many_requests_have_expired(
    nats: Restartable, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "EXPIRES_S", 0.3)
    monkeypatch.setattr(intake_module, "HEARTBEAT_S", 0.1)
    arrivals = await intake(broker, 8).start()
    for _ in range(4):
        await published(broker, 1)  # leaves the request partly filled
        await arrivals.finish(1)
        await asyncio.sleep(0.5)  # longer than a request lives
    await published(broker, 8)
    assert len(await arrivals.take(8)) == 8
    await arrivals.intake.stop()


async def test_an_intake_waits_for_a_consumer_that_is_declared_later(
    nats: Restartable, broker: Broker
) -> None:
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, "later", room=2)).start()
    ticket = a_ticket(model="later")
    await broker.publish(ticket)
    await broker.declare(["later"], LIMITS)
    assert (await arrivals.next()).ticket == ticket
    await arrivals.intake.stop()


async def test_an_intake_survives_the_deletion_of_its_consumer(
    nats: Restartable, broker: Broker
) -> None:
    arrivals = await intake(broker, 2).start()
    await published(broker, 1)
    await arrivals.finish(1)
    client = Client()
    await client.connect(nats.server.url, token="token")
    await client.jetstream().delete_consumer(NAMES.stream, NAMES.consumer(Priority.NORMAL, MODEL))
    await client.close()
    await broker.declare([MODEL], LIMITS)
    (ticket,) = await published(broker, 1)
    assert (await arrivals.next()).ticket == ticket
    await arrivals.intake.stop()


async def test_a_process_may_start_before_the_server(tmp_path: Path) -> None:
    nats = Restartable(tmp_path)
    broker = await nats.connect()
    assert not broker.is_connected
    heard: asyncio.Queue[list[Announced]] = asyncio.Queue()
    await broker.subscribe_outcomes(heard.put_nowait)
    arrivals = await intake(broker, 2).start()
    with pytest.raises(QueueUnavailable):
        await broker.publish(a_ticket())
    await nats.start()
    await up(broker)
    await broker.declare([MODEL], LIMITS)
    (ticket,) = await published(broker, 1)
    assert (await arrivals.next()).ticket == ticket
    outcome = Outcome(ticket.id, Status.CANCELED, 1, 2, 1)
    await broker.announce([outcome])
    async with asyncio.timeout(10):
        assert await heard.get() == [Announced(outcome.id, outcome)]
    await arrivals.intake.stop()
    await broker.close()
    await nats.stop()


async def test_a_process_that_never_met_a_server_closes_cleanly(tmp_path: Path) -> None:
    broker = await Restartable(tmp_path).connect()
    arrivals = await intake(broker, 2).start()
    await arrivals.intake.stop()
    await broker.close()
    assert not broker.is_connected


async def test_a_wrong_token_is_unavailable_and_logged_without_the_token(
    nats: Restartable, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await nats.connect(token="wrong-secret")
    assert not broker.is_connected
    with pytest.raises(QueueUnavailable):
        await broker.ping()
    await broker.close()
    logged = [f"{record.message} {vars(record)}" for record in caplog.records]
    assert any("Authorization Violation" in line for line in logged)
    assert not any("wrong-secret" in line for line in logged)


async def test_announcements_are_heard_again_after_a_restart_and_the_hook_tells(
    nats: Restartable, broker: Broker
) -> None:
    heard: asyncio.Queue[list[Announced]] = asyncio.Queue()
    await broker.subscribe_outcomes(heard.put_nowait)
    reconnected = asyncio.Event()
    broker.when_connected(reconnected.set)
    await nats.kill()
    await nats.start()
    async with asyncio.timeout(10):
        await reconnected.wait()
    outcome = Outcome(fresh_id(), Status.CANCELED, 1, 2, 1)
    await broker.announce([outcome])
    async with asyncio.timeout(10):
        assert await heard.get() == [Announced(outcome.id, outcome)]


async def replaced_connection(broker: Broker) -> None:
    client = broker._connection.client
    # More than the server takes: it answers with an error and hangs up.
    too_much = b"x" * (NATS_PAYLOAD_BYTES_MAX + 1)
    await publish_with_headers(client, "anything", too_much, reply="nobody", headers={})

    async def replaced() -> bool:
        return broker.is_connected and broker._connection.client is not client

    await until(replaced)


async def test_a_connection_nats_py_gives_up_for_good_is_replaced(
    nats: Restartable, broker: Broker
) -> None:
    heard: asyncio.Queue[list[Announced]] = asyncio.Queue()
    await broker.subscribe_outcomes(heard.put_nowait)
    arrivals = await intake(broker, 2).start()
    await replaced_connection(broker)
    # nats-py's own task failed; its report comes with the collection. Have it here, not in the
    # middle of whatever runs later.
    gc.collect()
    (ticket,) = await published(broker, 1)
    assert (await arrivals.next()).ticket == ticket
    outcome = Outcome(ticket.id, Status.CANCELED, 1, 2, 1)
    await broker.announce([outcome])
    async with asyncio.timeout(10):
        assert await heard.get() == [Announced(outcome.id, outcome)]
    await arrivals.intake.stop()
