import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidInput
from contract.prediction import Priority
from gateway.rest.headers import WAIT_S_MAX, parse_priority, preferred_wait_s, queried_wait_s


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
