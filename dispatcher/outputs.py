"""The last step of a row: from a task's plain values to the JSON text that is recorded. Pure."""

import msgspec

from contract.errors import InvalidInput, ServiceError, UnusableOutput
from contract.limits import OUTPUT_BYTES_MAX
from contract.prediction import JSON, Failure

_ENCODER = msgspec.json.Encoder()


def output_json(value: JSON) -> bytes:
    """Write an output as JSON.

    Raises:
        UnusableOutput: it has no JSON form, or more of it than a record may hold.
    """
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise UnusableOutput(f"the output has no JSON form: {error}") from error
    if len(text) > OUTPUT_BYTES_MAX:
        raise UnusableOutput(
            f"the output is {len(text)} bytes of JSON; at most {OUTPUT_BYTES_MAX} are kept"
        )
    return text


def failure_of(error: ServiceError) -> Failure:
    """What the caller is told of an error that ended their prediction."""
    message = str(error)
    if isinstance(error, InvalidInput) and error.field:
        message = f"{error.field}: {message}"
    return Failure(error.code, message)
