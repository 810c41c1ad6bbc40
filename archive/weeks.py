"""Blobs go by the week of a prediction; here only the week is known. Pure."""

from datetime import UTC, date, datetime, time

from contract.ids import PredictionId, new_prediction_id

_RANDOM_BYTES = bytes(10)


def id_of_week(monday: date) -> PredictionId:
    """An id that a prediction accepted in this week could have."""
    start = datetime.combine(monday, time(), UTC)
    return new_prediction_id(max(0, int(start.timestamp() * 1000)), _RANDOM_BYTES)
