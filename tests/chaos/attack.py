"""One cell: load, a process brought to its moment, the fault, the recovery, and the judgement."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from broker import Broker
from contract.announcements import Announced as Heard
from contract.ids import PredictionId, new_prediction_id
from contract.queue import QueueNames
from ledger import Ledger
from standalone.supervisor import Event, Kind
from tests.chaos.checker import Violation, accepted, check
from tests.chaos.faults import afflicted
from tests.chaos.history import Announced, Call, End, History, Known, Mark, Rules
from tests.chaos.load import Fate, Load, Photograph
from tests.chaos.matrix import IN_TRITON, Cell, Fault, Moment, Target
from tests.chaos.sight import row_of
from tests.chaos.site import Site

RATE_PER_S = 20.0  # callers, each with several calls: the machine must not be what is tested
POINT_S_MAX = 15.0  # the load comes by every point many times a second
RECOVERY_S_MAX = 60.0
DRAIN_S_MAX = 60.0
AFTER_S = 0.4  # load goes on for a moment when everything is well again
WARM = 6  # predictions that have ended before the fault comes
QUEUED_MAX = 1000


@dataclass
class Result:
    """What became of one cell."""

    cell: Cell
    seed: int
    violations: list[Violation] = field(default_factory=list)
    error: str = ""  # why the cell could not be played to its end
    skipped: str = ""
    accepted: int = 0
    refused: int = 0
    recovery_s: float = 0.0  # from the fault's end to an end of what was accepted after it
    settled_s: float = 0.0  # until everything accepted had ended
    grown_mb: float = 0.0  # memory of gateway and dispatcher, at its highest
    took_s: float = 0.0
    history: Path | None = None

    @property
    def is_green(self) -> bool:
        return not (self.violations or self.error)


@dataclass(frozen=True)
class Samples:
    """What the load sends besides texts, and what the model makes of it."""

    photographs: list[Photograph]
    known: dict[str, object]  # by what was asked

    @property
    def names(self) -> dict[str, str]:
        return {hashlib.sha256(it.content).hexdigest(): it.name for it in self.photographs}


class Attack:
    """Plays one cell on a site."""

    def __init__(
        self, site: Site, cell: Cell, seed: int, samples: Samples, history: History, *, moves: bool
    ) -> None:
        self._site = site
        self._cell = cell
        self._samples = samples
        self._history = history
        self._began = time.monotonic()
        self._first_id = new_prediction_id(time.time_ns() // 1_000_000, bytes(10))
        self._random = Random(f"{seed} {cell.name}")
        self._load = Load(
            site.port,
            history,
            self._now,
            samples.photographs,
            seed=f"{seed} {cell.name} load",
            rate_per_s=RATE_PER_S,
            moves=moves,
        )
        self._restarted = asyncio.Event()
        self._grown_mb = 0.0

    async def play(self, result: Result) -> None:
        """Play the cell, and write into `result` what came of it."""
        history, cell = self._history, self._cell
        history.add(
            Rules(
                cell.name,
                result.seed,
                attempts_max=cell.attempts_max,
                submits=cell.needs_submits,
                reads=cell.needs_reads,
            )
        )
        for asked, output in self._samples.known.items():
            history.add(Known(asked, output))
        self._site.heard = self._happened
        async with self._observing() as (broker, ledger):
            self._load.start()
            try:
                await self._load.until(lambda fates: len(fates) >= WARM, RECOVERY_S_MAX)
                fault_began, fault_over = await self._strike()
                recovered = await self._recover(fault_over)
                await self._until_restarted()
                missing = await self._site.ready(RECOVERY_S_MAX)
                window_ends = self._now()
                await asyncio.sleep(AFTER_S)
                self._load.stop_coming()
                await self._load.all_left(DRAIN_S_MAX)
            finally:
                await self._load.end()
                self._site.heard = lambda _: None
            queued = await _left_in_queue(broker)
            await self._read_ledger(ledger)
            recovery_s = recovered - fault_over
            end = End(fault_began, window_ends, queued, missing, recovery_s, self._grown_mb)
            history.add(end)
        result.recovery_s = recovery_s
        result.grown_mb = self._grown_mb
        result.settled_s = max((fate.ended_at for fate in self._before(fault_over)), default=0.0)
        result.settled_s = max(0.0, result.settled_s - fault_over)
        result.violations = check(history.records)
        result.accepted = accepted(history.records)
        calls = [record for record in history.records if isinstance(record, Call)]
        result.refused = sum(call.status in (429, 503) for call in calls)

    def _before(self, moment: float) -> list[Fate]:
        return [fate for fate in self._load.fates if fate.accepted_at <= moment]

    async def _strike(self) -> tuple[float, float]:
        """Bring a task to the moment and do the fault; return when it began and was over."""
        cell, site = self._cell, self._site
        async with AsyncExitStack() as ended:
            if cell.fault is Fault.RIVAL:
                await ended.enter_async_context(site.rival())
            armed = None
            if cell.holder is not None:
                armed = await site.controller.arm(cell.holder, cell.moment)
                await armed.wait(POINT_S_MAX)
            answers = site.proxies["dispatcher_triton"]
            is_kept = cell.moment is Moment.INFERRING and cell.target not in IN_TRITON
            if is_kept and armed is not None:
                # Triton has answered, and the answer is on its way.
                answers.hold_answers()
                armed.let_go()
                await answers.answer_kept(POINT_S_MAX)
            began = self._mark(f"{cell.fault} of {cell.target}")
            self._restarted.clear()
            async with afflicted(site, cell.target, cell.fault, self._random):
                if is_kept:
                    answers.lose_answers()
                elif armed is not None:
                    armed.let_go()
                await self._watch_memory(cell.duration_s)
            if cell.fault is Fault.DOWN:
                # Its return is what ends this fault, however long its start takes.
                await self._until_restarted()
            over = self._mark("fault over")
            if cell.fault is Fault.RIVAL:
                await self._recover(over)
        return began, over

    async def _until_restarted(self) -> None:
        """Wait until what was ended runs again. Callers may not have missed it.

        A Postgres that was told to terminate, for one, goes on serving the connections it has.
        """
        if self._cell.target is Target.WORKER:
            return  # its stub starts another one, and tells nobody
        if self._cell.target is Target.STUB and self._cell.fault is Fault.TERMINATE:
            return  # it takes no notice
        if self._cell.fault in (Fault.KILL, Fault.TERMINATE, Fault.DOWN):
            async with asyncio.timeout(RECOVERY_S_MAX):
                await self._restarted.wait()

    async def _recover(self, since: float) -> float:
        """Wait until one prediction of each kind, accepted since then, has ended."""

        def have(fates: list[Fate]) -> bool:
            return {fate.kind for fate in fates if fate.accepted_at >= since} == {"text", "image"}

        await self._load.until(have, RECOVERY_S_MAX)
        of_kind: dict[str, float] = {}
        for fate in self._load.fates:
            if fate.accepted_at >= since:
                of_kind[fate.kind] = min(fate.ended_at, of_kind.get(fate.kind, fate.ended_at))
        return max(of_kind.values())

    async def _watch_memory(self, for_s: float) -> None:
        ends_at = time.monotonic() + for_s
        before = self._memory()
        while (left_s := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(0.5, left_s))
            for pid, used in self._memory().items():
                if pid in before:
                    self._grown_mb = max(self._grown_mb, (used - before[pid]) / 2**20)

    def _memory(self) -> dict[int, int]:
        used = {}
        for target in (Target.GATEWAY, Target.DISPATCHER):
            try:
                process = self._site.leader(target)
                used[process.pid] = process.memory_info().rss
            except (LookupError, psutil.Error):
                continue
        return used

    async def _read_ledger(self, ledger: Ledger) -> None:
        before: PredictionId | None = None
        names = self._samples.names
        while page := await ledger.page(before=before, rows_max=500):
            for ended in page:
                if ended.id < self._first_id:
                    return
                self._history.add(row_of(ended, names))
            before = page[-1].id

    @asynccontextmanager
    async def _observing(self) -> AsyncIterator[tuple[Broker, Ledger]]:
        """Connections of our own, past the proxies; what is announced is heard on them."""
        async with AsyncExitStack() as opened:
            ledger = await Ledger.connect(self._site.postgres.dsn)
            opened.push_async_callback(ledger.close)
            broker = await Broker.connect(
                self._site.nats.url,
                names=QueueNames(),
                token=self._site.nats.token,
                client_name="observer",
            )
            opened.push_async_callback(broker.close)
            await broker.subscribe_outcomes(self._announced)
            yield broker, ledger

    def _announced(self, announced: list[Heard]) -> None:
        for each in announced:
            self._history.add(Announced(self._now(), each.id))

    def _happened(self, event: Event) -> None:
        self._mark(str(event))
        target = self._cell.target
        service = Target.TRITON if target is Target.STUB else target
        if event.service == service and event.kind in (Kind.RESTARTED, Kind.HEALED):
            self._restarted.set()

    def _mark(self, what: str) -> float:
        now = self._now()
        self._history.add(Mark(now, what))
        return now

    def _now(self) -> float:
        return time.monotonic() - self._began


async def _left_in_queue(broker: Broker) -> list[str]:
    """Wait until the queue is empty; the ids that are still in it after DRAIN_S_MAX."""
    deadline = time.monotonic() + DRAIN_S_MAX
    while queued := await broker.waiting(before_sequence=None, tickets_max=QUEUED_MAX):
        if time.monotonic() > deadline:
            return [each.ticket.id for each in queued]
        await asyncio.sleep(0.1)
    return []
