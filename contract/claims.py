"""What an idempotency key stands for. Kept beside the queue, for as long as outcomes are kept.

Submitting with a key is two writes: the claim, then the ticket. Whoever finds a claim without a
prediction finishes what its maker began: the id is in the claim, so nobody can do it twice.
"""

import msgspec

from contract.ids import PredictionId


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """The prediction that one key of one owner stands for. Written once."""

    id: PredictionId
    fingerprint: str  # sha256 of what was asked for, in lower-case hex
    owner: str = ""

    def to_bytes(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Claim":
        """Raises ValueError when `data` is not a claim."""
        return _DECODER.decode(data)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Claim)
