"""What the stream holds, asked of its leader: for metrics, health and Retry-After."""

from dataclasses import dataclass

import msgspec

from broker.answers import ApiError
from broker.requests import Requests
from contract.errors import QueueUnavailable
from contract.queue import QueueNames

ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Depth:
    """How much the queue holds, waiting and running."""

    tickets: int
    bytes: int
    first_sequence: int
    last_sequence: int


class _State(msgspec.Struct, frozen=True):
    messages: int
    bytes: int
    first_seq: int
    last_seq: int


class _StreamInfo(msgspec.Struct, frozen=True):
    state: _State | None = None
    error: ApiError | None = None


async def stream_depth(requests: Requests, names: QueueNames) -> Depth:
    """Raises QueueUnavailable: no answer, or there is no such stream."""
    subject = f"$JS.API.STREAM.INFO.{names.stream}"
    answer = await requests.ask(subject, timeout_s=ANSWER_TIMEOUT_S)
    info = _DECODER.decode(answer.data)
    if info.state is None:
        reason = info.error.description if info.error else "an answer without state"
        raise QueueUnavailable(f"the queue cannot be read: {reason}")
    state = info.state
    # A stream never written to says 0; sequences begin at 1.
    return Depth(state.messages, state.bytes, max(1, state.first_seq), state.last_seq)


_DECODER = msgspec.json.Decoder(_StreamInfo)
