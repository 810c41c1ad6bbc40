"""What happened in one cell, as the callers saw it: one record per call, one JSON line per record.

Written while it happens, so that a run that dies leaves its history; read by the checker, which
needs nothing else to judge. Times are seconds since the cell began.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from contract.moves import State

SUBMITS = ("submit", "put", "retry")  # kinds of calls whose success accepts a prediction


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prediction, as one answer showed it."""

    id: str
    state: State
    outcome: dict[str, Any] | None = None  # all that says how it ended, as it was answered


class Call(msgspec.Struct, frozen=True, omit_defaults=True, tag="call"):
    """One HTTP call and what came back; `status` is 0 where no answer came."""

    kind: str  # one of SUBMITS, or get, wait, list, cancel
    began: float
    ended: float
    status: int
    seen: list[Seen] = []
    id: str = ""  # which prediction was asked about
    asked: str = ""  # what was submitted: "text:<text>" or "image:<name>"
    key: str = ""  # idempotency key, or the caller's own id
    wait_s: float = 0.0
    cancel_after_s: float = 0.0
    retry_after: str = ""
    failure: str = ""  # why no answer came, or the problem's code

    @property
    def accepts(self) -> bool:
        return self.kind in SUBMITS and self.status in (200, 201, 202) and bool(self.seen)


class Mark(msgspec.Struct, frozen=True, tag="mark"):
    """Something that was done to the installation, or that it did by itself."""

    at: float
    what: str


class Announced(msgspec.Struct, frozen=True, tag="announced"):
    """One outcome heard on the subject where dispatchers and gateways announce them."""

    at: float
    id: str


class Row(msgspec.Struct, frozen=True, tag="row"):
    """One row of the ledger, read at the end by a connection of our own."""

    id: str
    asked: str
    outcome: dict[str, Any]


class Rules(msgspec.Struct, frozen=True, omit_defaults=True, tag="rules"):
    """What this cell may and may not do. The first record of a history."""

    cell: str
    seed: int
    attempts_max: int = 0  # of any prediction; 0: as many as it takes
    submits: bool = False  # whether submits must be accepted all the while
    reads: bool = False  # whether what has ended must be readable all the while


class Known(msgspec.Struct, frozen=True, tag="known"):
    """What a lone call to the model answers."""

    asked: str
    output: Any


class End(msgspec.Struct, frozen=True, tag="end"):
    """How the cell ended: the window in which the fault may be felt, and what was left over."""

    fault_began: float
    recovered: float  # the first prediction accepted after the fault's end had ended by then
    queued: list[str]  # ids still in the queue
    missing: dict[str, str]  # parts that are not ready
    recovery_s: float = 0.0
    grown_mb: float = 0.0  # by how much the memory of a gateway or dispatcher grew, at its highest


Record = Rules | Known | Call | Mark | Announced | Row | End


class History:
    """The records of one cell, in the order in which they were made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._file = path.open("wb")

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._file.write(_ENCODER.encode(record) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """Read a history that was kept."""
    return [_DECODER.decode(line) for line in path.read_bytes().splitlines()]


def calls(records: Iterable[Record]) -> list[Call]:
    return [record for record in records if isinstance(record, Call)]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)
