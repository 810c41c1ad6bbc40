"""A prediction: the ticket that carries it through the queue, and the outcome that ends it.

The ticket's wire format is MessagePack. It is read by processes of other versions: fields are only
ever added, with defaults; unknown ones are ignored.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from contract.ids import PredictionId, accepted_at_ms

JSON = Any  # what `json.loads` returns; checked by the task that reads it


class Priority(StrEnum):
    """Which share of a busy model a prediction competes for."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Status(StrEnum):
    """How a prediction ended. Before that it is in the queue and has no status of its own."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of an input.

    `content` is there while the bytes travel inside the ticket; otherwise the blob named by
    `sha256` holds them.
    """

    media_type: str
    size: int  # bytes
    sha256: str  # lower-case hex
    content: bytes | None = None


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message that carries one prediction through JetStream.

    Invariant: written once, when the prediction is accepted; nobody changes it afterwards.
    """

    id: PredictionId
    model: str
    version: int
    input: dict[str, JSON]  # what the caller sent, except for files
    files: dict[str, File] = {}  # by input field
    priority: Priority = Priority.NORMAL
    owner: str = ""  # the name of the token it was submitted with; empty without tokens
    deadline_ms: int | None = None  # Unix time from which on it is not run any more
    retry_of: PredictionId | None = None  # the failed prediction whose input this one repeats

    @property
    def created_at_ms(self) -> int:
        return accepted_at_ms(self.id)

    def to_bytes(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Ticket":
        """Read a ticket.

        Raises:
            ValueError: not a ticket. (`msgspec.DecodeError` is one.)
        """
        return _DECODER.decode(data)

    def without_contents(self) -> "Ticket":
        """The same ticket with its inline file contents left out, as the ledger keeps it."""
        if all(file.content is None for file in self.files.values()):
            return self
        bare = {
            name: msgspec.structs.replace(file, content=None) for name, file in self.files.items()
        }
        return msgspec.structs.replace(self, files=bare)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Ticket)


class Failure(msgspec.Struct, frozen=True):
    """Why a prediction failed: a stable code, and a sentence for the caller."""

    code: str
    message: str


def deadline_exceeded(deadline_ms: int) -> Failure:
    """Why a prediction ended that could not be run by its deadline, in Unix milliseconds."""
    deadline = datetime.fromtimestamp(deadline_ms / 1000, UTC).isoformat(timespec="milliseconds")
    message = f"it had not ended by its deadline, {deadline.replace('+00:00', 'Z')}"
    return Failure("deadline_exceeded", message)


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a prediction ended. Recorded once and never changed.

    `output` is JSON text in UTF-8, already encoded: it is written to the ledger, announced and
    answered as it stands (wrapped in `msgspec.Raw` where it becomes part of a larger JSON text).
    """

    id: PredictionId
    status: Status
    started_at_ms: int  # Unix time at which the dispatcher began the attempt that ended it
    completed_at_ms: int
    attempts: int
    output: bytes | None = None  # exactly when succeeded
    error: Failure | None = None  # exactly when failed
    queue_ms: float = 0.0  # accepted until begun
    compute_ms: float = 0.0  # inside the Triton request that carried it

    def __post_init__(self) -> None:
        assert (self.output is not None) == (self.status is Status.SUCCEEDED)
        assert (self.error is not None) == (self.status is Status.FAILED)


class Prediction(msgspec.Struct, frozen=True):
    """A prediction as a reader sees it: what was asked, and how it ended, if it has."""

    ticket: Ticket
    outcome: Outcome | None = None

    @property
    def id(self) -> PredictionId:
        return self.ticket.id
