"""Tickets survive the wire, also between versions; outcomes hold together."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import PredictionId, from_uuid
from contract.prediction import Failure, File, Outcome, Priority, Status, Ticket

Ids = st.uuids(version=4).map(from_uuid)
Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
Files = st.builds(
    File,
    media_type=st.text(max_size=20),
    size=st.integers(0, 2**40),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    content=st.none() | st.binary(max_size=50),
)
Tickets = st.builds(
    Ticket,
    id=Ids,
    model=st.text(max_size=20),
    version=st.integers(1, 2**62),
    input=st.dictionaries(st.text(max_size=8), Json, max_size=4),
    files=st.dictionaries(st.text(max_size=8), Files, max_size=3),
    priority=st.sampled_from(Priority),
    owner=st.text(max_size=10),
)


@given(Tickets)
def test_a_ticket_survives_the_wire(ticket: Ticket) -> None:
    assert Ticket.from_bytes(ticket.to_bytes()) == ticket


@given(Tickets)
def test_the_ledgers_ticket_names_its_files_but_holds_none(ticket: Ticket) -> None:
    bare = ticket.without_contents()
    assert all(file.content is None for file in bare.files.values())
    assert {name: file.sha256 for name, file in bare.files.items()} == {
        name: file.sha256 for name, file in ticket.files.items()
    }


def test_a_ticket_of_a_newer_version_is_read_without_its_new_fields() -> None:
    newer = {"id": "0" * 26, "model": "m", "version": 1, "input": {}, "a_field_to_come": [1, 2]}
    assert Ticket.from_bytes(msgspec.msgpack.encode(newer)).model == "m"


@given(st.binary(max_size=60))
def test_rubbish_is_a_value_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the decoder's
        Ticket.from_bytes(b"\xc1" + data)


@pytest.mark.parametrize(
    ("status", "output", "error"),
    [
        (Status.SUCCEEDED, None, None),
        (Status.SUCCEEDED, b"1", Failure("x", "y")),
        (Status.FAILED, None, None),
        (Status.FAILED, b"1", Failure("x", "y")),
        (Status.CANCELED, b"1", None),
        (Status.CANCELED, None, Failure("x", "y")),
    ],
)
def test_an_outcome_that_contradicts_itself_cannot_be_made(
    status: Status, output: bytes | None, error: Failure | None
) -> None:
    with pytest.raises(AssertionError):
        Outcome(PredictionId("0" * 26), status, 1, 2, 1, output, error)
