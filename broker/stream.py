"""What the stream holds, asked of its leader: for metrics, health and Retry-After.

And whether that leader still leads. Cut off from its followers it goes on believing so for 10 to
20 s, answers questions, and knows nothing of what the next leader has accepted meanwhile.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from broker.answers import ApiError
from broker.requests import Requests
from contract.errors import QueueUnavailable
from contract.queue import QueueNames

ANSWER_TIMEOUT_S = 2.0
# Followers answer their leader every second, and elect another one after 4 s without it at the
# earliest (nats-server, raft.go: hbInterval, minElectionTimeout).
FOLLOWER_SILENCE_S_MAX = 3.0
BELIEVING_S_MAX = 30.0  # for so long, and not longer, there may be one that led before

STREAM_NOT_FOUND = 10059


class NotDeclared(QueueUnavailable):
    """JetStream has a leader, who says that there is no such stream (yet)."""


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


class _Replica(msgspec.Struct, frozen=True):
    active: int = 0  # nanoseconds since the leader last heard of it; 0: it has not yet


class Peers(msgspec.Struct, frozen=True):
    """Who keeps a stream or a consumer, in the eyes of the server that answers."""

    leader: str = ""  # a server that does not lead any more names nobody
    leader_since: datetime | None = None  # None on a single server
    replicas: list[_Replica] = []  # all but the one that answers; none on a single server

    @property
    def has_a_leader(self) -> bool:
        """Whether the one that answers leads, and nobody else can have been elected meanwhile."""
        if not self.replicas:
            return True
        silence_max = FOLLOWER_SILENCE_S_MAX * 1e9
        in_touch = 1 + sum(0 < each.active <= silence_max for each in self.replicas)
        return bool(self.leader) and 2 * in_touch > 1 + len(self.replicas)

    def is_settled(self, at: datetime) -> bool:
        """Whether no earlier leader can be left that believes to lead."""
        if not self.replicas:
            return True
        since = self.leader_since
        return since is not None and (at - since).total_seconds() > BELIEVING_S_MAX


class _StreamInfo(msgspec.Struct, frozen=True):
    state: _State | None = None
    cluster: Peers = Peers()
    ts: datetime = datetime.min.replace(tzinfo=UTC)  # when it was said
    error: ApiError | None = None


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a stream, and is in touch with most of its replicas."""

    name: str  # empty on a single server
    is_settled: bool  # no earlier leader can be left that believes to lead


async def stream_depth(requests: Requests, names: QueueNames) -> Depth:
    """Raises QueueUnavailable: no answer, or there is no such stream."""
    return await depth_of(requests, names.stream)


async def depth_of(requests: Requests, stream: str) -> Depth:
    """As `stream_depth`, of any stream."""
    info = await _ask(requests, stream)
    assert info.state is not None
    state = info.state
    # A stream never written to says 0; sequences begin at 1.
    return Depth(state.messages, state.bytes, max(1, state.first_seq), state.last_seq)


async def require_majority(requests: Requests, stream: str) -> Leader:
    """Make sure that what the leader of `stream` has just said was true when it said so.

    Raises:
        QueueUnavailable: no answer, or it is not in touch with most of the replicas.
    """
    info = await _ask(requests, stream)
    if not info.cluster.has_a_leader:
        raise QueueUnavailable("the queue's leader is cut off from its replicas")
    return Leader(info.cluster.leader, info.cluster.is_settled(info.ts))


async def _ask(requests: Requests, stream: str) -> _StreamInfo:
    subject = f"$JS.API.STREAM.INFO.{stream}"
    answer = await requests.ask(subject, timeout_s=ANSWER_TIMEOUT_S)
    info = _DECODER.decode(answer.data)
    if info.error is not None and info.error.err_code == STREAM_NOT_FOUND:
        raise NotDeclared("the queue is not there yet")
    if info.state is None:
        reason = info.error.description if info.error else "an answer without state"
        raise QueueUnavailable(f"the queue cannot be read: {reason}")
    return info


_DECODER = msgspec.json.Decoder(_StreamInfo)
