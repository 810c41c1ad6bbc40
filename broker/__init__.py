"""The queue: NATS JetStream. The only importer of nats.

Nothing above this package knows subjects, acks, consumers or nats-py; every failure leaves it as
one of `contract.errors`.
"""

from broker.broker import Broker
from broker.declare import QueueLimits, UnsuitableServer
from broker.delivery import LEASE_EXTENDED_EVERY_S, Delivery
from broker.intake import Intake
from broker.lookup import Queued
from broker.stream import Depth, NotDeclared
from broker.transfer import Carried

__all__ = [
    "LEASE_EXTENDED_EVERY_S",
    "Broker",
    "Carried",
    "Delivery",
    "Depth",
    "Intake",
    "NotDeclared",
    "QueueLimits",
    "Queued",
    "UnsuitableServer",
]
