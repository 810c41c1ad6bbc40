"""Two gateways and three dispatchers on a queue that three nats-servers keep, under attack.

The processes are the product's own; nothing restarts them but the attack itself. What callers see
is judged by the checker of the fault matrix.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from broker import Broker
from contract.announcements import Announced as Heard
from contract.errors import QueueUnavailable
from contract.ids import PredictionId, new_prediction_id
from contract.queue import QueueNames
from ledger import Ledger
from standalone.program import Program
from standalone.server import Process, start
from tests.chaos.checker import Violation, accepted, check
from tests.chaos.cluster import TOKEN, Cluster
from tests.chaos.history import Announced, Call, End, History, Mark, Rules
from tests.chaos.http import NoAnswer, ask
from tests.chaos.load import Fate, Load
from tests.chaos.sight import row_of
from tests.services import MODEL_REPOSITORY, free_ports

MODEL = "identity"
GATEWAYS = ("g1", "g2")
DISPATCHERS = ("d1", "d2", "d3")
RATE_PER_S = 30.0
WARM = 40  # predictions that have ended before the attack
AFTER = 40  # that were accepted after it, and have ended
AFTER_S_MAX = 60.0
DRAIN_S_MAX = 60.0
QUEUED_MAX = 1000


class Several:
    """The processes, by name."""

    def __init__(self, cluster: Cluster, dsn: str, folder: Path, triton_address: str) -> None:
        self.cluster = cluster
        self.dsn = dsn
        common: dict[str, str] = {
            "NATS_URL": cluster.url,
            "NATS_TOKEN": TOKEN,
            "POSTGRES_DSN": dsn,
            "BLOBS_URL": (folder / "blobs").as_uri(),
            "MODEL_REPOSITORY": str(MODEL_REPOSITORY),
            "MODEL_CONFIG_NAME": "cpu",
            "MODELS": MODEL,
        }
        self.ports = dict(zip((*GATEWAYS, *DISPATCHERS), free_ports(5), strict=True))
        gateway = {"AUTH": "none", "QUEUE_REPLICAS": "3", "QUEUE_BYTES_MAX": str(1 << 28)}
        self._programs = {
            name: _program(
                name, folder, port,
                {**common, **gateway, "PORT": str(port)} if name in GATEWAYS
                else {
                    **common, "TRITON_ADDRESS": triton_address, "NAME": name,
                    "METRICS_PORT": str(port),
                },
            )
            for name, port in self.ports.items()
        }  # fmt: skip
        self._processes: dict[str, Process] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Several"]:
        try:
            await asyncio.gather(*(self.start(name) for name in self._programs))
            yield self
        finally:
            await asyncio.gather(*(self._end(process) for process in self._processes.values()))

    async def start(self, name: str) -> None:
        self._processes[name] = await start(self._programs[name])

    async def kill(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGKILL)
        await self._processes.pop(name).stop()

    async def _end(self, process: Process) -> None:
        os.kill(process.pid, signal.SIGKILL)
        await process.stop()

    async def ready(self, wait_s: float) -> dict[str, str]:
        """Wait until every gateway that runs is ready; return what is still missing, and where."""
        deadline = time.monotonic() + wait_s
        while True:
            missing = {}
            for name in self._processes.keys() & set(GATEWAYS):
                try:
                    answer = await ask(self.ports[name], "GET", "/readyz", within_s=5.0)
                except NoAnswer as error:
                    missing[name] = str(error)
                else:
                    if answer.status != 200:
                        missing[name] = answer.body.decode()
            if not missing or time.monotonic() > deadline:
                return missing
            await asyncio.sleep(0.1)

    async def recorded(self) -> dict[str, int]:
        """How many outcomes each dispatcher that runs has put into the ledger since it began."""
        counted = {}
        for name in sorted(self._processes.keys() & set(DISPATCHERS)):
            answer = await ask(self.ports[name], "GET", "/metrics", within_s=5.0)
            lines = re.findall(rb"^tritonq_predictions_ended_total\{.*\} (\S+)$", answer.body, re.M)
            counted[name] = sum(int(float(value)) for value in lines)
        return counted


def _program(name: str, folder: Path, port: int, settings: dict[str, str]) -> Program:
    kind = "gateway" if name in GATEWAYS else "dispatcher"
    return Program(kind, folder / name, port, 15.0, {**settings, "LOG_LEVEL": "info"})


class Spread(Load):
    """Callers of several gateways, as behind a balancer: any other one for each call."""

    def __init__(self, ports: list[int], *given: Any, **options: Any) -> None:
        super().__init__(ports[0], *given, **options)
        self.ports = ports

    async def _call(self, *given: Any, **told: Any) -> Call:
        self._port = self._random.choice(self.ports)
        return await super()._call(*given, **told)

    async def _sends_a_photograph(self) -> None:
        await self._submits_text_and_polls()


@dataclass
class Report:
    """What became of one attack."""

    violations: list[Violation] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    unknown: int = 0  # of these, such as may have been accepted
    stall_s: float = 0.0  # the longest time in which no submit was accepted
    slowest_s: float = 0.0  # the slowest submit that was
    too_early_s: float = 0.0  # by how much a Retry-After ended before the stall did
    recorded: dict[str, int] = field(default_factory=dict)  # by dispatcher, meanwhile
    rows: int = 0

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted} refused {self.refused} unknown {self.unknown}"
            f" stall {self.stall_s:.2f} s slowest {self.slowest_s:.2f} s"
            f" too early {self.too_early_s:.2f} s rows {self.rows} by {self.recorded}"
            f" violations {len(self.violations)}"
        )


class Attack:
    """One attack on several processes."""

    def __init__(self, several: Several, name: str, seed: int, folder: Path) -> None:
        self._several = several
        self._name = name
        self._seed = seed
        self._history = History(folder / f"{name}.jsonl")
        self._began = time.monotonic()
        self._first_id = new_prediction_id(time.time_ns() // 1_000_000, bytes(10))

    async def play(
        self, strike: Callable[[Spread], Awaitable[None]], *, moves: bool = True
    ) -> Report:
        """Do `strike` while callers come, and judge what they saw.

        Raises:
            TimeoutError: nothing that was accepted afterwards came to its end.
        """
        several, history = self._several, self._history
        history.add(Rules(self._name, self._seed))
        ports = [several.ports[name] for name in GATEWAYS]
        load = Spread(
            ports, history, self._now, [], seed=f"{self._name} {self._seed}",
            rate_per_s=RATE_PER_S, moves=moves,
        )  # fmt: skip
        before = await several.recorded()
        async with self._observing() as (broker, ledger):
            load.start()
            try:
                await load.until(lambda fates: len(fates) >= WARM, AFTER_S_MAX)
                struck = self._mark("attack")
                await strike(load)
                over = self._mark("over")
                await load.until(lambda fates: _ended_since(fates, over) >= AFTER, AFTER_S_MAX)
                missing = await several.ready(AFTER_S_MAX)
                recovered = self._now()
                load.stop_coming()
                await load.all_left(DRAIN_S_MAX)
            finally:
                await load.end()
            queued = await _left_in_queue(broker)
            rows = await self._read_ledger(ledger)
            history.add(End(struck, recovered, queued, missing))
        after = await several.recorded()
        # One that was started again counts from zero.
        recorded = {
            name: count - (before[name] if before[name] <= count else 0)
            for name, count in after.items()
        }
        history.close()
        return self._report(recorded, rows)

    def _report(self, recorded: dict[str, int], rows: int) -> Report:
        records = self._history.records
        calls = [record for record in records if isinstance(record, Call)]
        submits = [call for call in calls if call.kind in ("submit", "put")]
        taken = [call for call in submits if call.accepts]
        refused = [call for call in submits if call.status == 503]
        gaps = [
            (after.ended - before.ended, after.ended)
            for before, after in pairwise(sorted(taken, key=lambda call: call.ended))
        ]
        stall_s, stall_ended = max(gaps)
        too_early_s = max(
            (
                stall_ended - (call.ended + int(call.retry_after))
                for call in refused
                if stall_ended - stall_s <= call.ended <= stall_ended
            ),
            default=0.0,
        )
        return Report(
            check(records),
            accepted(records),
            len(refused),
            sum(call.failure.startswith("acceptance_unknown") for call in refused),
            stall_s,
            max(call.ended - call.began for call in taken if not call.wait_s),
            max(0.0, too_early_s),
            recorded,
            rows,
        )

    @asynccontextmanager
    async def _observing(self) -> AsyncIterator[tuple[Broker, Ledger]]:
        async with AsyncExitStack() as opened:
            ledger = await Ledger.connect(self._several.dsn)
            opened.push_async_callback(ledger.close)
            broker = await Broker.connect(
                self._several.cluster.url, names=QueueNames(), token=TOKEN, client_name="observer"
            )
            opened.push_async_callback(broker.close)
            await broker.subscribe_outcomes(self._announced)
            yield broker, ledger

    def _announced(self, announced: list[Heard]) -> None:
        for each in announced:
            self._history.add(Announced(self._now(), each.id))

    async def _read_ledger(self, ledger: Ledger) -> int:
        """Write down every row since the attack began; return how many there are."""
        before: PredictionId | None = None
        rows = 0
        while page := await ledger.page(before=before, rows_max=500):
            for ended in page:
                if ended.id < self._first_id:
                    return rows
                self._history.add(row_of(ended, {}))
                rows += 1
            before = page[-1].id
        return rows

    def _mark(self, what: str) -> float:
        now = self._now()
        self._history.add(Mark(now, what))
        return now

    def _now(self) -> float:
        return time.monotonic() - self._began


def _ended_since(fates: list[Fate], moment: float) -> int:
    return sum(fate.accepted_at >= moment for fate in fates)


async def _left_in_queue(broker: Broker) -> list[str]:
    """Wait until the queue is empty; the ids that are still in it after DRAIN_S_MAX."""
    deadline = time.monotonic() + DRAIN_S_MAX
    left = [""]
    while left and time.monotonic() < deadline:
        try:
            queued = await broker.waiting(before_sequence=None, tickets_max=QUEUED_MAX)
            left = [each.ticket.id for each in queued]
        except QueueUnavailable:
            left = [""]
        if left:
            await asyncio.sleep(0.1)
    return left
