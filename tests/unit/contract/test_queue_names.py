"""Subjects keep predictions apart and never contain what a caller wrote unescaped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import new_prediction_id
from contract.prediction import Priority, Ticket
from contract.queue import QueueNames

ModelName = st.from_regex(r"[A-Za-z0-9._-]{0,20}[A-Za-z0-9]", fullmatch=True)


def matches(pattern: str, subject: str) -> bool:
    """NATS' own rule: `*` stands for exactly one token."""
    wanted, tokens = pattern.split("."), subject.split(".")
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


@given(ModelName, ModelName, st.sampled_from(Priority), st.binary(min_size=10, max_size=10))
def test_a_ticket_reaches_its_own_consumer_only(
    model: str, other: str, priority: Priority, random: bytes
) -> None:
    names = QueueNames()
    ticket = Ticket(new_prediction_id(1, random), model, 1, {}, priority=priority)
    subject = names.ticket(ticket)

    assert matches(names.all_tickets, subject)
    assert matches(names.ticket_by_id(ticket.id), subject)
    for consumer_priority in Priority:
        for consumer_model in {model, other}:
            filtered = names.tickets_of(consumer_priority, consumer_model)
            mine = consumer_priority is priority and consumer_model == model
            assert matches(filtered, subject) == mine


@given(ModelName, ModelName)
def test_different_models_have_different_consumers(model: str, other: str) -> None:
    names = QueueNames()
    same = names.consumer(Priority.LOW, model) == names.consumer(Priority.LOW, other)
    assert same == (model == other)


@pytest.mark.parametrize("name", ["a.*", "a>", "a b", "", "a/b", "a\n"])
def test_a_name_that_could_reach_other_subjects_is_a_bug(name: str) -> None:
    with pytest.raises(AssertionError):
        QueueNames().tickets_of(Priority.HIGH, name)


def test_announcements_do_not_land_in_the_stream() -> None:
    names = QueueNames()
    for subject in (names.outcomes, names.dispatcher_status("d1")):
        assert not matches(names.all_tickets, subject)
