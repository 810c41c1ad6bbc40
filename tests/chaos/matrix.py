"""Which faults are injected into which process at which moment: the matrix, by written rules. Pure.

A cell hits a process at a moment where it is involved in the step that is about to be taken, or in
the one just taken; elsewhere the fault would meet a bystander, and its cell would repeat another.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase


class Target(StrEnum):
    """A process of the installation."""

    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    TRITON = "triton"
    STUB = "stub"  # the process by which Triton runs one instance of a model
    WORKER = "worker"  # the process beside a stub in which that instance runs
    NATS = "nats"
    POSTGRES = "postgres"


class Fault(StrEnum):
    """What is done to it."""

    KILL = "kill"  # SIGKILL
    TERMINATE = "terminate"  # SIGTERM
    FREEZE = "freeze"  # SIGSTOP, and SIGCONT after FREEZE_S
    LONG_FREEZE = "freeze10"  # the same for LONG_FREEZE_S
    CUT = "cut"  # all its connections are reset, new ones too for CUT_S
    SILENCE = "silence"  # all its connections stay open, and nothing passes
    SLOW = "slow"  # a network with long delays and little bandwidth
    READ_ONLY = "read_only"
    CONNECTIONS = "connections"  # somebody else holds all there are
    FULL_DISK = "full_disk"
    FULL_STREAM = "full_stream"
    DOWN = "down"  # killed, and not started again for DOWN_S
    RIVAL = "rival"  # frozen for LONG_FREEZE_S, while another one does its work
    NONE = "none"


class Moment(StrEnum):
    """Where the process that works on a prediction stands when the fault comes."""

    STEADY = "steady"  # anywhere
    PUBLISHING = "publishing"  # gateway: before the publish
    STORED = "stored"  # gateway: between the PubAck and the answer
    LOOKING = "looking"  # gateway: a reader found nothing in the ledger, and asks the queue next
    FETCHED = "fetched"  # dispatcher: tickets are here, nothing is done
    INFERRING = "inferring"  # dispatcher: Triton works, or its answer is on the way
    INFERRED = "inferred"  # dispatcher: between inferring and recording
    RECORDED = "recorded"  # dispatcher: between recording and announcing
    ANNOUNCED = "announced"  # dispatcher: between announcing and acknowledging


FREEZE_S = 3.0
LONG_FREEZE_S = 10.0  # longer than a lease, a publish, and almost than a supervisor's patience
CUT_S = 1.0
SILENCE_S = 4.0
SLOW_S = 3.0
REFUSING_S = 3.0  # of Postgres read-only or without connections, and of full disks and streams
DOWN_S = 6.0

DURATION_S = {
    Fault.KILL: 0.0,
    Fault.TERMINATE: 0.0,
    Fault.FREEZE: FREEZE_S,
    Fault.LONG_FREEZE: LONG_FREEZE_S,
    Fault.CUT: CUT_S,
    Fault.SILENCE: SILENCE_S,
    Fault.SLOW: SLOW_S,
    Fault.READ_ONLY: REFUSING_S,
    Fault.CONNECTIONS: REFUSING_S,
    Fault.FULL_DISK: REFUSING_S,
    Fault.FULL_STREAM: REFUSING_S,
    Fault.DOWN: DOWN_S,
    Fault.RIVAL: LONG_FREEZE_S,
    Fault.NONE: 0.0,
}

IN_TRITON = (Target.STUB, Target.WORKER)  # they talk through shared memory and pipes

# Who holds the fault point, and whom a fault then meets at work.
INVOLVED: dict[Moment, tuple[Target, ...]] = {
    Moment.PUBLISHING: (Target.GATEWAY, Target.NATS),
    Moment.STORED: (Target.GATEWAY, Target.NATS),
    Moment.LOOKING: (Target.GATEWAY, Target.NATS, Target.POSTGRES),
    Moment.FETCHED: (Target.DISPATCHER, Target.NATS, Target.TRITON, *IN_TRITON),
    Moment.INFERRING: (Target.DISPATCHER, Target.TRITON, *IN_TRITON),
    Moment.INFERRED: (Target.DISPATCHER, Target.POSTGRES),
    Moment.RECORDED: (Target.DISPATCHER, Target.POSTGRES, Target.NATS),
    Moment.ANNOUNCED: (Target.DISPATCHER, Target.NATS),
}
OF_ANY = (Fault.KILL, Fault.TERMINATE, Fault.FREEZE)
OF_A_NETWORK = (Fault.CUT, Fault.SLOW)
OF_POSTGRES = (Fault.READ_ONLY, Fault.CONNECTIONS, Fault.FULL_DISK)

# A limit lies between 3 s and 10 s here: the lease of a ticket, the patience of a publish, of a
# question to the queue, and of a statement.
LONG_FREEZES = (
    (Target.GATEWAY, Moment.STORED),
    (Target.DISPATCHER, Moment.FETCHED),
    (Target.DISPATCHER, Moment.RECORDED),
    (Target.NATS, Moment.PUBLISHING),
    (Target.NATS, Moment.ANNOUNCED),
    (Target.POSTGRES, Moment.INFERRED),
    (Target.TRITON, Moment.INFERRING),
)
# A silent network is told from a slow one only by whoever waits for something.
SILENCES = (
    (Target.GATEWAY, Moment.STORED),
    (Target.NATS, Moment.PUBLISHING),
    (Target.NATS, Moment.ANNOUNCED),
    (Target.POSTGRES, Moment.LOOKING),
    (Target.POSTGRES, Moment.INFERRED),
    (Target.TRITON, Moment.INFERRING),
)
# JetStream writes when it stores a ticket and when one is acknowledged.
FULL = (
    (Fault.FULL_STREAM, Moment.PUBLISHING),
    (Fault.FULL_STREAM, Moment.STORED),
    (Fault.FULL_DISK, Moment.PUBLISHING),
    (Fault.FULL_DISK, Moment.ANNOUNCED),
)
# Where two dispatchers may come to work on the same ticket.
RIVALRIES = (Moment.FETCHED, Moment.INFERRED, Moment.RECORDED, Moment.ANNOUNCED)
OUTAGES = (Target.GATEWAY, Target.DISPATCHER, Target.TRITON, Target.NATS, Target.POSTGRES)
NO_ATTEMPT = (Target.TRITON, Target.POSTGRES)  # an outage of these leaves a ticket where it is


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One fault in one process at one moment."""

    target: Target
    fault: Fault
    moment: Moment

    @property
    def name(self) -> str:
        return f"{self.target}/{self.fault}/{self.moment}"

    @property
    def holder(self) -> Target | None:
        """The process whose task stands at the moment; None where nobody has to."""
        if self.moment is Moment.STEADY:
            return None
        gateways = (Moment.PUBLISHING, Moment.STORED, Moment.LOOKING)
        return Target.GATEWAY if self.moment in gateways else Target.DISPATCHER

    @property
    def duration_s(self) -> float:
        return DURATION_S[self.fault]

    @property
    def needs_submits(self) -> bool:
        """Whether submits must be accepted all the while: only the queue has to be there."""
        return self.fault is Fault.DOWN and self.target in (*NO_ATTEMPT, Target.DISPATCHER)

    @property
    def needs_reads(self) -> bool:
        """Whether what has ended must be readable: only the ledger has to be there."""
        away = (*NO_ATTEMPT, Target.DISPATCHER, Target.NATS)
        return self.fault is Fault.DOWN and self.target in away and self.target != Target.POSTGRES

    @property
    def attempts_max(self) -> int:
        """How many attempts a prediction may take; 0 where each may take more than one."""
        return int(self.fault is Fault.DOWN and self.target in NO_ATTEMPT)


def cells() -> list[Cell]:
    """The whole matrix, in order."""
    return list(_cells())


def chosen(pattern: str, seed: int) -> list[Cell]:
    """The cells whose names match one of the patterns (by comma), in the seed's order.

    The same process is not hit twice in a row where that can be helped: it may still be starting.
    """
    patterns = [each.strip() for each in pattern.split(",") if each.strip()] or ["*"]
    wanted = [cell for cell in cells() if any(fnmatchcase(cell.name, each) for each in patterns)]
    random.Random(seed).shuffle(wanted)
    ordered: list[Cell] = []
    while wanted:
        last = ordered[-1].target if ordered else None
        most = max(
            (cell.target for cell in wanted), key=lambda it: (it is not last, _left(wanted, it))
        )
        following = next(cell for cell in wanted if cell.target is most)
        wanted.remove(following)
        ordered.append(following)
    return ordered


def _left(wanted: list[Cell], target: Target) -> int:
    return sum(cell.target is target for cell in wanted)


def _cells() -> Iterator[Cell]:
    for moment, targets in INVOLVED.items():
        for target in targets:
            network = () if target in IN_TRITON else OF_A_NETWORK
            own = OF_POSTGRES if target is Target.POSTGRES else ()
            for fault in (*OF_ANY, *network, *own):
                yield Cell(target, fault, moment)
    for target, moment in LONG_FREEZES:
        yield Cell(target, Fault.LONG_FREEZE, moment)
    for target, moment in SILENCES:
        yield Cell(target, Fault.SILENCE, moment)
    for fault, moment in FULL:
        yield Cell(Target.NATS, fault, moment)
    for moment in RIVALRIES:
        yield Cell(Target.DISPATCHER, Fault.RIVAL, moment)
    for target in OUTAGES:
        yield Cell(target, Fault.DOWN, Moment.STEADY)
