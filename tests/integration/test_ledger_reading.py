"""Pages of the ledger, and the plans Postgres makes for every read."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from contract.prediction import Status
from ledger import Ledger, statements
from tests.ended import failed, new_id, succeeded

MONDAY_MS = 1_795_392_000_000  # 2026-11-23
WEEK_MS = 7 * 24 * 3600 * 1000


async def walk(ledger: Ledger, **filters: Any) -> list[str]:
    """The ids of all pages of three."""
    ids: list[str] = []
    while page := await ledger.page(before=ids[-1] if ids else None, rows_max=3, **filters):  # type: ignore[arg-type]
        ids.extend(prediction.id for prediction in page)
    return ids


async def test_pages_come_newest_first_and_filters_narrow_them(ledger: Ledger) -> None:
    everything = [
        (failed if number % 4 == 0 else succeeded)(
            new_id(MONDAY_MS + number), owner=f"owner{number % 2}", model=f"model{number % 3}"
        )
        for number in range(25)
    ]
    await ledger.record(everything)

    for owner in (None, "owner1", "nobody", "no\0body"):
        for model in (None, "model2"):
            for status in (None, Status.SUCCEEDED, Status.FAILED, Status.CANCELED):
                expected = [
                    each.id
                    for each in reversed(everything)
                    if owner in (None, each.ticket.owner)
                    and model in (None, each.ticket.model)
                    and each.outcome is not None
                    and status in (None, each.outcome.status)
                ]
                assert await walk(ledger, owner=owner, model=model, status=status) == expected
    assert await ledger.page(before=None, rows_max=1) == everything[-1:]


async def test_a_walk_repeats_and_omits_nothing_while_rows_are_inserted(ledger: Ledger) -> None:
    at_first = [succeeded(new_id(MONDAY_MS + 10 * number)) for number in range(20)]
    await ledger.record(at_first)

    seen: list[str] = []
    while page := await ledger.page(before=seen[-1] if seen else None, rows_max=3):  # type: ignore[arg-type]
        seen.extend(each.id for each in page)
        # Newer ones, and ones that were accepted in between and have ended only now.
        await ledger.record(
            [succeeded(), succeeded(new_id(MONDAY_MS + 95 + len(seen))), succeeded(new_id(5))]
        )

    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert {each.id for each in at_first} <= set(seen)


ROWS = 20_000
EMPTY_PARTITIONS = {"predictions_default"} | {
    f"predictions_2026_{week}" for week in ("10_26", "11_30", "12_07", "12_14", "12_21")
}

# Four weeks of predictions, by owners and models of very different diligence.
FILL = f"""
    INSERT INTO predictions
    SELECT (left(first_id_at(to_timestamp(({MONDAY_MS} - 3 * {WEEK_MS}
                + n * (4 * {WEEK_MS}::bigint / {ROWS})) / 1000.0))::text, 14)
            || '7' || substr(gen_random_uuid()::text, 16))::uuid,
        CASE WHEN n % 1999 = 0 THEN 'rare' ELSE 'model' || n % 3 END, 1, 'normal',
        CASE WHEN n % 1777 = 0 THEN 'rare' ELSE 'owner' || n % 5 END, '{{}}', '{{}}',
        CASE WHEN n % 200 = 0 THEN 'failed' ELSE 'succeeded' END,
        CASE WHEN n % 200 <> 0 THEN '{{}}'::json END,
        CASE WHEN n % 200 = 0 THEN 'bad' END, CASE WHEN n % 200 = 0 THEN 'bad' END,
        1, now(), now(), 1, 1
    FROM generate_series(0, {ROWS} - 1) AS n
"""


@pytest.fixture(scope="module")
async def filled(postgres_dsn: str, migrated_template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a ledger of ROWS rows in four weeks' partitions."""
    name = f"filled_{uuid4().hex}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    dsn = f"{postgres_dsn.rpartition('/')[0]}/{name}"
    ledger = await Ledger.connect(dsn)
    for weeks_ago in (2, 0):  # each makes the week before, too, and more ahead
        now_s = (MONDAY_MS - weeks_ago * WEEK_MS) / 1000
        await ledger.ensure_partitions(datetime.fromtimestamp(now_s, UTC))
    await ledger.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute(FILL)
    await connection.execute("VACUUM ANALYZE")
    yield connection
    await connection.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


class Plan:
    """What Postgres did for a statement: the scans it ran, and the rows it read in vain."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.nodes: set[str] = set()
        self.indexes: set[str] = set()  # without the names of their partitions
        self.partitions: set[str] = set()
        self.rows_removed = 0
        self._visit(root)

    def _visit(self, node: dict[str, Any]) -> None:
        # Nothing is read from a partition without rows, so any plan for it is as good.
        if node["Actual Loops"] == 0 or node.get("Relation Name") in EMPTY_PARTITIONS:
            return
        self.nodes.add(node["Node Type"])
        self.rows_removed += node.get("Rows Removed by Filter", 0)
        if "Relation Name" in node:
            self.partitions.add(node["Relation Name"])
        if "Index Name" in node:
            self.indexes.add(re.sub(r"^predictions_(default|[0-9_]{10})_", "", node["Index Name"]))
        for child in node.get("Plans", ()):
            self._visit(child)


async def plan(
    connection: asyncpg.Connection, mode: str, statement: str, types: str, *values: str
) -> Plan:
    """Prepare a statement as asyncpg does, and see how it is run with these values."""
    await connection.execute(f"SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE asked ({types}) AS {statement}")
    try:
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked ({', '.join(values)})"
        )
    finally:
        await connection.execute("DEALLOCATE asked")
    return Plan(json.loads(explained)[0]["Plan"])


# Postgres plans a prepared statement anew a few times, and then settles on a plan for any values.
both_modes = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


async def some_ids(connection: asyncpg.Connection, count: int) -> list[str]:
    rows = await connection.fetch("SELECT id FROM predictions ORDER BY id DESC LIMIT $1", count)
    return [f"'{row['id']}'" for row in rows]


@both_modes
async def test_a_prediction_is_found_by_its_key_in_the_one_partition_it_can_be_in(
    filled: asyncpg.Connection, mode: str
) -> None:
    [some_id] = await some_ids(filled, 1)

    found = await plan(filled, mode, statements.GET, "uuid", some_id)

    assert found.indexes == {"pkey"}
    assert len(found.partitions) == 1


@both_modes
@pytest.mark.parametrize("statement", [statements.GET_MANY, statements.ENDED])
async def test_many_predictions_are_found_by_their_keys(
    filled: asyncpg.Connection, mode: str, statement: str
) -> None:
    ids = f"ARRAY[{', '.join(await some_ids(filled, 64))}]::uuid[]"

    found = await plan(filled, mode, statement, "uuid[]", ids)

    assert found.indexes == {"pkey"}
    assert "Seq Scan" not in found.nodes


PAGES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "newest": ({}, [], "pkey"),
    "by owner": ({"owner": True}, ["'owner3'"], "owner_id_idx"),
    "by rare owner": ({"owner": True}, ["'rare'"], "owner_id_idx"),
    "by unknown owner": ({"owner": True}, ["'nobody'"], "owner_id_idx"),
    "by model": ({"model": True}, ["'model2'"], "model_id_idx"),
    "by rare model": ({"model": True}, ["'rare'"], "model_id_idx"),
    "succeeded": ({"status": Status.SUCCEEDED}, [], "pkey"),
    "failed": ({"status": Status.FAILED}, [], "status_id_idx"),
    "canceled": ({"status": Status.CANCELED}, [], "status_id_idx"),
}
FEW = {"by rare owner", "by unknown owner", "by rare model", "canceled"}


@both_modes
@pytest.mark.parametrize("case", PAGES)
async def test_a_page_is_read_from_the_index_that_has_its_rows_in_order(
    filled: asyncpg.Connection, mode: str, case: str
) -> None:
    filters, values, index = PAGES[case]
    statement = statements.page(**{"owner": False, "model": False, "status": None, **filters})
    types = ", ".join(["uuid", "bigint", *["text" for _ in values]])
    for [before] in (["'ffffffff-ffff-ffff-ffff-ffffffffffff'"], await some_ids(filled, 1)):
        found = await plan(filled, mode, statement, types, before, "50", *values)

        assert found.indexes == {index}
        assert "Seq Scan" not in found.nodes
        assert found.rows_removed <= 10, "rows were read to be thrown away"
        # For a handful of rows in all, the planner may prefer to sort them.
        assert "Sort" not in found.nodes or case in FEW


@both_modes
async def test_a_later_page_does_not_look_into_newer_partitions(
    filled: asyncpg.Connection, mode: str
) -> None:
    statement = statements.page(owner=False, model=False, status=None)
    two_weeks_ago = await filled.fetchval(
        "SELECT first_id_at(to_timestamp($1))", (MONDAY_MS - 2 * WEEK_MS) / 1000
    )

    found = await plan(filled, mode, statement, "uuid, bigint", f"'{two_weeks_ago}'", "50")

    assert max(found.partitions) == "predictions_2026_11_02"
