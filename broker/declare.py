"""Makes the streams and the consumers what this version wants them to be.

Every process does this at start, several at once perhaps, so each step may find it done already.
Nothing here removes a ticket: limits that shrink below what is stored only refuse new ones.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from broker.connection import Connection
from broker.delivery import LEASE_S
from contract.errors import QueueUnavailable
from contract.limits import NATS_PAYLOAD_BYTES_MAX, TICKET_BYTES_MAX
from contract.prediction import Priority
from contract.queue import QueueNames

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
STREAM_EXISTS = 10058
STREAM_NOT_FOUND = 10059
INSUFFICIENT_STORAGE = 10047
NO_PLACE_FOR_REPLICAS = (10005, 10074)  # servers are missing; this one has no cluster at all
JETSTREAM_IS_AWAY = 10008  # its servers are without a leader

CLAIM_BYTES_MAX = 4096  # headers included; they have a few hundred
DUPLICATE_WINDOW_S = 120.0  # covers a publisher's own repetitions many times over
ACK_PENDING_MAX = 4096  # deliveries of one consumer in flight, delayed ones included
# JetStream parks what it has delivered so often, in silence and for ever. The dispatcher counts
# runs instead, and records a failure when there were too many.
DELIVERIES_MAX = -1  # without limit


@dataclass(frozen=True)
class QueueLimits:
    """When the queue is full, how long claims are kept, and on how many servers both are.

    The server reserves `bytes_max`; its own `max_file` must be at least that.
    """

    tickets_max: int = 200_000
    bytes_max: int = 20 * 1024**3
    replicas: int = 1
    claims_max: int = 2_000_000  # of 340 bytes each on disk, and about as much in memory
    claims_age_s: float = 0.0  # longer than outcomes are kept; 0 is for ever


class UnsuitableServer(QueueUnavailable):
    """This NATS cannot carry the queue; somebody must change its configuration, or ours."""

    code = "unsuitable_server"


async def declare(
    connection: Connection, names: QueueNames, models: Iterable[str], limits: QueueLimits
) -> None:
    """Create or update the streams, and for each model a consumer per priority.

    Raises:
        QueueUnavailable: JetStream does not answer.
        UnsuitableServer: it answers, and refuses.
    """
    client = connection.client
    if client.max_payload < NATS_PAYLOAD_BYTES_MAX:
        raise UnsuitableServer(
            f"NATS takes messages of up to {client.max_payload} bytes;"
            f" set its max_payload to at least {NATS_PAYLOAD_BYTES_MAX}"
        )
    jetstream = client.jetstream(timeout=ANSWER_TIMEOUT_S)
    try:
        await _declare_stream(jetstream, _stream(names, limits))
        await _declare_stream(jetstream, _claims_stream(names, limits))
        for model in models:
            for priority in Priority:
                # Creates, updates, or finds it as wanted: all the same to the server.
                await jetstream.add_consumer(names.stream, _consumer(names, priority, model))
    except APIError as error:
        if error.err_code == INSUFFICIENT_STORAGE:
            raise UnsuitableServer(
                f"NATS cannot reserve {limits.bytes_max} bytes for the queue;"
                " raise its jetstream max_file, or lower the queue's bytes_max"
            ) from error
        if error.err_code in NO_PLACE_FOR_REPLICAS:
            raise UnsuitableServer(
                f"NATS cannot keep the queue on {limits.replicas} servers of one cluster:"
                f" {error.description}; start them, or lower the queue's replicas"
            ) from error
        if error.err_code == JETSTREAM_IS_AWAY:
            raise QueueUnavailable("JetStream has no leader") from error
        raise UnsuitableServer(f"NATS refuses the queue: {error.description}") from error
    except (nats.errors.Error, TimeoutError) as error:
        raise QueueUnavailable("JetStream does not answer") from error


def _stream(names: QueueNames, limits: QueueLimits) -> StreamConfig:
    return StreamConfig(
        name=names.stream,
        subjects=[names.all_tickets],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        num_replicas=limits.replicas,
        # Full means refused. Old tickets are never dropped to make room.
        discard=DiscardPolicy.NEW,
        max_msgs=limits.tickets_max,
        max_bytes=limits.bytes_max,
        max_msg_size=TICKET_BYTES_MAX,
        # A second lock on "one ticket per prediction", beside the publisher's expectation.
        max_msgs_per_subject=1,
        discard_new_per_subject=True,
        # Any age limit would remove accepted work, even while it runs.
        max_age=0,
        duplicate_window=DUPLICATE_WINDOW_S,
        allow_direct=True,
    )


def _claims_stream(names: QueueNames, limits: QueueLimits) -> StreamConfig:
    """A message per key, written once: what a key-value bucket is, without its history."""
    age_s = limits.claims_age_s
    return StreamConfig(
        name=names.claims_stream,
        subjects=[names.all_claims],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=limits.replicas,
        # A claim dropped to make room would let its key be used for a second prediction.
        discard=DiscardPolicy.NEW,
        max_msgs=limits.claims_max,
        max_msg_size=CLAIM_BYTES_MAX,
        max_msgs_per_subject=1,
        discard_new_per_subject=True,
        max_age=age_s,
        duplicate_window=min(DUPLICATE_WINDOW_S, age_s or DUPLICATE_WINDOW_S),
        allow_direct=True,
    )


def _consumer(names: QueueNames, priority: Priority, model: str) -> ConsumerConfig:
    name = names.consumer(priority, model)
    return ConsumerConfig(
        name=name,
        durable_name=name,
        filter_subject=names.tickets_of(priority, model),
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=LEASE_S,
        max_ack_pending=ACK_PENDING_MAX,
        max_deliver=DELIVERIES_MAX,
    )


async def _declare_stream(jetstream: JetStreamContext, wanted: StreamConfig) -> None:
    assert wanted.name is not None
    try:
        present = (await jetstream.stream_info(wanted.name)).config
    except NotFoundError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        try:
            await jetstream.add_stream(wanted)
        except APIError as refused:
            if refused.err_code != STREAM_EXISTS:
                raise
            # Another process was faster, with other limits: now there is something to compare.
            await _declare_stream(jetstream, wanted)
            return
        log.info("queue.created", extra={"stream": wanted.name})
        return
    different = _differences(present, wanted)
    if different:
        await jetstream.update_stream(wanted)
        log.info("queue.updated", extra={"stream": wanted.name, "changed": different})


def _differences(present: StreamConfig, wanted: StreamConfig) -> list[str]:
    """The fields this version cares about that are not as it wants them."""
    return [
        name
        for name, value in vars(wanted).items()
        if value is not None and getattr(present, name) != value
    ]
