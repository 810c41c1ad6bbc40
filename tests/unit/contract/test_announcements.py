"""Announcements carry what waiters need, within a bound."""

import msgspec
import pytest

from contract.announcements import (
    INLINE_OUTPUT_BYTES_MAX,
    DispatcherStatus,
    decode_outcomes,
    decode_status,
    encode_outcomes,
    encode_status,
)
from contract.ids import PredictionId
from contract.prediction import Failure, Outcome, Status

SMALL = Outcome(PredictionId("0" * 26), Status.SUCCEEDED, 1, 2, 1, output=b'{"a":[1,2]}')


def test_outcomes_arrive_as_they_were_sent() -> None:
    failed = Outcome(PredictionId("1" * 25 + "0"), Status.FAILED, 1, 2, 3, error=Failure("c", "m"))
    first, second = decode_outcomes(encode_outcomes([SMALL, failed]))
    assert first.outcome == SMALL
    assert second.outcome == failed


def test_a_large_output_is_announced_by_its_id_alone() -> None:
    large = msgspec.structs.replace(SMALL, output=b'"' + b"x" * INLINE_OUTPUT_BYTES_MAX + b'"')
    encoded = encode_outcomes([large])
    assert len(encoded) < 100
    (announced,) = decode_outcomes(encoded)
    assert (announced.id, announced.outcome) == (large.id, None)


def test_rubbish_on_the_subject_is_a_value_error() -> None:
    for read in (decode_outcomes, decode_status):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is the decoder's
            read(b"\xc1")


def test_a_dispatchers_status_arrives_as_it_was_sent() -> None:
    status = DispatcherStatus("d1", {"identity": ""}, "Postgres does not answer", 3)
    assert decode_status(encode_status(status)) == status
