"""The order of effects, and what each step does to the rows it finds."""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from blobs import Blobs
from broker import Broker, Delivery
from contract.catalog import Lane, Model, Tensor
from contract.errors import BlobsUnavailable, LedgerUnavailable, ModelRejected
from contract.ids import PredictionId
from contract.prediction import File, Outcome, Prediction, Status, Ticket
from dispatcher import outages
from dispatcher.batching import Batch
from dispatcher.encode import Encoder
from dispatcher.execute import ExecutionLimits, Executor, KeepInputs, Parts
from dispatcher.health import ModelHealth
from dispatcher.outages import Outage
from inference import Triton
from ledger import Ledger, Unrecordable
from tasks.registry import task
from tests.tickets import fresh_id

SHA256 = "ab" * 32
TEXT = Model(
    "text", (1,), "tensor", 8, (Tensor("in", "BYTES", (1,)),), (Tensor("out", "BYTES", (1,)),)
)

Effects = list[str]


class PlayedDelivery(Delivery):
    __slots__ = ("_effects",)

    def __init__(self, ticket: Ticket, attempt: int, effects: Effects) -> None:
        self.ticket, self.attempt, self.sequence = ticket, attempt, 1
        self._effects = effects

    async def ack(self) -> None:
        self._effects.append("ack")


class PlayedTriton(Triton):
    def __init__(self, effects: Effects) -> None:
        super().__init__("nowhere:0")
        self._effects = effects

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        timeout_s: float,
    ) -> dict[str, NDArray[Any]]:
        self._effects.append(f"infer {len(inputs['in'])}")
        return {"out": inputs["in"]}


class PlayedLedger(Ledger):
    """Keeps the first outcome; refuses a NUL; may be away at first."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.kept: dict[PredictionId, Prediction] = {}
        self.away = 0

    async def ended(self, ids: Any) -> set[PredictionId]:
        self._effects.append("look up")
        return {each for each in ids if each in self.kept}

    async def record(self, ended: Sequence[Prediction]) -> set[PredictionId]:
        self._effects.append("record")
        if self.away:
            self.away -= 1
            raise LedgerUnavailable("Postgres does not answer")
        refused = {it.id: "DataError" for it in ended if _has_nul(it)}
        fresh: Set[PredictionId] = {it.id for it in ended} - refused.keys() - self.kept.keys()
        self.kept |= {it.id: it for it in ended if it.id in fresh}
        if refused:
            raise Unrecordable(refused, fresh)
        return set(fresh)


def _has_nul(it: Prediction) -> bool:
    error = it.outcome.error if it.outcome else None
    return "\0" in str(it.ticket.input.get("in", "")) or "\0" in (error.message if error else "")


class PlayedBlobs(Blobs):
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.away = 0

    async def put(self, prediction_id: PredictionId, content: bytes, sha256: str) -> None:
        self._effects.append("keep")
        if self.away:
            self.away -= 1
            raise BlobsUnavailable("the store does not answer")


class PlayedBroker(Broker):
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.announced: list[Outcome] = []

    async def announce(self, outcomes: list[Outcome]) -> None:
        self._effects.append("announce")
        self.announced += outcomes


class Stage:
    def __init__(self, *, keep_inputs: KeepInputs = "all") -> None:
        self.effects: Effects = []
        self.ledger = PlayedLedger(self.effects)
        self.blobs = PlayedBlobs(self.effects)
        self.broker = PlayedBroker(self.effects)
        triton, blobs_outage = PlayedTriton(self.effects), Outage("blobs")
        self.encoder = Encoder(2, self.blobs, blobs_outage)
        parts = Parts(
            triton=triton,
            ledger=self.ledger,
            blobs=self.blobs,
            broker=self.broker,
            encoder=self.encoder,
            ledger_outage=Outage("ledger"),
            blobs_outage=blobs_outage,
            now_ms=lambda: 1_800_000_000_000,
        )
        limits = ExecutionLimits(attempts_max=5, infer_timeout_s=1, keep_inputs=keep_inputs)
        health = ModelHealth(TEXT, triton, Path())
        self.executor = Executor(TEXT, task("tensor"), health, parts, limits)

    async def run(self, *tickets: Ticket, attempt: int = 1) -> list[Outcome | None]:
        """Run the tickets as one batch; the outcome the ledger keeps of each."""
        rows = [PlayedDelivery(ticket, attempt, self.effects) for ticket in tickets]
        batch: Batch[Delivery] = Batch(Lane("text", 1), tuple(rows))
        await self.executor.run(batch, lambda: self.effects.append("inferred"))
        return [kept.outcome if (kept := self.ledger.kept.get(it.id)) else None for it in tickets]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(outages, "RETRY_S_FIRST", 0.0)
    stage = Stage()
    yield stage
    stage.encoder.close()


def text(value: object, **files: File) -> Ticket:
    return Ticket(fresh_id(), "text", 1, {} if files else {"in": value}, files)


def file(content: bytes = b"x") -> File:
    return File("application/octet-stream", len(content), SHA256, content)


def codes(outcomes: Sequence[Outcome | None]) -> list[str]:
    """`succeeded`, or the code of the error."""
    return [it.error.code if it and it.error else it.status.value if it else "" for it in outcomes]


async def test_the_outcome_is_recorded_before_it_is_announced_and_announced_before_the_ack(
    stage: Stage,
) -> None:
    outcomes = await stage.run(text(None, **{"in": file()}), text("b"))
    assert stage.effects == [
        "infer 2", "inferred", "keep", "record", "announce", "ack", "ack",
    ]  # fmt: skip
    assert codes(outcomes) == ["succeeded", "succeeded"]
    assert stage.broker.announced == outcomes


async def test_a_row_that_cannot_be_encoded_fails_alone(stage: Stage) -> None:
    outcomes = await stage.run(text("a"), text(["too", "many"]), text("c"))
    assert codes(outcomes) == ["succeeded", "invalid_input", "succeeded"]
    assert stage.effects[0] == "infer 2"


async def test_what_the_ledger_knew_before_is_not_announced_again(stage: Stage) -> None:
    """Somebody was faster: their outcome is the outcome, and two would be two answers."""
    ticket, other = text("a"), text("b")
    await stage.run(ticket)
    await stage.run(ticket, other)
    assert [it.id for it in stage.broker.announced] == [ticket.id, other.id]


async def test_a_redelivered_prediction_that_has_ended_is_acked_unrun(stage: Stage) -> None:
    ticket = text("a")
    await stage.run(ticket)
    stage.effects.clear()
    await stage.run(ticket, attempt=2)
    assert stage.effects == ["look up", "ack", "inferred", "announce"]


async def test_a_redelivered_prediction_that_has_not_ended_runs(stage: Stage) -> None:
    (outcome,) = await stage.run(text("a"), attempt=2)
    assert stage.effects[:2] == ["look up", "infer 1"]
    assert outcome is not None
    assert outcome.attempts == 2


async def test_past_its_attempts_a_prediction_is_recorded_as_failed_before_it_could_run(
    stage: Stage,
) -> None:
    assert codes(await stage.run(text("a"), attempt=6)) == ["attempts_exhausted"]
    assert stage.effects == ["look up", "inferred", "record", "announce", "ack"]
    assert codes(await stage.run(text("a"), attempt=5)) == ["succeeded"]


async def test_outcomes_are_held_while_the_ledger_is_away(stage: Stage) -> None:
    stage.ledger.away = 2
    assert codes(await stage.run(text("a"))) == ["succeeded"]
    assert stage.effects == ["infer 1", "inferred", *["record"] * 3, "announce", "ack"]


async def test_nothing_is_recorded_before_its_input_is_kept(stage: Stage) -> None:
    stage.blobs.away = 2
    await stage.run(text(None, **{"in": file()}))
    assert stage.effects == ["infer 1", "inferred", *["keep"] * 3, "record", "announce", "ack"]


# One prediction that succeeds has one file, one that fails has two.
@pytest.mark.parametrize(("keep_inputs", "kept"), [("all", 3), ("failed", 2), ("none", 0)])
async def test_the_policy_says_whose_inputs_are_kept(keep_inputs: KeepInputs, kept: int) -> None:
    stage = Stage(keep_inputs=keep_inputs)
    bad = text(None, **{"in": file(), "no such field": file()})
    await stage.run(text(None, **{"in": file()}), bad)
    stage.encoder.close()
    assert stage.effects.count("keep") == kept


async def test_an_output_the_ledger_refuses_fails_alone(stage: Stage) -> None:
    outcomes = await stage.run(text("a"), text("b\0b"), text("c"))
    assert codes(outcomes) == ["succeeded", "unrecordable", "succeeded"]
    assert {it.status for it in stage.broker.announced} == {Status.SUCCEEDED, Status.FAILED}
    assert stage.effects.count("ack") == 3


async def test_an_error_the_ledger_refuses_is_recorded_in_other_words(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's own words may hold anything, and there may be no input to leave out."""

    async def refuse(*_: object, **__: object) -> None:
        raise ModelRejected("what is \0?")

    monkeypatch.setattr(PlayedTriton, "infer", refuse)
    (outcome,) = await stage.run(text(None, **{"in": file()}))
    assert codes([outcome]) == ["unrecordable"]
    assert stage.effects.count("ack") == 1


async def test_a_version_that_is_not_served_fails_with_that_reason(stage: Stage) -> None:
    ticket = Ticket(fresh_id(), "text", 9, {"in": "a"})
    assert codes(await stage.run(ticket)) == ["unknown_model"]
    assert stage.effects == ["inferred", "record", "announce", "ack"]


async def test_a_bug_leaves_and_nothing_is_acked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(task("tensor")), "encode", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await stage.run(text("a"))
    assert stage.effects == ["inferred"]
