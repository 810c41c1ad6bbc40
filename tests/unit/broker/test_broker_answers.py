import pytest

from broker.answers import Verdict, read_answer, verdict


def answer(err_code: int, description: str = "") -> bytes:
    error = f'{{"code":400,"err_code":{err_code},"description":"{description}"}}'
    return f'{{"error":{error},"stream":"S","seq":0}}'.encode()


def judged(data: bytes) -> Verdict:
    return verdict(read_answer(data))


def test_an_answer_without_error_means_stored() -> None:
    assert judged(b'{"stream":"S","seq":7}') is Verdict.STORED


def test_a_duplicate_is_our_own_earlier_try_and_means_stored() -> None:
    assert judged(b'{"stream":"S","seq":7,"duplicate":true}') is Verdict.STORED


@pytest.mark.parametrize(
    ("description", "meaning"),
    [
        ("maximum messages exceeded", Verdict.FULL),
        ("maximum bytes exceeded", Verdict.FULL),
        ("maximum messages per subject exceeded", Verdict.EXISTS),
        ("write /data/1.blk: no space left on device", Verdict.REFUSED),
    ],
)
def test_the_three_meanings_of_10077_are_told_apart(description: str, meaning: Verdict) -> None:
    assert judged(answer(10077, description)) is meaning


@pytest.mark.parametrize(
    ("err_code", "meaning"),
    [
        (10071, Verdict.EXISTS),
        (10164, Verdict.TRY_AGAIN),
        (10158, Verdict.TRY_AGAIN),
        (10054, Verdict.TOO_LARGE),
        (10167, Verdict.FULL),
        (10047, Verdict.REFUSED),
        (99999, Verdict.REFUSED),
    ],
)
def test_each_refusal_has_its_meaning(err_code: int, meaning: Verdict) -> None:
    assert judged(answer(err_code)) is meaning


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="malformed"):
        read_answer(b"not json")
