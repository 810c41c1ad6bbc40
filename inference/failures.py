"""What Triton's refusals mean: the one mapping of gRPC statuses to our errors. Pure.

The messages looked for are those of Triton 2.51; tests provoke each of them on the real server.
"""

import re

import grpc

from contract.errors import (
    BatchFailed,
    InferenceError,
    ModelRejected,
    ModelUnavailable,
    UnusableOutput,
)

MESSAGE_CHARACTERS_MAX = 300

_REQUEST_ID = re.compile(r"\[request id: [^\]]*\] ")
_IN_PYTHON = re.compile(r".*Failed to process the request\(s\) for model '[^']*', message: ")

# The channel's own words: it says so without having read the answer.
_ANSWER = re.compile(r"Received message larger than max \((\d+) vs\.? (\d+)\)")
_OVERRAN = re.compile(r"overran the [\d.]+ s of one execution")  # our own backend's words

_REJECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,  # "unsupported": a kind of model or tensor it does not do
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # the message is larger than a limit set on the server
}
_FAILED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class Overran(BatchFailed):
    """The model was still at it when its time was over: a repeat costs as much time again."""


def failure_from(
    code: grpc.StatusCode, details: str, model: str
) -> ModelUnavailable | InferenceError:
    """Sort a refusal by what should happen next.

    Everything that is not clearly about the request counts as an outage: an outage is waited for,
    and costs nobody a prediction. That includes NOT_FOUND, because the catalog vouches for the
    model: Triton has not loaded it, or is loading it again.
    """
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (size := _ANSWER.search(details)):
        return UnusableOutput(
            f"model {model} answered with {size[1]} bytes; at most {size[2]} are read"
        )
    if code in _REJECTED:
        return ModelRejected(f"model {model} refused the request: {_safe(details)}")
    if code in _FAILED and "is not healthy" not in details:
        # Also when shared memory runs out: a smaller batch needs less.
        kind = Overran if _OVERRAN.search(details) else BatchFailed
        return kind(f"model {model} failed: {_safe(details)}")
    return ModelUnavailable(f"model {model} is not available: {_reason(code, details)}")


def _reason(code: grpc.StatusCode, details: str) -> str:
    """A short reason without addresses, which the channel's own messages contain."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "Triton did not answer in time"
    if "is not healthy" in details:
        return "its process has died"
    if code is grpc.StatusCode.NOT_FOUND:
        return "Triton has not loaded it"
    return "Triton does not answer"


def _safe(details: str) -> str:
    """Triton's own words, without request ids, stack traces and overlength."""
    text = _IN_PYTHON.sub("", _REQUEST_ID.sub("", details))
    first_line = text.strip().partition("\n")[0]
    if len(first_line) > MESSAGE_CHARACTERS_MAX:
        return first_line[:MESSAGE_CHARACTERS_MAX] + "..."
    return first_line or "no reason given"
