"""What dispatchers tell everybody on core NATS. May be lost: nobody relies on hearing it.

Gateways answer waiting callers from these, and re-check the ledger in case one was missed.
"""

import msgspec

from contract.prediction import Outcome

INLINE_OUTPUT_BYTES_MAX = 64 * 1024  # a larger outcome is announced without its output


class Announced(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recorded outcome; `outcome` is None where it is too large: read the ledger."""

    id: str
    outcome: Outcome | None = None


class DispatcherStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one dispatcher can do right now.

    `models` maps each model it serves to "" if its last inference succeeded, otherwise to the
    reason why it cannot run: one sentence.
    """

    dispatcher: str
    models: dict[str, str] = {}
    ledger: str = ""  # "" or the reason why outcomes cannot be recorded
    inflight: int = 0  # tickets held


def encode_outcomes(outcomes: list[Outcome]) -> bytes:
    return _ENCODER.encode([_announced(outcome) for outcome in outcomes])


def decode_outcomes(data: bytes) -> list[Announced]:
    """Raises ValueError when `data` is not an announcement."""
    return _OUTCOMES.decode(data)


def encode_status(status: DispatcherStatus) -> bytes:
    return _ENCODER.encode(status)


def decode_status(data: bytes) -> DispatcherStatus:
    """Raises ValueError when `data` is not a dispatcher's status."""
    return _STATUS.decode(data)


def _announced(outcome: Outcome) -> Announced:
    fits = outcome.output is None or len(outcome.output) <= INLINE_OUTPUT_BYTES_MAX
    return Announced(outcome.id, outcome if fits else None)


_ENCODER = msgspec.msgpack.Encoder()  # outputs are bytes in it: they need no escaping
_OUTCOMES = msgspec.msgpack.Decoder(list[Announced])
_STATUS = msgspec.msgpack.Decoder(DispatcherStatus)
