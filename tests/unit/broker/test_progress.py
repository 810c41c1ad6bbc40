import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.connection import Connection
from broker.progress import Progress, ProgressCache
from broker.requests import NoAnswer, Requests
from contract.errors import QueueUnavailable
from contract.queue import QueueNames
from tests.tickets import a_ticket


def test_what_the_consumer_has_handed_out_is_running_and_has_no_position() -> None:
    progress = Progress(delivered=10, pending=5)
    assert progress.is_running(10)
    assert progress.position(10) is None


def test_the_first_ticket_not_handed_out_is_next() -> None:
    progress = Progress(delivered=10, pending=5)
    assert not progress.is_running(11)
    assert progress.position(11) == 1


def test_tickets_of_other_lanes_in_between_do_not_count_beyond_what_is_pending() -> None:
    assert Progress(delivered=10, pending=3).position(1_000) == 3


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(1, 10**9))
def test_a_position_counts_from_one(delivered: int, pending: int, sequence: int) -> None:
    progress = Progress(delivered, pending)
    position = progress.position(sequence)
    assert (position is None) == progress.is_running(sequence)
    assert position is None or 1 <= position <= max(1, sequence - delivered)


class Answers(Requests):
    """A server that gives the same answer each time, and falls silent where told to."""

    silent_after = 1000

    def __init__(self) -> None:
        super().__init__(Connection("nats://nowhere", token=None, client_name="test"))
        self.asked = 0

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        self.asked += 1
        if self.asked > self.silent_after:
            raise NoAnswer("NATS did not answer in time")
        data = b'{"delivered": {"stream_seq": 10}, "num_pending": 5}'
        return Msg(Client(), data=data)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_runs_is_not_asked_about_again() -> None:
    requests = Answers()
    cache = ProgressCache(requests, QueueNames())
    assert await cache.of(a_ticket(), 10, since=now()) == Progress(10, 5)
    assert await cache.of(a_ticket(), 9, since=now()) == Progress(10, 5)
    assert requests.asked == 1


async def test_whoever_is_told_that_it_waits_is_told_what_held_when_they_asked() -> None:
    requests = Answers()
    cache = ProgressCache(requests, QueueNames())
    began = now()
    await cache.of(a_ticket(), 11, since=began)
    await cache.of(a_ticket(), 11, since=began)  # another ticket of the same page
    assert requests.asked == 1
    await cache.of(a_ticket(), 11, since=now())
    assert requests.asked == 2


async def test_readers_at_the_same_time_share_the_next_question() -> None:
    requests = Answers()
    cache = ProgressCache(requests, QueueNames())
    await cache.of(a_ticket(), 11, since=now())
    await asyncio.gather(*(cache.of(a_ticket(), 11, since=now()) for _ in range(50)))
    assert requests.asked == 2


async def test_whether_it_waits_is_not_guessed_when_nobody_can_say() -> None:
    requests = Answers()
    requests.silent_after = 1
    cache = ProgressCache(requests, QueueNames())
    assert await cache.of(a_ticket(), 11, since=now()) == Progress(10, 5)
    with pytest.raises(QueueUnavailable):  # another gateway may have shown it running
        await cache.of(a_ticket(), 11, since=now())
    assert await cache.of(a_ticket(), 10, since=now()) == Progress(10, 5)  # what runs, runs


class HungBefore(Answers):
    """A leader that was away for ten seconds, and then hears of its successor."""

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        self.asked += 1
        seq, active = (10, 10**10) if self.asked == 1 else (20, 10**9)
        info = {
            "delivered": {"stream_seq": seq},
            "cluster": {"leader": "n1", "replicas": [{"active": active}, {"active": active}]},
        }
        return Msg(Client(), data=json.dumps(info).encode())


async def test_a_leader_that_does_not_lead_any_more_is_asked_again() -> None:
    cache = ProgressCache(HungBefore(), QueueNames())
    assert await cache.of(a_ticket(), 15, since=now()) == Progress(20, 0)


class Forgets(Answers):
    """A new leader, which does not know of the last deliveries."""

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        self.asked += 1
        data = b'{"delivered": {"stream_seq": %d}, "num_pending": 5}' % (12 - 2 * self.asked)
        return Msg(Client(), data=data)


async def test_what_was_running_does_not_wait_again_under_another_leader() -> None:
    cache = ProgressCache(Forgets(), QueueNames())
    await cache.of(a_ticket(), 11, since=now())
    again = await cache.of(a_ticket(), 11, since=now())
    assert again is not None
    assert again.is_running(10)
