import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker import progress as progress_module
from broker.connection import Connection
from broker.progress import Progress, ProgressCache
from broker.requests import NoAnswer, Requests
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


class AnswersOnce(Requests):
    """A server that falls silent after its first answer."""

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
        if self.asked > 1:
            raise NoAnswer("NATS did not answer in time")
        data = b'{"delivered": {"stream_seq": 10}, "num_pending": 5}'
        return Msg(Client(), data=data)


async def test_what_was_running_does_not_wait_again_when_nobody_can_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_module, "FRESH_S", 0.0)
    requests = AnswersOnce()
    cache = ProgressCache(requests, QueueNames())
    ticket = a_ticket()
    assert await cache.of(ticket) == Progress(10, 5)
    assert await cache.of(ticket) == Progress(10, 5)
    assert requests.asked == 2
