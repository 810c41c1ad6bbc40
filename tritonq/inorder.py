"""Runs work on many items at once and hands the results out in the order of the items."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


AHEAD_PER_SLOT = 4  # how far results may run ahead of a slow one before them

# Requests at once, of however many predictions are under way. Predictions end about in the order
# of their submits, so the first few waits are answered and the next ones find theirs ended: more
# connections would bring nothing, and the pool's work grows with their square.
SUBMITS_AT_ONCE = 8
WAITS_AT_ONCE = 8


class Turns:
    """Who may submit and who may wait now; first come, first served."""

    def __init__(self) -> None:
        self.submit = asyncio.Semaphore(SUBMITS_AT_ONCE)
        self.wait = asyncio.Semaphore(WAITS_AT_ONCE)


async def in_order(
    work: Callable[[Given], Awaitable[Made]], items: Iterable[Given], *, at_once_max: int
) -> AsyncGenerator[Made, None]:
    """Yield `work(item)` for every item, in order; at most `at_once_max` run at once.

    Items are drawn as there is room, and results that wait for a slow one before them are
    bounded too. When the caller stops early, or a piece of work raises, the rest is cancelled.
    """
    assert at_once_max >= 1
    slots = asyncio.Semaphore(at_once_max)
    remaining = iter(items)
    started: deque[asyncio.Future[Made]] = deque()

    async def in_a_slot(item: Given) -> Made:
        async with slots:
            return await work(item)

    try:
        while True:
            room = at_once_max * AHEAD_PER_SLOT - len(started)
            for item in islice(remaining, room):
                started.append(asyncio.ensure_future(in_a_slot(item)))
            if not started:
                return
            yield await started[0]
            started.popleft()
    finally:
        for future in started:
            future.cancel()
        await asyncio.gather(*started, return_exceptions=True)
