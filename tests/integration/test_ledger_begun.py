"""How often runs of a prediction were begun, and what is kept, as dispatchers ask the ledger."""

import asyncio

import asyncpg

from ledger import Ledger
from tests.ended import new_id, succeeded


async def test_each_beginning_is_counted_once(ledger: Ledger) -> None:
    first, second = new_id(), new_id()

    assert await ledger.begin([first]) == {first: 1}
    assert await ledger.begin([first, second, first]) == {first: 2, second: 1}
    assert await ledger.begin([]) == {}
    assert await ledger.begun([first, second, new_id()]) == {first: 2, second: 1}


async def test_dispatchers_that_begin_the_same_at_once_count_exactly(
    ledger: Ledger, ledger_dsn: str
) -> None:
    """In whatever order each names them: nobody waits for somebody who waits for it."""
    other = await Ledger.connect(ledger_dsn)
    ids = [new_id() for _ in range(50)]
    orders = [ids, ids[::-1]] * 10

    counts = await asyncio.gather(
        *[each.begin(order) for each in (ledger, other) for order in orders]
    )

    for each in ids:
        assert sorted(count[each] for count in counts) == list(range(1, 41))
    await other.close()


async def test_beginning_leaves_no_trace_among_the_outcomes(
    ledger: Ledger, ledger_dsn: str
) -> None:
    """It works while somebody holds every row of them."""
    ended = succeeded()
    await ledger.record([ended])
    connection = await asyncpg.connect(ledger_dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        assert await ledger.begin([ended.id, new_id()])
    await connection.close()
    assert await ledger.get(ended.id) == ended


async def test_the_oldest_is_found_wherever_it_lies(ledger: Ledger) -> None:
    assert await ledger.oldest() is None
    newer, older = succeeded(), succeeded(new_id(5))

    await ledger.record([newer])
    assert await ledger.oldest() == newer.id
    await ledger.record([older])
    assert await ledger.oldest() == older.id


async def test_nothing_has_been_removed_at_first(ledger: Ledger) -> None:
    assert await ledger.horizon() is None
