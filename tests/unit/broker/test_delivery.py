import json

import pytest

from broker.delivery import not_acknowledged, read_reply


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.PREDICTIONS.high__m.3.7001.12.1732000000000000000.5",
        "$JS.ACK._.hash.PREDICTIONS.high__m.3.7001.12.1732000000000000000.5",
        "$JS.ACK.hub.hash.PREDICTIONS.high__m.3.7001.12.1732000000000000000.5.random",
    ],
)
def test_both_forms_of_the_ack_subject_tell_attempt_and_sequence(reply: str) -> None:
    assert read_reply(reply) == (3, 7001)


def test_giving_back_at_once_says_no_delay() -> None:
    assert not_acknowledged() == b"-NAK"


def test_a_delay_is_told_in_whole_nanoseconds() -> None:
    word, _, options = not_acknowledged(1.5).partition(b" ")
    assert word == b"-NAK"
    assert json.loads(options) == {"delay": 1_500_000_000}
