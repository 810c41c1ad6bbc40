"""Readiness from what dispatchers told and the services answer; the clock is ours."""

import asyncio
from typing import cast

import pytest

from broker import Broker
from contract.announcements import DispatcherStatus
from contract.errors import LedgerUnavailable
from gateway.health import DISPATCHERS_MAX, FRESH_S, HEARD_S_MAX, Health
from ledger import Ledger


class Part:
    """A service that answers, fails or hangs."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, *models: str) -> None:
        self.ledger, self.broker, self.clock = Part(), Part(), Clock()
        self.health = Health(
            cast("Ledger", self.ledger), cast("Broker", self.broker), models, self.clock
        )

    async def missing(self) -> dict[str, str]:
        self.clock.now += FRESH_S * 1.01
        readiness = await self.health.readiness()
        assert readiness.ready == (not readiness.missing)
        return readiness.missing


async def test_everything_is_ready_once_a_dispatcher_serves_every_model() -> None:
    world = World("a", "b")
    assert set(await world.missing()) == {"dispatcher"}
    world.health.heard(DispatcherStatus("one", {"a": ""}))
    assert await world.missing() == {"model:b": "no dispatcher serves it"}
    world.health.heard(DispatcherStatus("two", {"a": "loading", "b": ""}))
    assert await world.missing() == {}


async def test_a_dispatcher_that_fell_silent_no_longer_counts() -> None:
    world = World("a")
    world.health.heard(DispatcherStatus("one", {"a": ""}))
    assert await world.missing() == {}
    world.clock.now += HEARD_S_MAX
    assert set(await world.missing()) == {"dispatcher"}


async def test_a_part_that_comes_is_seen_within_a_fifth_of_a_second() -> None:
    world = World("a")
    assert set(await world.missing()) == {"dispatcher"}
    world.health.heard(DispatcherStatus("one", {"a": ""}))
    world.clock.now += 0.2
    assert (await world.health.readiness()).ready


async def test_a_dispatcher_that_cannot_record_is_as_good_as_none() -> None:
    world = World("a")
    world.health.heard(DispatcherStatus("one", {"a": ""}, ledger="Postgres is away"))
    assert await world.missing() == {"dispatcher": "outcomes cannot be recorded: Postgres is away"}
    world.health.heard(DispatcherStatus("two", {"a": ""}))
    assert await world.missing() == {}


async def test_a_service_that_fails_or_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.health.PING_S_MAX", 0.05)
    world = World()
    world.health.heard(DispatcherStatus("one"))
    world.ledger.error = LedgerUnavailable("Postgres does not answer")
    world.broker.hangs = True
    assert await world.missing() == {
        "ledger": "Postgres does not answer",
        "queue": "no answer within 0 s",
    }


async def test_however_often_it_is_asked_services_are_asked_once_a_second() -> None:
    world = World()
    await asyncio.gather(*(world.health.readiness() for _ in range(50)))
    assert (world.ledger.pings, world.broker.pings) == (1, 1)


async def test_made_up_names_cannot_fill_the_memory() -> None:
    world = World()
    for number in range(DISPATCHERS_MAX + 10):
        world.health.heard(DispatcherStatus(f"d{number}"))
    assert (await world.health.readiness()).dispatchers == DISPATCHERS_MAX
