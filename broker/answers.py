"""What JetStream's answer to a publish means. Pure.

Source: nats-server 2.15, server/errors.json; what each code means for us was measured.
"""

from enum import Enum

import msgspec

WRONG_LAST_SEQUENCE = 10071  # a ticket with this id is in the stream
WRONG_LAST_SEQUENCE_CONSTANT = 10164  # one is being stored just now
DUPLICATE_IN_PROCESS = 10158  # our own earlier try is being stored just now
MESSAGE_TOO_LARGE = 10054
STORE_FAILED = 10077  # three meanings, told apart by the text alone
TOO_MANY_REQUESTS = 10167


class ApiError(msgspec.Struct, frozen=True):
    """The `error` object of every JetStream API answer."""

    code: int = 0  # in the manner of HTTP
    err_code: int = 0
    description: str = ""


class PublishAnswer(msgspec.Struct, frozen=True):
    """JetStream's answer to a publish: a PubAck, or an error."""

    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class Verdict(Enum):
    """What to do about a publish."""

    STORED = "stored"
    EXISTS = "exists"  # a ticket with this id is in the queue
    FULL = "full"  # come back later
    TOO_LARGE = "too_large"
    TRY_AGAIN = "try_again"  # undecided for some milliseconds
    REFUSED = "refused"  # not stored, for a reason that lies with the server


_VERDICTS = {
    WRONG_LAST_SEQUENCE: Verdict.EXISTS,
    WRONG_LAST_SEQUENCE_CONSTANT: Verdict.TRY_AGAIN,
    DUPLICATE_IN_PROCESS: Verdict.TRY_AGAIN,
    MESSAGE_TOO_LARGE: Verdict.TOO_LARGE,
    TOO_MANY_REQUESTS: Verdict.FULL,
}


def verdict(answer: PublishAnswer) -> Verdict:
    """Judge an answer. A `duplicate` is our own earlier try: message ids carry a nonce."""
    error = answer.error
    if error is None:
        return Verdict.STORED
    if error.err_code == STORE_FAILED:
        return _store_failed(error.description)
    return _VERDICTS.get(error.err_code, Verdict.REFUSED)


def _store_failed(description: str) -> Verdict:
    if "per subject" in description:
        return Verdict.EXISTS
    if "maximum messages" in description or "maximum bytes" in description:
        return Verdict.FULL
    return Verdict.REFUSED  # the disk is full or broken


def read_answer(data: bytes) -> PublishAnswer:
    """Raises ValueError when `data` is not such an answer."""
    return _DECODER.decode(data)


_DECODER = msgspec.json.Decoder(PublishAnswer)
