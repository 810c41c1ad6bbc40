"""One suspect runs at a time, also where one of them is canceled while it stands aside."""

import asyncio
from contextlib import suppress

import pytest

from dispatcher.turn import Turn


@pytest.mark.parametrize("is_back", [True, False], ids=["waits to go on", "stands aside"])
async def test_who_is_canceled_aside_takes_nothing_from_the_one_whose_turn_it_is(
    is_back: bool,
) -> None:
    turn = Turn()
    model_is_back, may_end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def stands_aside() -> None:
        async with turn.taken():
            async with turn.aside():
                await model_is_back.wait()
            ran.append("first")

    async def runs(name: str) -> None:
        async with turn.taken():
            ran.append(name)
            await may_end.wait()

    async def settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    first = asyncio.create_task(stands_aside())
    await settled()
    second = asyncio.create_task(runs("second"))
    await settled()
    third = asyncio.create_task(runs("third"))
    await settled()
    if is_back:
        model_is_back.set()
        await settled()
    first.cancel()
    await settled()

    assert first.done()  # without waiting for its turn
    assert ran == ["second"]  # the third one still waits
    may_end.set()
    async with asyncio.timeout(5):
        await asyncio.gather(second, third)
    assert ran == ["second", "third"]
    with suppress(asyncio.CancelledError):
        await first
