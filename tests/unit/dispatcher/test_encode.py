"""Encoding holds up the loop for a moment at most."""

import threading
from collections.abc import Sequence

import pytest

from contract.prediction import Ticket
from dispatcher.encode import LIGHT_BYTES_MAX
from tasks.registry import task
from tests.played_executor import TEXT, Stage, file, text

TENSOR = task("tensor")


@pytest.mark.parametrize(
    ("tickets", "size", "in_loop"),
    [
        ([text("a"), text("b")], LIGHT_BYTES_MAX, True),
        ([text("a"), text("b")], LIGHT_BYTES_MAX + 1, False),
        ([text("a"), text(None, **{"in": file()})], 100, False),
    ],
    ids=["few values", "many values", "a file"],
)
async def test_only_a_few_plain_values_are_encoded_in_the_loop(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    tickets: Sequence[Ticket],
    size: int,
    in_loop: bool,
) -> None:
    threads = set()
    encode = type(TENSOR).encode

    def noted(*given: object) -> object:
        threads.add(threading.current_thread())
        return encode(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(type(TENSOR), "encode", noted)
    encoded = await stage.encoder.encode(TENSOR, TEXT, tickets, size=size)
    assert all(isinstance(each, dict) for each in encoded), "none was refused"
    assert (threads == {threading.main_thread()}) is in_loop
