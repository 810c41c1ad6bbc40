"""An executor whose parts are played: what each was asked for, in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blobs import Blobs, NewBlob
from broker import Broker, Delivery
from contract.catalog import Lane, Model, Tensor
from contract.errors import (
    BlobsUnavailable,
    LedgerUnavailable,
    ModelUnavailable,
)
from contract.ids import PredictionId
from contract.prediction import File, Outcome, Prediction, Ticket
from dispatcher.batching import Batch
from dispatcher.encode import Encoder
from dispatcher.execute import ExecutionLimits, Executor, KeepInputs, Parts
from dispatcher.health import ModelHealth
from dispatcher.outages import Outage
from dispatcher.turn import Turn
from inference import Input, Triton
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
        self.unreadable, self.withdrawn = "", False
        self.size = len(ticket.to_bytes())
        self._effects = effects

    async def ack(self) -> None:
        self._effects.append("ack")

    async def give_back(self, delay_s: float = 0.0) -> None:
        self._effects.append("give back, delayed" if delay_s else "give back")


class PlayedTriton(Triton):
    def __init__(self, effects: Effects) -> None:
        super().__init__("nowhere:0")
        self._effects = effects
        self.meanwhile: Callable[[], None] = lambda: None
        self.until: Callable[[], Awaitable[object]] | None = None  # it takes so long
        self.failures: list[Exception] = []  # raised one after the other

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        self._effects.append(f"infer {len(inputs['in'])}")
        self.meanwhile()
        if self.until is not None:
            await self.until()
        if self.failures:
            raise self.failures.pop(0)
        return {"out": np.asarray(inputs["in"])}


class PlayedLedger(Ledger):
    """Keeps the first outcome; refuses a NUL; may be away at first."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.kept: dict[PredictionId, Prediction] = {}
        self.away = 0
        self.counts: dict[PredictionId, int] = {}
        self.answers_lost = 0

    async def ended(self, ids: Any) -> set[PredictionId]:
        self._effects.append("look up")
        return {each for each in ids if each in self.kept}

    async def begun(self, ids: Any) -> dict[PredictionId, int]:
        return {each: self.counts[each] for each in ids if each in self.counts}

    async def begin(self, ids: Any) -> dict[PredictionId, int]:
        ids = list(ids)
        self._effects.append(f"begin {len(ids)}")
        self.counts |= {each: self.counts.get(each, 0) + 1 for each in ids}
        if self.answers_lost:
            self.answers_lost -= 1
            raise LedgerUnavailable("Postgres went away after it had counted")
        return {each: self.counts[each] for each in ids}

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
        self.kept = asyncio.Event()

    def puts(self, blobs: Sequence[NewBlob]) -> list[Callable[[], Awaitable[None]]]:
        return [self._put_one for _ in blobs]

    async def _put_one(self) -> None:
        self._effects.append("keep")
        if self.away:
            self.away -= 1
            raise BlobsUnavailable("the store does not answer")
        self.kept.set()


class PlayedBroker(Broker):
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.announced: list[Outcome] = []

    async def announce(self, outcomes: list[Outcome]) -> None:
        self._effects.append("announce")
        self.announced += outcomes


class QuickHealth(ModelHealth):
    """A model that is back as soon as somebody asks."""

    async def recover(
        self, error: ModelUnavailable | None = None, *, thorough: bool = False
    ) -> None:
        pass


class Stage:
    def __init__(self, *, keep_inputs: KeepInputs = "all") -> None:
        self.effects: Effects = []
        self.ledger = PlayedLedger(self.effects)
        self.blobs = PlayedBlobs(self.effects)
        self.broker = PlayedBroker(self.effects)
        self.triton, blobs_outage = PlayedTriton(self.effects), Outage("blobs")
        self.now_ms = 1_800_000_000_000
        self.encoder = Encoder(2, self.blobs, blobs_outage)
        parts = Parts(
            triton=self.triton,
            ledger=self.ledger,
            blobs=self.blobs,
            broker=self.broker,
            encoder=self.encoder,
            ledger_outage=Outage("ledger"),
            blobs_outage=blobs_outage,
            now_ms=lambda: self.now_ms,
        )
        limits = ExecutionLimits(attempts_max=5, infer_timeout_s=1, keep_inputs=keep_inputs)
        health = QuickHealth(TEXT, self.triton, Path())
        self.executor = Executor(TEXT, task("tensor"), health, parts, limits)

    async def run(self, *tickets: Ticket, attempt: int = 1) -> list[Outcome | None]:
        """Run the tickets as one batch; the outcome the ledger keeps of each."""
        await self.run_batch([self.delivery(ticket, attempt) for ticket in tickets])
        return [self.outcome(it) for it in tickets]

    async def run_batch(
        self, deliveries: Sequence[Delivery], turn: Turn | None = None
    ) -> list[Delivery]:
        batch: Batch[Delivery] = Batch(Lane("text", 1), tuple(deliveries))
        return await self.executor.run(batch, lambda: self.effects.append("inferred"), turn)

    async def run_suspect(self, ticket: Ticket, attempt: int = 3) -> Outcome | None:
        turn = Turn()
        async with turn.taken():
            assert await self.run_batch([self.delivery(ticket, attempt)], turn) == []
        return self.outcome(ticket)

    def delivery(self, ticket: Ticket, attempt: int = 1) -> PlayedDelivery:
        return PlayedDelivery(ticket, attempt, self.effects)

    def outcome(self, ticket: Ticket) -> Outcome | None:
        kept = self.ledger.kept.get(ticket.id)
        return kept.outcome if kept else None


def text(value: object, **files: File) -> Ticket:
    return Ticket(fresh_id(), "text", 1, {} if files else {"in": value}, files)


def file(content: bytes = b"x") -> File:
    return File("application/octet-stream", len(content), SHA256, content)


def codes(outcomes: Sequence[Outcome | None]) -> list[str]:
    """`succeeded`, or the code of the error."""
    return [it.error.code if it and it.error else it.status.value if it else "" for it in outcomes]
