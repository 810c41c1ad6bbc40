"""What the ledger's statements cost as it grows: 10,000 to 10,000,000 rows.

    python -m benchmarks.ledger                                  # up to a million, two minutes
    python -m benchmarks.ledger --rows 10000 10000000 --json benchmarks/ledger.json

For each size a database is filled with rows like those of image classification: spread over the
weeks of the retention, over owners and models, two in a hundred failed. Then the product's own
`Ledger` reads and records, one statement at a time, and Postgres is asked for the plan of every
page: a statement that reads more than the page is a walk, and is named. Ten million rows take
about 10 GB of disk, in a temporary folder.

Postgres runs with the settings of `tritonq up` (128 MB of shared buffers, commits synced to disk).
"cold": after a restart, with the files out of the system's cache.
"""

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from benchmarks.results import finish, parser_of, quantiles_ms, table, tell
from contract.ids import PredictionId, from_uuid, new_prediction_id, to_uuid
from contract.prediction import Failure, File, Outcome, Prediction, Status, Ticket
from ledger import Ledger, statements
from ledger.schema import monday_of
from standalone.postgres import Postgres
from standalone.server import start
from tests.services import free_ports

WEEKS = 14  # 90 days of retention, and the weeks that wait for their last row
WEEK_MS = 7 * 24 * 3600 * 1000
PAGE = 100  # rows; as many as the API gives
GETS, PAGES = 2000, 200
RECORDING_S = 3.0
FILLERS = 2  # connections
CHUNK_ROWS = 50_000

OUTPUT = json.dumps(
    [
        {"label": label, "index": index, "score": score}
        for label, index, score in (
            ("tabby, tabby cat", 281, 0.51684475),
            ("Egyptian cat", 285, 0.23419023),
            ("tiger cat", 282, 0.18104781),
            ("lynx, catamount", 287, 0.013214402),
            ("plastic bag", 728, 0.0042158226),
        )
    ],
    separators=(",", ":"),
)
FILES = '{"image":{"media_type":"image/jpeg","size":51234,"sha256":"%s"}}' % ("ab" * 32)
MODELS = ("efficientnet_lite0", "efficientnet_lite0_int8", "identity")
RARE = "one_in_100000"
# Row n was accepted at an even distance after row n - 1; its id can be computed from n.
FILL = f"""
    INSERT INTO predictions
    SELECT (left(first_id_at(moment)::text, 14) || '7' || substr(hash, 1, 3) || '-8'
            || substr(hash, 4, 3) || '-' || substr(hash, 7, 12))::uuid,
        CASE WHEN n % 100000 = 7 THEN '{RARE}'
             ELSE (ARRAY['{MODELS[0]}', '{MODELS[1]}'])[1 + n % 2] END,
        1, 'normal',
        CASE WHEN n % 100000 = 9 THEN '{RARE}'
             ELSE 'owner' || ('x' || substr(hash, 20, 4))::bit(16)::int % 20 END,
        '{{"top_k":5}}', '{FILES}',
        CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'succeeded' END,
        CASE WHEN n % 50 <> 0 THEN '{OUTPUT}'::json END,
        CASE WHEN n % 50 = 0 THEN 'invalid_input' END,
        CASE WHEN n % 50 = 0 THEN 'input.image: this is not an image that can be decoded' END,
        1, moment + interval '12 ms', moment + interval '26 ms', 12.25, 13.5
    FROM (SELECT n, md5(n::text) AS hash,
                 to_timestamp(($1::bigint + n * $2::float8) / 1000.0) AS moment
          FROM generate_series($3::bigint, $4::bigint) AS n) AS numbered
"""


class Filled:
    """A ledger with `rows` rows, of which every id is known."""

    def __init__(self, rows: int, now_ms: int) -> None:
        self.rows = rows
        monday = datetime.combine(
            monday_of(datetime.fromtimestamp(now_ms / 1000, UTC)), datetime.min.time(), UTC
        )
        self.first_ms = int(monday.timestamp() * 1000) - (WEEKS - 1) * WEEK_MS
        self.step_ms = (now_ms - 1000 - self.first_ms) / rows

    def id(self, number: int) -> PredictionId:
        # As the server computes it: microseconds rounded, then milliseconds cut.
        accepted_ms = round((self.first_ms + number * self.step_ms) * 1000) // 1000
        digits = hashlib.md5(str(number).encode()).hexdigest()
        text = f"{accepted_ms:012x}7{digits[:3]}8{digits[3:6]}{digits[6:18]}"
        return from_uuid(UUID(text))

    def some(self, count: int) -> list[PredictionId]:
        return [self.id(random.randrange(self.rows)) for _ in range(count)]


async def fill(dsn: str, filled: Filled) -> None:
    numbers = iter(range(0, filled.rows, CHUNK_ROWS))

    async def one() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute("SET synchronous_commit = off")
        for first in numbers:
            last = min(first + CHUNK_ROWS, filled.rows) - 1
            span = (filled.first_ms, filled.step_ms, first, last)
            await connection.execute(FILL, *span, timeout=600)
            if first % 1_000_000 == 0 and first:
                tell(f"{first:,} rows")
        await connection.close()

    await asyncio.gather(*(one() for _ in range(FILLERS)))


async def timed(count: int, effect: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    took_s = []
    for number in range(count):
        began_s = time.perf_counter()
        await effect(number)
        took_s.append(time.perf_counter() - began_s)
    return quantiles_ms(took_s)


FILTERS: dict[str, dict[str, Any]] = {
    "by time": {},
    "by owner": {"owner": "owner3"},
    "by rare owner": {"owner": RARE},
    "by model": {"model": MODELS[0]},
    "by rare model": {"model": RARE},
    "failed": {"status": Status.FAILED},
    "canceled (none)": {"status": Status.CANCELED},
    "succeeded": {"status": Status.SUCCEEDED},
    # Two filters at once, which the ledger can and the API does not offer. One index is used.
    "failed of an owner": {"status": Status.FAILED, "owner": "owner3"},
    "failed of a model (none is)": {"status": Status.FAILED, "model": MODELS[1]},
    "of an owner and a model": {"owner": "owner3", "model": MODELS[0]},
    "of an owner and a rare model": {"owner": "owner3", "model": RARE},
}


async def reads(ledger: Ledger, filled: Filled) -> dict[str, dict[str, float]]:
    known, unknown = filled.some(GETS), [new_prediction_id(_now_ms(), os.urandom(10))]

    async def get(number: int) -> None:
        assert await ledger.get(known[number]) is not None

    figures = {
        "GET": await timed(GETS, get),
        "GET, unknown id": await timed(GETS, lambda _: ledger.get(unknown[0])),
        "GET of 64": await timed(PAGES, lambda n: ledger.get_many(known[n : n + 64])),
        "ended, of 64": await timed(PAGES, lambda n: ledger.ended(known[n : n + 64])),
        "oldest": await timed(PAGES, lambda _: ledger.oldest()),
    }
    deep = filled.id(filled.rows // 10)  # nine tenths are newer
    for name, filters in FILTERS.items():
        for where, before in (("first", None), ("deep", deep)):

            async def page(
                _: int, before: PredictionId | None = before, filters: Any = filters
            ) -> object:
                return await ledger.page(before=before, rows_max=PAGE, **filters)

            once = await timed(1, page)
            count = PAGES if once["p50_ms"] < 100 else 5
            figures[f"{name}, {where} page"] = await timed(count, page)
    return figures


async def plans(dsn: str, filled: Filled) -> dict[str, dict[str, Any]]:
    """How Postgres runs each page, with custom and with generic plans; the worse of the two."""
    connection = await asyncpg.connect(dsn)
    deep = filled.id(filled.rows // 10)
    found: dict[str, dict[str, Any]] = {}
    for name, filters in FILTERS.items():
        statement = statements.page(
            owner="owner" in filters, model="model" in filters, status=filters.get("status")
        )
        values = [f"'{filters[it]}'" for it in ("owner", "model") if it in filters]
        types = ", ".join(["uuid", "bigint", *["text"] * len(values)])
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            await connection.execute(f"PREPARE asked ({types}) AS {statement}")
            for before in (UUID(int=(1 << 128) - 1), to_uuid(deep)):
                asked = ", ".join([f"'{before}'", str(PAGE), *values])
                explained = await connection.fetchval(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked ({asked})", timeout=600
                )
                node = json.loads(explained)[0]["Plan"]
                blocks = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
                if blocks > found.get(name, {"blocks": -1})["blocks"]:
                    found[name] = {
                        "blocks": blocks,
                        "rows": node["Actual Rows"],
                        "rows_removed": _sum(node, "Rows Removed by Filter"),
                        "scans": sorted(_scans(node)),
                        "plan": mode,
                    }
            await connection.execute("DEALLOCATE asked")
    await connection.close()
    return found


def is_walk(plan: dict[str, Any]) -> bool:
    """Whether a page was read from more than its rows, the indexes of all weeks, and some more."""
    return bool(plan["blocks"] > 2 * PAGE + 10 * (WEEKS + 6) or "Seq Scan" in plan["scans"])


def _sum(node: dict[str, Any], name: str) -> int:
    own = node.get(name, 0) * node["Actual Loops"]
    return int(own) + sum(_sum(child, name) for child in node.get("Plans", ()))


def _scans(node: dict[str, Any]) -> set[str]:
    # An empty partition is read in any way that the planner likes.
    own = set[str]()
    if node["Actual Loops"] and node["Actual Rows"] + node.get("Rows Removed by Filter", 0):
        own = {node["Node Type"]} if node["Node Type"].endswith(("Scan", "Sort")) else own
    return own.union(*(_scans(child) for child in node.get("Plans", ())))


async def recording(ledger: Ledger, batch: int) -> dict[str, float]:
    took_s = []
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < RECORDING_S:
        ended = [_ended() for _ in range(batch)]
        at_s = time.perf_counter()
        await ledger.record(ended)
        took_s.append(time.perf_counter() - at_s)
    return {**quantiles_ms(took_s), "rows_per_s": round(batch * len(took_s) / sum(took_s))}


def _ended() -> Prediction:
    now_ms = _now_ms()
    own = new_prediction_id(now_ms, os.urandom(10))
    file = File("image/jpeg", 51_234, "ab" * 32)
    ticket = Ticket(own, MODELS[0], 1, {"top_k": 5}, {"image": file}, owner="owner3")
    started_ms, completed_ms = now_ms + 12, now_ms + 26
    if random.random() < 0.02:
        failure = Failure("invalid_input", "input.image: this is not an image")
        outcome = Outcome(own, Status.FAILED, started_ms, completed_ms, 1, error=failure)
    else:
        output = OUTPUT.encode()
        outcome = Outcome(own, Status.SUCCEEDED, started_ms, completed_ms, 1, output=output)
    return Prediction(ticket, outcome)


async def sizes(dsn: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    row: Any = await connection.fetchrow(
        "SELECT sum(pg_table_size(inhrelid)) AS rows, sum(pg_indexes_size(inhrelid)) AS indexes,"
        " count(*) AS partitions FROM pg_inherits WHERE inhparent = 'predictions'::regclass"
    )
    await connection.close()
    return {
        "table_mib": int(row["rows"]) >> 20,
        "indexes_mib": int(row["indexes"]) >> 20,
        "partitions": int(row["partitions"]),
    }


async def at_size(folder: Path, rows: int) -> dict[str, Any]:
    """All figures of one size."""
    server = Postgres(folder, free_ports(1)[0], "benchmark")
    process = await start(server)
    try:
        filled = Filled(rows, _now_ms())
        ledger = await Ledger.connect(server.dsn)
        await ledger.migrate()
        for weeks_ago in range(WEEKS):
            await ledger.ensure_partitions(datetime.now(UTC) - timedelta(weeks=weeks_ago))
        began_s = time.perf_counter()
        await fill(server.dsn, filled)
        figures: dict[str, Any] = {"rows": rows, "fill_s": round(time.perf_counter() - began_s, 1)}
        tell(f"{rows:,} rows are there")
        assert await ledger.get(filled.id(rows - 1)) is not None, "ids are not as computed here"
        # Statistics come minutes after the rows: reads must not need them.
        figures["plans_without_statistics"] = await plans(server.dsn, filled)
        await _execute(server.dsn, "VACUUM ANALYZE predictions")
        figures["plans"] = await plans(server.dsn, filled)
        figures.update(await sizes(server.dsn))
        figures["reads"] = await reads(ledger, filled)
        tell("read")
        figures["recording"] = {batch: await recording(ledger, batch) for batch in (1, 16, 64)}
        await _execute(server.dsn, "CHECKPOINT")
        await process.stop()
        _evict(folder)
        process = await start(server)
        ids = filled.some(GETS)
        figures["cold"] = {"GET": await timed(200, lambda n: ledger.get(ids[n]))}
        begin_s = time.perf_counter()
        await ledger.page(before=filled.id(rows // 10), rows_max=PAGE, model=MODELS[0])
        figures["cold"]["by model, deep page"] = {
            "once_ms": round(1000 * (time.perf_counter() - begin_s), 1)
        }
        begin_s = time.perf_counter()
        before = datetime.fromtimestamp((filled.first_ms + WEEK_MS) / 1000, UTC)
        removed = await ledger.expire(before + timedelta(minutes=1))
        figures["expire_one_week"] = {
            "rows": removed,
            "s": round(time.perf_counter() - begin_s, 3),
        }
        await ledger.close()
        return figures
    finally:
        await process.stop()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement, timeout=1200)
    await connection.close()


def _evict(folder: Path) -> None:
    """Take what is stored out of the system's cache of files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def run(folder: Path | None, wanted: list[int]) -> list[dict[str, Any]]:
    measured = []
    for rows in wanted:
        with TemporaryDirectory(prefix="tritonq-ledger-", dir=folder) as name:
            Path(name).chmod(0o755)  # noqa: ASYNC240 - Postgres, run as nobody, passes through it
            measured.append(await at_size(Path(name) / "postgres", rows))
    return measured


def tables(measured: list[dict[str, Any]]) -> list[str]:
    heads = ["", *(f"{each['rows']:,} rows" for each in measured)]

    def quantiles(figures: dict[str, float]) -> str:
        return f"{figures['p50_ms']:.2f} / {figures['p99_ms']:.1f}"

    def line(name: str, of: Callable[[dict[str, Any]], object]) -> list[object]:
        return [name, *(of(each) for each in measured)]

    timings = [
        line(f"{name}, ms", lambda each, name=name: quantiles(each["reads"][name]))  # type: ignore[misc]
        for name in measured[0]["reads"]
    ]
    timings.append(line("GET, cold, ms", lambda each: quantiles(each["cold"]["GET"])))
    for batch in measured[0]["recording"]:
        timings.append(
            line(
                f"record {batch}, ms",
                lambda each, batch=batch: quantiles(each["recording"][batch]),  # type: ignore[misc]
            )
        )
        timings.append(
            line(
                f"record {batch}, rows/s",
                lambda each, batch=batch: f"{each['recording'][batch]['rows_per_s']:,}",  # type: ignore[misc]
            )
        )
    kept = [
        line("rows, MiB", lambda each: f"{each['table_mib']:,}"),
        line("indexes, MiB", lambda each: f"{each['indexes_mib']:,}"),
        line("a week expires, s", lambda each: each["expire_one_week"]["s"]),
        line("of rows", lambda each: f"{each['expire_one_week']['rows']:,}"),
    ]
    read = [
        line(
            name,
            lambda each, name=name: (  # type: ignore[misc]
                f"{each['plans'][name]['blocks']:,}"
                + (" (walks)" if is_walk(each["plans"][name]) else "")
            ),
        )
        for name in FILTERS
    ]
    return [
        "p50 / p99\n\n" + table(heads, timings),
        table(heads, kept),
        f"Blocks of 8 KiB that Postgres touches for a page of {PAGE}, worst plan\n\n"
        + table(heads, read),
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    measured = uvloop.run(run(given.folder, given.rows))
    finish(given, {"sizes": measured}, tables(measured), postgres="fsync on, shared_buffers 128MB")


if __name__ == "__main__":
    main()
