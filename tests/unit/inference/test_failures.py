"""What Triton's refusals mean to us, by its own words (those of 2.51)."""

import grpc
import pytest

from contract.errors import BatchFailed, ModelRejected, ModelUnavailable, ServiceError
from inference.failures import Overran, failure_from

Code = grpc.StatusCode
IN_PYTHON = "Failed to process the request(s) for model 'm_0_0', message: "

TABLE: list[tuple[grpc.StatusCode, str, type[ServiceError]]] = [
    (Code.UNAVAILABLE, "Exceeds maximum queue size", ModelUnavailable),
    (Code.UNAVAILABLE, "Server is stopping, scheduler for model has stopped", ModelUnavailable),
    (Code.UNAVAILABLE, "failed to connect to all addresses", ModelUnavailable),
    (Code.NOT_FOUND, "Request for unknown model: 'm' has no available versions", ModelUnavailable),
    (Code.NOT_FOUND, "Request for unknown model: 'm' is not found", ModelUnavailable),
    (Code.INTERNAL, "Stub process 'm_0_0' is not healthy.", ModelUnavailable),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", ModelUnavailable),
    (Code.CANCELLED, "", ModelUnavailable),
    (Code.PERMISSION_DENIED, "", ModelUnavailable),
    (Code.INTERNAL, IN_PYTHON + "RuntimeError: boom", BatchFailed),
    (Code.INTERNAL, "Failed to increase the shared memory pool size for key", BatchFailed),
    (Code.UNKNOWN, "", BatchFailed),
    (Code.INVALID_ARGUMENT, "unexpected shape for input 'x'", ModelRejected),
    (Code.UNIMPLEMENTED, "does not support", ModelRejected),
    (Code.INTERNAL, "the model overran the 2.5 s of one execution on this input", Overran),
    (Code.INTERNAL, "the model overran itself", BatchFailed),
    (Code.RESOURCE_EXHAUSTED, "Received message larger than max", ModelRejected),
]


@pytest.mark.parametrize(("code", "details", "expected"), TABLE)
def test_a_refusal_is_sorted_by_what_should_happen_next(
    code: grpc.StatusCode, details: str, expected: type[ServiceError]
) -> None:
    assert type(failure_from(code, details, "m")) is expected


@pytest.mark.parametrize("code", list(Code))
def test_every_status_has_a_meaning_and_a_message_without_an_address(
    code: grpc.StatusCode,
) -> None:
    outage = "failed to connect to all addresses; last error: ipv4:10.1.2.3:8001: refused"
    error = failure_from(code, outage, "m")
    if isinstance(error, ModelUnavailable):
        assert "10.1.2.3" not in str(error)
    assert "m" in str(error)


def test_a_message_says_why_without_request_id_stack_or_overlength() -> None:
    details = "[request id: 7] " + IN_PYTHON + "ValueError: too wide\n\nAt:\n  /opt/x/model.py(12)"
    assert str(failure_from(Code.INTERNAL, details, "m")) == "model m failed: ValueError: too wide"
    long = str(failure_from(Code.INVALID_ARGUMENT, "x" * 10_000, "m"))
    assert len(long) < 400
    assert long.endswith("...")
    assert str(failure_from(Code.UNKNOWN, "", "m")) == "model m failed: no reason given"
