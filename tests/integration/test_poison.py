"""Inputs that bring a model down, through the whole path: each fails alone, and says why."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker import Broker
from contract.prediction import Outcome
from ledger import Ledger
from standalone.triton import Triton
from tests import services
from tests.dispatching import House, dispatching
from tests.onnx_models import CRASHES, DEVOURS, HANGS, LOSES_ROWS, RAISES
from tests.poison import (
    ENDS_STUB,
    INNOCENT,
    MODELS,
    POISONOUS,
    SCRIPT,
    TWINS,
    Unfit,
    supervised_triton,
    ticket,
    write_models,
)

pytestmark = pytest.mark.triton

DEADLINE_S = 60.0
PLACE = 20  # of the poison among the others: in the second batch of eight, or the third


@pytest.fixture(scope="module")
async def poisoned(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Path, Triton, Unfit]]:
    repository = tmp_path_factory.mktemp("repository")
    write_models(repository)
    folder = tmp_path_factory.mktemp("triton")
    async with supervised_triton(folder, repository) as (server, unfit, _):
        assert await server.unready_models() == {}
        yield repository, server, unfit


@pytest.fixture
async def house(
    nats_server: services.NatsAddress,
    namespace: str,
    ledger_dsn: str,
    poisoned: tuple[Path, Triton, Unfit],
    tmp_path: Path,
    broker: Broker,
    ledger: Ledger,
) -> House:
    await broker.declare(MODELS)
    repository, server, _ = poisoned
    house = House(nats_server, namespace, ledger_dsn, server.grpc_address, tmp_path, broker, ledger)
    house = replace(house, repository=repository, models=MODELS)
    return house.with_limits(execution=replace(house.limits.execution, attempts_max=2))


async def ran(house: House, unfit: Unfit, model: str, poison: int) -> tuple[Outcome, list[Outcome]]:
    """Run `poison` among forty others; its outcome, and those of the others."""
    numbers = [*range(100, 100 + PLACE), poison, *range(200, 220)]
    async with dispatching(house) as dispatcher:
        unfit.models = lambda: dispatcher.health()[1]["models"]
        ids, others = await asyncio.gather(
            house.accept(ticket(model, number) for number in numbers),
            house.accept(ticket(INNOCENT, number) for number in range(20)),
        )
        outcomes = await house.outcomes([*ids, *others], deadline_s=DEADLINE_S)
        await house.emptied()
    return outcomes.pop(PLACE), outcomes


@pytest.mark.parametrize(
    ("model", "poison", "words"),
    [
        (POISONOUS, CRASHES, "the model's process was ended by SIGFPE on this input"),
        (TWINS, CRASHES, "the model's process was ended by SIGFPE on this input"),
        (TWINS, HANGS, "the model overran the 3 s of one execution on this input"),
        (POISONOUS, DEVOURS, "Failed to allocate memory"),
        (POISONOUS, RAISES, "indices element out of data bounds"),
        (POISONOUS, LOSES_ROWS, "output 'y' has shape (0, 1) for a batch of 1"),
        (SCRIPT, ENDS_STUB, "the model went down each time it was given this input"),
    ],
)
async def test_a_poisonous_input_fails_alone_with_the_reason(
    house: House,
    poisoned: tuple[Path, Triton, Unfit],
    model: str,
    poison: int,
    words: str,
) -> None:
    guilty, innocent = await ran(house, poisoned[2], model, poison)
    assert guilty.error is not None
    assert guilty.error.code == "inference_failed"
    assert words in guilty.error.message
    assert [it.error for it in innocent] == [None] * len(innocent)
