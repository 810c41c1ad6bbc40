"""The week of an id: the unit in which predictions expire."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from contract.ids import is_uuid7, new_prediction_id, week_of

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2400, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC)
)


@given(MOMENTS, st.binary(min_size=10, max_size=10))
def test_it_is_the_monday_on_or_before_the_day_of_acceptance(
    moment: datetime, random: bytes
) -> None:
    week = week_of(new_prediction_id(int(moment.timestamp() * 1000), random))
    assert week.isoweekday() == 1
    assert timedelta(0) <= moment.date() - week < timedelta(days=7)


def test_a_week_begins_on_monday_at_midnight_utc() -> None:
    midnight = datetime(2026, 11, 16, tzinfo=UTC)
    ms = int(midnight.timestamp() * 1000)
    assert week_of(new_prediction_id(ms, bytes(10))) == date(2026, 11, 16)
    assert week_of(new_prediction_id(ms - 1, bytes(10))) == date(2026, 11, 9)


@given(st.binary(min_size=10, max_size=10))
def test_our_own_ids_are_of_version_7(random: bytes) -> None:
    assert is_uuid7(new_prediction_id(0, random))
