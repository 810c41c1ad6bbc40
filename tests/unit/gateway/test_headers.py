import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidInput
from contract.prediction import Priority
from gateway.rest.headers import (
    CANCEL_AFTER_MS_MAX,
    CANCEL_AFTER_MS_MIN,
    WAIT_S_MAX,
    parse_cancel_after_ms,
    parse_key,
    parse_priority,
    preferred_wait_s,
    queried_wait_s,
)


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        (None, None),
        ("", None),
        ("wait", WAIT_S_MAX),
        ("wait=5", 5.0),
        ('wait="5"', 5.0),
        ("Wait = 5", 5.0),
        ("respond-async, wait=10", 10.0),
        ("handling=strict; x=y, wait=3", 3.0),
        ("wait=0", 0.0),
        ("wait=120", WAIT_S_MAX),
        ("wait=soon", None),
        ("wait=-1", None),
        ("wait=nan", None),
        ("waiting=5", None),
    ],
)
def test_prefer_says_how_long_to_wait_and_nonsense_is_ignored(
    prefer: str | None, wait_s: float | None
) -> None:
    assert preferred_wait_s(prefer) == wait_s


@given(st.text(max_size=60))
def test_no_prefer_header_makes_us_wait_longer_than_clients_do(prefer: str) -> None:
    wait_s = preferred_wait_s(prefer)
    assert wait_s is None or 0 <= wait_s <= WAIT_S_MAX


def test_a_wait_in_the_query_is_capped_and_a_bare_one_is_as_long_as_possible() -> None:
    assert queried_wait_s(None) is None
    assert queried_wait_s("") == WAIT_S_MAX
    assert queried_wait_s("0") == 0
    assert queried_wait_s("2.5") == 2.5
    assert queried_wait_s("1e9") == WAIT_S_MAX


@pytest.mark.parametrize(
    "text", ["soon", "-1", "nan", "inf", "1;2", "1_0", " 1", "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_a_wait_in_the_query_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        queried_wait_s(text)
    assert refused.value.field == "query.wait"


def test_a_priority_is_one_of_three_words() -> None:
    assert parse_priority("high", field="priority") is Priority.HIGH
    for wrong in ("HIGH", "", "urgent", 1, None, ["high"]):
        with pytest.raises(InvalidInput):
            parse_priority(wrong, field="priority")


@pytest.mark.parametrize(
    ("given", "after_ms"),
    [
        ("1s", 1000),
        ("90", 90_000),
        ("1m30s", 90_000),
        ("1m30", 90_000),
        ("2h", 7_200_000),
        ("1d12h", 129_600_000),
        ("1.5s", 1500),
        ("30d", CANCEL_AFTER_MS_MAX),
        (1, 1000),
        (1.0005, 1000),
        (2_592_000, CANCEL_AFTER_MS_MAX),
    ],
)
def test_a_duration_is_text_with_units_or_a_number_of_seconds(given: object, after_ms: int) -> None:
    assert parse_cancel_after_ms(given, field="f") == after_ms


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("", "duration"),
        ("s", "duration"),
        ("1 m", "duration"),
        ("1s1m", "duration"),
        ("1.5m", "duration"),
        ("-1s", "duration"),
        ("1e3", "duration"),
        ("nan", "duration"),
        ("9" * 400, "duration"),
        ("\N{ARABIC-INDIC DIGIT ONE}s", "duration"),
        (None, "duration"),
        (True, "duration"),
        ({}, "duration"),
        ("0s", "range"),
        ("0.999s", "range"),
        ("30d1s", "range"),
        (0, "range"),
        (-5, "range"),
        (float("inf"), "range"),
        (float("nan"), "range"),
        (10**300, "range"),
        (10**400, "range"),
    ],
)
def test_what_is_no_duration_of_a_second_to_thirty_days_is_refused(
    given: object, rule: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_cancel_after_ms(given, field="f")
    assert (refused.value.field, refused.value.rule) == ("f", rule)
    # Read alone, as most show it, the message says what it is about.
    assert {"duration": "a duration", "range": "a deadline"}[rule] in str(refused.value)


@given(st.text(max_size=40) | st.integers() | st.floats())
def test_no_duration_leads_out_of_its_range(given_: object) -> None:
    try:
        after_ms = parse_cancel_after_ms(given_, field="f")
    except InvalidInput:
        return
    assert CANCEL_AFTER_MS_MIN <= after_ms <= CANCEL_AFTER_MS_MAX


def test_a_key_is_printable_text_with_or_without_quotes() -> None:
    assert parse_key([]) is None
    assert parse_key(["k"]) == parse_key(['"k"']) == "k"
    assert parse_key(["a key, with = and ~"]) == "a key, with = and ~"
    assert parse_key(["k" * 255]) == "k" * 255
    assert parse_key(['"']) == '"'
    for wrong in ([""], ['""'], ["k" * 256], ["\x7f"], ["\u00e9"], ["a\tb"], ["a", "a"]):
        with pytest.raises(InvalidInput):
            parse_key(wrong)
