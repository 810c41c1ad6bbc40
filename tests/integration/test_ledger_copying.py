"""The ledger leaves Postgres whole, as it was at one moment, and arrives as it left."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from ledger import COPIED, Ledger, NotEmpty
from tests.ended import failed, new_id, succeeded

MONDAY = datetime(2026, 8, 3, tzinfo=UTC)
WEEK = timedelta(weeks=1)


@pytest.fixture
async def another_ledger(postgres_dsn: str, migrated_template: str) -> AsyncIterator[Ledger]:
    """A second one, with nothing in it."""
    name = f"another_{uuid4().hex}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    ledger = await Ledger.connect(f"{postgres_dsn.rpartition('/')[0]}/{name}")
    yield ledger
    await ledger.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def taken(ledger: Ledger) -> dict[str, bytes]:
    """What a snapshot of the ledger writes, by table."""
    found: dict[str, bytes] = {}
    async with ledger.snapshot() as snapshot:
        for table in COPIED:
            pieces: list[bytes] = []

            async def write(piece: bytes, pieces: list[bytes] = pieces) -> None:
                pieces.append(piece)

            await snapshot.copy(table, write)
            found[table] = b"".join(pieces)
    return found


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100):
        yield content[start : start + 100]


async def test_what_was_copied_out_and_in_is_the_same_to_the_byte(
    ledger: Ledger, another_ledger: Ledger
) -> None:
    predictions = [
        succeeded(new_id(int(MONDAY.timestamp() * 1000)), output=b'{"a": "\\u0000 \\\\n\\t"}'),
        succeeded(new_id(5), input={"text": "tab\t newline\n null \\N é"}, deadline_ms=1),
        failed(message="line\nbreak \\. end", retry_of=new_id()),
    ]
    await ledger.ensure_partitions(MONDAY)
    await ledger.record(predictions)
    begun = new_id()
    await ledger.begin([begun])
    await ledger.begin([begun])
    content = await taken(ledger)

    async with another_ledger.filling("a backup") as filling:
        await filling.add_weeks([MONDAY.date()])
        await filling.move_horizon(MONDAY - WEEK)
        for table, columns in COPIED.items():
            await filling.copy(table, columns, in_pieces(content[table]))

    assert await another_ledger.get_many(each.id for each in predictions) == {
        each.id: each for each in predictions
    }
    assert await taken(another_ledger) == content
    assert await another_ledger.begin([begun]) == {begun: 3}
    assert await another_ledger.horizon() == MONDAY - WEEK
    async with another_ledger.snapshot() as snapshot:
        assert MONDAY.date() in await snapshot.weeks()


async def test_a_snapshot_is_of_one_moment_and_holds_up_nobody(ledger: Ledger) -> None:
    before, after = succeeded(), succeeded()
    await ledger.record([before])
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    async with ledger.snapshot() as snapshot:
        assert await snapshot.weeks() == []
        assert await ledger.record([after]) == {after.id}
        assert await snapshot.copy("predictions", write) == 1


async def test_a_ledger_is_filled_whole_or_not_at_all(ledger: Ledger) -> None:
    async def cut_off() -> None:
        async with ledger.filling("a backup") as filling:
            await filling.add_weeks([MONDAY.date()])
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        await cut_off()

    assert await ledger.restoring() is None
    async with ledger.filling("a backup"):
        pass
    assert await ledger.restoring() == "a backup"
    with pytest.raises(NotEmpty, match="another"):
        async with ledger.filling("another"):
            pass
    await ledger.restored()
    assert await ledger.restoring() is None


async def test_only_an_empty_ledger_is_filled(ledger: Ledger) -> None:
    await ledger.record([succeeded()])

    with pytest.raises(NotEmpty, match="outcomes"):
        async with ledger.filling("a backup"):
            pass
    assert await ledger.restoring() is None
