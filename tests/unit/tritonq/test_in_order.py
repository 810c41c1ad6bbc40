"""Work at once, results in order, nothing without bound."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonq.inorder import AHEAD_PER_SLOT, in_order


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 8))
def test_results_keep_the_order_and_no_more_run_at_once_than_allowed(
    turns: list[int], at_once_max: int
) -> None:
    running = most = 0

    async def work(item: tuple[int, int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(item[1]):
            await asyncio.sleep(0)
        running -= 1
        return item[0]

    async def scenario() -> list[int]:
        items = list(enumerate(turns))
        return [made async for made in in_order(work, items, at_once_max=at_once_max)]

    assert asyncio.run(scenario()) == list(range(len(turns)))
    assert most <= at_once_max


async def test_a_slow_first_one_bounds_how_far_the_others_run_ahead() -> None:
    drawn = 0
    first_may_end = asyncio.Event()

    def endless() -> Iterator[int]:
        nonlocal drawn
        while True:
            yield drawn
            drawn += 1

    async def work(item: int) -> int:
        if item == 0:
            await first_may_end.wait()
        return item

    async with aclosing(in_order(work, endless(), at_once_max=2)) as results:
        first = asyncio.ensure_future(anext(results))
        for _ in range(200):
            await asyncio.sleep(0)
        assert drawn <= 2 * AHEAD_PER_SLOT
        first_may_end.set()
        assert await first == 0


async def test_an_error_and_a_caller_who_leaves_both_cancel_the_rest() -> None:
    cancelled: list[int] = []

    async def work(item: int) -> int:
        if item == 0:
            raise ValueError("zero")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(item)
        return item

    with pytest.raises(ValueError, match="zero"):
        async for _ in in_order(work, range(3), at_once_max=3):
            pass
    assert cancelled == [1, 2]

    results = in_order(work, range(1, 3), at_once_max=3)
    waiting = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert cancelled == [1, 2, 1, 2]
