"""What a key stands for, and taking predictions back, on a real nats-server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from broker import Broker, QueueLimits
from broker.requests import NoAnswer
from contract.claims import Claim
from contract.errors import Overloaded, QueueUnavailable
from contract.ids import PredictionId
from contract.prediction import Priority
from contract.queue import QueueNames
from tests.outages import LIMITS, MODEL, Restartable, down, note_tries, up
from tests.services import NatsAddress
from tests.tickets import Arrivals, a_ticket, fresh_id, until

KEY = "ab" * 32


def a_claim(fingerprint: str = "f" * 64) -> Claim:
    return Claim(fresh_id(), fingerprint, "alice")


@pytest.fixture
async def other(nats_server: NatsAddress, namespace: str) -> AsyncIterator[Broker]:
    """Another gateway's connection to what `broker` is connected to."""
    other = await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="test"
    )
    yield other
    await other.close()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Restartable]:
    nats = Restartable(tmp_path)
    await nats.start()
    yield nats
    await nats.stop()


@pytest.fixture
async def fragile(nats: Restartable) -> AsyncIterator[Broker]:
    """A broker whose server may be killed."""
    broker = await nats.connect()
    await broker.declare([MODEL], LIMITS)
    yield broker
    await broker.close()


async def test_the_first_claim_of_a_key_stays_the_one(broker: Broker, other: Broker) -> None:
    first = a_claim()
    assert await broker.find_claim(KEY) is None
    assert await broker.claim(KEY, first) == first
    assert await other.claim(KEY, a_claim()) == first
    assert await broker.claim(KEY, a_claim()) == first
    assert await other.find_claim(KEY) == first
    assert await other.find_claim("cd" * 32) is None


async def test_of_many_claims_of_one_key_at_once_all_get_the_same(
    broker: Broker, other: Broker
) -> None:
    claims = [a_claim() for _ in range(40)]
    got = await asyncio.gather(
        *((other if number % 2 else broker).claim(KEY, each) for number, each in enumerate(claims))
    )
    assert len(set(got)) == 1
    assert got[0] in claims


async def test_a_claim_of_the_same_id_for_something_else_is_not_taken_for_a_repetition(
    broker: Broker,
) -> None:
    """As with a PUT: the id is the caller's, so two different requests may bring the same."""
    first = a_claim()
    await broker.claim(KEY, first)
    assert await broker.claim(KEY, msgspec.structs.replace(first, fingerprint="0" * 64)) == first


async def test_a_claim_whose_answer_was_lost_is_known_as_our_own(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_the_first(tries: list[str]) -> None:
        if len(tries) == 1:
            raise NoAnswer("lost")

    tries = note_tries(broker, monkeypatch, answered=lose_the_first)
    ours = a_claim()
    assert await broker.claim(KEY, ours) == ours
    assert len(tries) == 2


async def test_claims_outlive_a_kill_of_the_server(nats: Restartable, fragile: Broker) -> None:
    first = a_claim()
    await fragile.claim(KEY, first)
    await nats.kill()
    await down(fragile)
    with pytest.raises(QueueUnavailable):
        await fragile.claim(KEY, a_claim())
    await nats.start()
    await up(fragile)
    assert await fragile.claim(KEY, a_claim()) == first


async def test_more_claims_than_are_kept_are_refused_and_none_is_dropped(
    nats_server: NatsAddress, namespace: str
) -> None:
    broker = await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="test"
    )
    await broker.declare([MODEL], QueueLimits(bytes_max=1 << 20, claims_max=2))
    keys = ["a" * 64, "b" * 64, "c" * 64]
    claims = [a_claim() for _ in keys]
    for key, claim in zip(keys[:2], claims, strict=False):
        await broker.claim(key, claim)
    with pytest.raises(Overloaded):
        await broker.claim(keys[2], claims[2])
    assert [await broker.find_claim(key) for key in keys] == [*claims[:2], None]
    assert await broker.claim(keys[0], a_claim()) == claims[0], "a full stream still answers"
    await broker.close()


async def test_a_claim_leaves_by_its_age(nats_server: NatsAddress, namespace: str) -> None:
    broker = await Broker.connect(
        nats_server.url, names=QueueNames(namespace), token=nats_server.token, client_name="test"
    )
    await broker.declare([MODEL], QueueLimits(bytes_max=1 << 20, claims_age_s=1.0))
    await broker.claim(KEY, a_claim())
    second = a_claim()

    async def is_free() -> bool:
        return await broker.claim(KEY, second) == second

    await until(is_free)
    await broker.declare([MODEL], QueueLimits(bytes_max=1 << 20, claims_age_s=3600.0))
    await broker.close()


async def test_a_ticket_is_withdrawn_wherever_it_waits_and_the_others_stay(
    broker: Broker, other: Broker
) -> None:
    heard: list[PredictionId] = []
    await other.subscribe_withdrawals(heard.extend)
    tickets = [a_ticket(priority=priority) for priority in Priority]
    for ticket in tickets:
        await broker.publish(ticket)
    await broker.withdraw(tickets[1].id)
    await broker.withdraw(fresh_id())  # nothing of the kind is there: that is fine
    assert [await broker.find(ticket.id) is not None for ticket in tickets] == [True, False, True]

    async def are_heard() -> bool:
        return len(heard) == 2

    await until(are_heard)
    assert heard[0] == tickets[1].id


async def test_a_withdrawn_ticket_may_be_published_again(broker: Broker) -> None:
    """The server remembers message ids for two minutes, also of what was purged."""
    ticket = a_ticket()
    await broker.publish(ticket)
    await broker.withdraw(ticket.id)
    await broker.publish(ticket)
    assert await broker.find(ticket.id) is not None


async def test_a_ticket_withdrawn_while_it_is_held_does_not_come_back(broker: Broker) -> None:
    arrivals = await Arrivals(broker.intake(Priority.NORMAL, "identity", room=2)).start()
    withdrawn, later = a_ticket(), a_ticket()
    await broker.publish(withdrawn)
    held = await arrivals.next()
    await broker.withdraw(withdrawn.id)
    await held.ack()  # of what is gone: harmless
    arrivals.intake.release(held)
    await broker.publish(later)
    assert (await arrivals.next()).ticket == later
    assert (await broker.depth()).tickets == 1
    await arrivals.intake.stop()


async def test_nothing_is_withdrawn_in_silence_while_the_server_is_away(
    nats: Restartable, fragile: Broker
) -> None:
    ticket = a_ticket()
    await fragile.publish(ticket)
    await nats.kill()
    await down(fragile)
    with pytest.raises(QueueUnavailable):
        await fragile.withdraw(ticket.id)
    await nats.start()
    await up(fragile)
    await fragile.withdraw(ticket.id)
    assert await fragile.find(ticket.id) is None


async def test_what_is_no_withdrawal_is_ignored(broker: Broker, other: Broker) -> None:
    heard: list[PredictionId] = []
    await other.subscribe_withdrawals(heard.extend)
    names = broker._names
    await broker._connection.publish(names.withdrawn, b"nonsense")
    await broker.withdraw(fresh_id())

    async def is_heard() -> bool:
        return len(heard) == 1

    await until(is_heard)
