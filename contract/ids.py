"""Prediction ids: UUIDv7, written as 26 characters of lower-case base32hex.

Time-ordered, so they are good primary keys and natural page cursors. The base32hex alphabet
(RFC 4648, section 7: `0-9a-v`) keeps that order in the text form too, which plain base32 does not.

Source of the layout: RFC 9562, section 5.7.
"""

import re
from datetime import date, timedelta
from typing import NewType
from uuid import UUID

PredictionId = NewType("PredictionId", str)

# 128 bits in groups of five, without padding. The last character carries three bits only: other
# spellings of the same id are refused.
_FORM = re.compile(r"[0-9a-v]{25}[048cgkos]")
_PADDING_BITS = 2  # 26 groups of five bits hold 130
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_PAIR_SHIFTS = range(120, -1, -10)
_RANDOM_BYTES = 10
_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62
_RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76 | 0b11 << 62)
_TIMESTAMP_MS_MAX = (1 << 48) - 1
_DAY_MS = 24 * 3600 * 1000
_FIRST_MONDAY, _FIRST_MONDAY_DAY = date(1970, 1, 5), 4  # Unix time began on a Thursday


def new_prediction_id(now_ms: int, random: bytes) -> PredictionId:
    """Make the id of a prediction accepted at `now_ms`.

    Args:
        now_ms: Unix time in milliseconds.
        random: 10 bytes nobody can predict; 74 of their 80 bits are used.
    """
    assert 0 <= now_ms <= _TIMESTAMP_MS_MAX
    assert len(random) == _RANDOM_BYTES
    number = now_ms << 80 | int.from_bytes(random, "big") & _RANDOM_BITS | _VERSION_AND_VARIANT
    return _text(number)


def parse_prediction_id(text: str) -> PredictionId:
    """Check the form of an id that came from outside.

    Raises:
        ValueError: not 26 characters of lower-case base32hex in canonical form.
    """
    if not _FORM.fullmatch(text):
        raise ValueError(
            "a prediction id is 26 characters of 0-9 and a-v; the last one of 048cgkos"
        )
    return PredictionId(text)


# Every prediction crosses these two several times. `int` reads base32hex as it stands, in a third
# of the time of `base64`, which is Python.


def to_uuid(prediction_id: PredictionId) -> UUID:
    return UUID(int=int(prediction_id, 32) >> _PADDING_BITS)


def from_uuid(identifier: UUID) -> PredictionId:
    return _text(identifier.int)


def _text(number: int) -> PredictionId:
    padded = number << _PADDING_BITS
    return PredictionId("".join([_PAIRS[padded >> shift & 0x3FF] for shift in _PAIR_SHIFTS]))


def is_uuid7(prediction_id: PredictionId) -> bool:
    """Whether the id has the version and variant of a UUIDv7; one that a caller made may not."""
    raw = to_uuid(prediction_id).bytes
    return raw[6] >> 4 == 7 and raw[8] >> 6 == 2


def week_of(prediction_id: PredictionId) -> date:
    """The Monday (UTC) of the week in which the prediction was accepted.

    The ledger's partitions and the folders of blobs are such weeks, and expire as such.
    """
    days = accepted_at_ms(prediction_id) // _DAY_MS
    return _FIRST_MONDAY + timedelta(days=(days - _FIRST_MONDAY_DAY) // 7 * 7)


def accepted_at_ms(prediction_id: PredictionId) -> int:
    """The Unix time in milliseconds at which the id was made."""
    return int(prediction_id, 32) >> _PADDING_BITS + 80
