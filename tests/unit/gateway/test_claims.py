"""What makes two requests the same. Claiming itself is tested on the real queue."""

from typing import Any

import msgspec
import pytest

from contract.ids import new_prediction_id
from contract.prediction import File, Priority, Ticket
from gateway.claims import Key, fingerprint_of

FILE = File("image/png", 3, "a" * 64, b"abc")
TICKET = Ticket(
    new_prediction_id(1_763_726_400_123, bytes(10)),
    "identity",
    3,
    {"b": 1, "a": {"y": [1, 2], "x": "t"}},
    {"image": FILE},
    owner="alice",
    deadline_ms=1_763_726_490_123,
)


async def fingerprint(version: int | None = None, body_bytes: int = 0, **changes: Any) -> str:
    ticket = msgspec.structs.replace(TICKET, **changes)
    return await fingerprint_of(ticket, version, body_bytes=body_bytes)


async def test_when_where_and_how_large_it_was_sent_does_not_matter() -> None:
    later = new_prediction_id(1_763_726_500_123, bytes(10))
    without = {"image": msgspec.structs.replace(FILE, content=None)}
    same = [
        await fingerprint(),
        await fingerprint(body_bytes=1 << 20),
        await fingerprint(id=later, deadline_ms=1_763_726_590_123),
        await fingerprint(input={"a": {"x": "t", "y": [1, 2]}, "b": 1}),
        await fingerprint(files=without),
    ]
    assert len(set(same)) == 1


async def test_a_newer_version_on_offer_does_not_make_another_request() -> None:
    ticket = msgspec.structs.replace(TICKET, version=4)
    assert await fingerprint_of(ticket, None, body_bytes=0) == await fingerprint()
    assert await fingerprint_of(ticket, 4, body_bytes=0) != await fingerprint(3)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"input": {"b": 1, "a": {"y": [2, 1], "x": "t"}}},
        {"input": {"b": 1.5}},
        {"files": {}},
        {"files": {"other": FILE}},
        {"files": {"image": File("image/jpeg", 3, "a" * 64)}},
        {"files": {"image": File("image/png", 3, "b" * 64)}},
        {"priority": Priority.LOW},
        {"deadline_ms": None},
        {"deadline_ms": 1_763_726_490_124},
        {"retry_of": TICKET.id},
    ],
)
async def test_whatever_else_is_asked_for_makes_another_request(changes: dict[str, Any]) -> None:
    assert await fingerprint(**changes) != await fingerprint()


def test_no_two_owners_and_no_key_and_id_share_a_claim() -> None:
    keys = {
        Key.of_owner("alice", "k").hash,
        Key.of_owner("bob", "k").hash,
        Key.of_owner("", "alice k").hash,
        Key.of_owner("alice k", "").hash,
        Key.of_owner("alice", TICKET.id).hash,
        Key.of_id(TICKET.id).hash,
    }
    assert len(keys) == 6
    assert all(key.isalnum() for key in keys), "each is a token of a subject"
