"""What a gateway remembers of the predictions that it accepted."""

import pytest

from contract.announcements import Announced
from contract.prediction import Outcome, Status, Ticket
from gateway.recent import ENTRY_BYTES, Recent
from tests.tickets import fresh_id


def a_ticket(text: str = "x") -> Ticket:
    return Ticket(fresh_id(), "identity", 1, {"INPUT0": text}, owner="alice")


def an_outcome(ticket: Ticket, output: bytes = b"1") -> Outcome:
    return Outcome(ticket.id, Status.SUCCEEDED, 1, 2, 1, output)


def accepted(recent: Recent, ticket: Ticket, sequence: int = 7) -> Ticket:
    recent.expect(ticket)
    recent.settle(ticket.id, sequence)
    return ticket


async def test_what_is_not_accepted_yet_is_not_remembered() -> None:
    recent, ticket = Recent(), a_ticket()
    recent.expect(ticket)
    assert recent.find(ticket.id) is None
    recent.settle(ticket.id, 7)
    known = recent.find(ticket.id)
    assert known is not None
    assert (known.ticket, known.sequence, known.outcome) == (ticket, 7, None)
    assert known.will_be_heard


async def test_what_was_refused_is_not_remembered() -> None:
    recent, ticket = Recent(), a_ticket()
    recent.expect(ticket)
    recent.settle(ticket.id, None)
    assert recent.find(ticket.id) is None
    recent.settle(ticket.id, 7)
    assert recent.find(ticket.id) is None


async def test_a_refused_repetition_takes_nothing_away_from_the_one_that_was_accepted() -> None:
    recent, ticket = Recent(), a_ticket()
    recent.expect(ticket)
    recent.heard([Announced(ticket.id, an_outcome(ticket))])
    recent.expect(ticket)
    recent.settle(ticket.id, 7)
    recent.settle(ticket.id, None)
    known = recent.find(ticket.id)
    assert known is not None
    assert known.outcome == an_outcome(ticket)


async def test_an_outcome_that_is_announced_before_the_acceptance_is_known_is_heard() -> None:
    recent, ticket = Recent(), a_ticket()
    recent.expect(ticket)
    recent.heard([Announced(ticket.id, an_outcome(ticket))])
    recent.settle(ticket.id, 7)
    known = recent.find(ticket.id)
    assert known is not None
    assert known.outcome == an_outcome(ticket)


async def test_the_first_outcome_counts() -> None:
    recent = Recent()
    ticket = accepted(recent, a_ticket())
    recent.heard([Announced(ticket.id, an_outcome(ticket, b"1"))])
    recent.heard([Announced(ticket.id, an_outcome(ticket, b"2"))])
    known = recent.find(ticket.id)
    assert known is not None
    assert known.outcome == an_outcome(ticket, b"1")


async def test_of_an_outcome_too_large_to_be_announced_nothing_more_will_be_heard() -> None:
    recent = Recent()
    ticket = accepted(recent, a_ticket())
    recent.heard([Announced(ticket.id)])
    known = recent.find(ticket.id)
    assert known is not None
    assert known.outcome is None
    assert not known.will_be_heard


async def test_after_a_gap_in_the_announcements_only_later_ones_are_sure_to_be_heard() -> None:
    recent = Recent()
    before, between = a_ticket(), a_ticket()
    accepted(recent, before)
    recent.expect(between)
    recent.missed()
    recent.settle(between.id, 8)
    after = accepted(recent, a_ticket())
    heard = [known.will_be_heard for each in (before, between, after)
             if (known := recent.find(each.id)) is not None]  # fmt: skip
    assert heard == [False, False, True]


async def test_it_is_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.recent.KEPT_S", 0.0)
    recent = Recent()
    ticket = accepted(recent, a_ticket())
    assert recent.find(ticket.id) is None
    assert recent._bytes > 0
    recent.drop_old()
    assert (len(recent._entries), recent._bytes) == (0, 0)


async def test_the_oldest_leave_first_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.recent.PREDICTIONS_MAX", 2)
    recent = Recent()
    tickets = [accepted(recent, a_ticket()) for _ in range(3)]
    assert [recent.find(each.id) is None for each in tickets] == [True, False, False]


async def test_inputs_and_outputs_take_no_more_bytes_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.recent.BYTES_MAX", 2 * (ENTRY_BYTES + 1500))
    recent = Recent()
    first, second = [accepted(recent, a_ticket("x" * 1000)) for _ in range(2)]
    assert recent.find(first.id) is not None
    recent.heard([Announced(second.id, an_outcome(second, b"1" * 1000))])
    assert recent.find(first.id) is None
    assert recent.find(second.id) is not None
    recent.heard([Announced(second.id, an_outcome(second, b"1" * 1000))])
    accepted(recent, a_ticket("x" * 5000))
    assert (len(recent._entries), recent._bytes) == (0, 0)
