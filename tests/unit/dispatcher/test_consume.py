"""How much is held, what runs at once, what is given back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker import LEASE_EXTENDED_EVERY_S, Delivery, Intake
from contract.ids import PredictionId
from contract.prediction import Priority, Ticket
from dispatcher.batching import Batch, Batcher
from dispatcher.consume import RECORDINGS_MAX, Consumer
from dispatcher.outages import Outage
from dispatcher.turn import Turn
from tests.tickets import fresh_id

PLACES = 2


class PlayedDelivery(Delivery):
    """A delivery that writes down what becomes of it."""

    __slots__ = ("extended", "given_back")

    def __init__(self, ticket: Ticket, attempt: int) -> None:
        self.ticket, self.attempt, self.sequence = ticket, attempt, 1
        self.withdrawn = False
        self.given_back = 0
        self.extended = 0

    async def give_back(self, delay_s: float = 0.0) -> None:
        self.given_back += 1

    async def extend_lease(self) -> None:
        self.extended += 1


class PlayedIntake(Intake):
    """An intake whose deliveries a test makes."""

    def __init__(self) -> None:
        self.released = 0
        self.started = asyncio.Event()
        self.stopped = False

    async def start(self, arrived: Callable[[Delivery], None]) -> None:
        self._arrived = arrived
        self.started.set()

    def release(self, delivery: Delivery) -> None:
        self.released += 1

    async def stop(self) -> None:
        self.stopped = True

    def deliver(self, *, attempt: int = 1, ticket: Ticket | None = None) -> PlayedDelivery:
        ticket = ticket or Ticket(fresh_id(), "m", 1, {})
        delivery = PlayedDelivery(ticket, attempt)
        assert self._arrived is not None
        self._arrived(delivery)
        return delivery


class Stage:
    """A consumer whose batches run until a test lets them go on."""

    def __init__(self, *, rows_max: int = 4) -> None:
        self.intakes = {priority: PlayedIntake() for priority in Priority}
        self.outage = Outage("test")
        self.batches: list[Batch[Delivery]] = []
        self.may_infer = asyncio.Semaphore(0)
        self.may_settle = asyncio.Semaphore(0)
        self.error: Exception | None = None
        self.suspects: set[PredictionId] = set()
        self.alone: list[PredictionId] = []  # run in their turn
        self.turn = Turn()
        self.consumer = Consumer(
            "m", self.intakes, Batcher(rows_max), self._run,
            batches_max=PLACES, outages=(self.outage,), turn=self.turn,
        )  # fmt: skip

    @property
    def intake(self) -> PlayedIntake:
        return self.intakes[Priority.NORMAL]

    @property
    def sizes(self) -> list[int]:
        return [len(batch.rows) for batch in self.batches]

    async def _run(
        self, batch: Batch[Delivery], inferred: Callable[[], None], turn: Turn | None = None
    ) -> list[Delivery]:
        if turn is not None:
            self.alone += [it.ticket.id for it in batch.rows]
        elif suspects := [it for it in batch.rows if it.ticket.id in self.suspects]:
            inferred()
            return suspects
        self.batches.append(batch)
        if self.error is not None:
            raise self.error
        await self.may_infer.acquire()
        inferred()
        await self.may_settle.acquire()
        return []

    def let_go_on(self, batches: int = 1000) -> None:
        for _ in range(batches):
            self.may_infer.release()
            self.may_settle.release()


@asynccontextmanager
async def running(stage: Stage, *, drain_s_max: float = 5.0) -> AsyncIterator[None]:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.consumer.run(drain_s_max))
        await asyncio.gather(*(it.started.wait() for it in stage.intakes.values()))
        yield
        stage.consumer.stop()


async def settled() -> None:
    """Let everything that can go on go on. Nothing here waits for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_row_that_comes_alone_runs_alone_and_at_once() -> None:
    stage = Stage()
    async with running(stage):
        stage.intake.deliver()
        await settled()
        assert stage.sizes == [1]
        stage.let_go_on()


async def test_rows_gather_while_every_place_is_taken() -> None:
    stage = Stage(rows_max=4)
    async with running(stage):
        for _ in range(PLACES):
            stage.intake.deliver()
            await settled()
        for _ in range(10):
            stage.intake.deliver()
        await settled()
        assert stage.sizes == [1, 1]
        stage.let_go_on()
        await settled()
        assert stage.sizes == [1, 1, 4, 4, 2]
    assert stage.intake.released == 12


async def test_a_place_is_free_once_triton_has_answered() -> None:
    stage = Stage(rows_max=1)
    async with running(stage):
        for _ in range(PLACES + 1):
            stage.intake.deliver()
        await settled()
        assert len(stage.batches) == PLACES
        stage.may_infer.release()
        await settled()
        assert len(stage.batches) == PLACES + 1
        assert stage.intake.released == 0, "it is not settled, so its room is not free"
        stage.let_go_on()


async def test_a_slow_ledger_slows_the_taking() -> None:
    stage = Stage(rows_max=1)
    async with running(stage):
        for _ in range(20):
            stage.intake.deliver()
        for _ in range(20):
            stage.may_infer.release()
        await settled()
        assert len(stage.batches) == PLACES + RECORDINGS_MAX
        stage.let_go_on()


async def test_nothing_new_begins_while_a_part_is_away() -> None:
    stage = Stage()
    async with running(stage):
        stage.outage.begin("gone")
        stage.intake.deliver()
        await settled()
        assert stage.batches == []
        stage.outage.end()
        await settled()
        assert stage.sizes == [1]
        stage.let_go_on()


async def test_suspects_run_alone_one_after_the_other_and_take_no_place() -> None:
    stage = Stage()
    async with running(stage):
        suspects = [Ticket(fresh_id(), "m", 1, {}) for _ in range(3)]
        stage.suspects = {it.id for it in suspects}
        for ticket in suspects:
            stage.intake.deliver(ticket=ticket, attempt=3)
        await settled()
        assert stage.alone == [suspects[0].id], "the others wait"
        for _ in range(PLACES):
            stage.intake.deliver()
            await settled()
        assert stage.sizes == [1] * (1 + PLACES), "no place is taken"
        assert stage.consumer.held == 3 + PLACES
        stage.let_go_on()
        await settled()
        assert stage.alone == [it.id for it in suspects]
    assert stage.intake.released == 3 + PLACES


async def test_a_suspect_waits_for_the_turn_of_another_model() -> None:
    stage = Stage()
    suspect = Ticket(fresh_id(), "m", 1, {})
    stage.suspects = {suspect.id}
    stage.let_go_on()
    async with running(stage):
        async with stage.turn.taken():
            stage.intake.deliver(ticket=suspect, attempt=3)
            await settled()
            assert stage.alone == []
            async with stage.turn.aside():  # its model is away
                await settled()
                assert stage.alone == [suspect.id]
        await settled()
        assert stage.consumer.held == 0


async def test_suspects_that_a_stop_cannot_finish_are_given_back() -> None:
    stage = Stage()
    suspects = [Ticket(fresh_id(), "m", 1, {}) for _ in range(3)]
    stage.suspects = {it.id for it in suspects}
    async with running(stage, drain_s_max=0.01):
        held = [stage.intake.deliver(ticket=it, attempt=3) for it in suspects]
        await settled()
    assert [it.given_back for it in held] == [1, 1, 1]


async def test_what_is_withdrawn_is_marked_where_it_is_held() -> None:
    stage = Stage()
    async with running(stage):
        held, other = stage.intake.deliver(), stage.intake.deliver()
        stage.consumer.withdraw([held.ticket.id, fresh_id()])
        assert (held.withdrawn, other.withdrawn) == (True, False)
        stage.let_go_on()


async def test_a_ticket_that_comes_again_while_held_is_held_once() -> None:
    """Its lease ended while NATS was away; the first delivery's ack will do for both."""
    stage = Stage()
    async with running(stage):
        first = stage.intake.deliver()
        stage.intake.deliver(ticket=first.ticket, attempt=2)
        await settled()
        assert stage.consumer.held == 1
        assert stage.intake.released == 1
        stage.let_go_on()
        await settled()
        assert stage.sizes == [1]


async def test_room_is_released_to_the_priority_it_came_from() -> None:
    stage = Stage()
    stage.let_go_on()
    async with running(stage):
        for priority, count in ((Priority.HIGH, 3), (Priority.LOW, 2)):
            for _ in range(count):
                ticket = Ticket(fresh_id(), "m", 1, {}, priority=priority)
                stage.intakes[priority].deliver(ticket=ticket)
    assert {it: intake.released for it, intake in stage.intakes.items()} == {
        Priority.HIGH: 3,
        Priority.NORMAL: 0,
        Priority.LOW: 2,
    }


async def test_a_stop_finishes_what_is_held_and_takes_no_more() -> None:
    stage = Stage()
    stage.let_go_on()
    async with running(stage):
        held = [stage.intake.deliver() for _ in range(10)]
    assert sum(stage.sizes) == 10
    assert not any(it.given_back for it in held)
    assert all(intake.stopped for intake in stage.intakes.values())


async def test_what_a_stop_cannot_finish_in_time_is_given_back_once() -> None:
    stage = Stage(rows_max=1)
    async with running(stage, drain_s_max=0.01):
        held = [stage.intake.deliver() for _ in range(10)]
        stage.let_go_on(3)
        await settled()
    assert sorted(it.given_back for it in held) == [0] * 3 + [1] * 7
    assert stage.consumer.held == 0


async def test_a_stop_during_an_outage_gives_back_at_once() -> None:
    stage = Stage()
    async with running(stage, drain_s_max=1000):
        held = stage.intake.deliver()
        stage.outage.begin("gone")
    assert held.given_back == 1


async def test_leases_are_extended_of_what_has_been_held_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(rows_max=1)
    now = 0.0
    monkeypatch.setattr(stage.consumer, "_clock", lambda: now)
    async with running(stage):
        early = [stage.intake.deliver() for _ in range(10)]
        now = LEASE_EXTENDED_EVERY_S / 2
        late = stage.intake.deliver()
        stage.let_go_on(1)
        await settled()
        await stage.consumer.extend_leases()
        assert not any(it.extended for it in early)
        now = LEASE_EXTENDED_EVERY_S
        for _ in range(2):
            await stage.consumer.extend_leases()
        assert sorted(it.extended for it in early) == [0] + [1] * 9, "one has been settled"
        assert late.extended == 0
        now = 2 * LEASE_EXTENDED_EVERY_S
        await stage.consumer.extend_leases()
        assert sorted(it.extended for it in early) == [0] + [2] * 9
        assert late.extended == 1
        stage.let_go_on()


async def test_a_bug_ends_the_consumer() -> None:
    stage = Stage()
    stage.error = KeyError("a bug")

    async def work() -> None:
        async with running(stage):
            stage.intake.deliver()
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.group_contains(KeyError)
