"""The statements that run all day. Pure text, so that tests can ask Postgres for their plans."""

from contract.prediction import Status
from ledger.rows import COLUMNS

_READ = f"SELECT {', '.join(COLUMNS)} FROM predictions"  # noqa: S608 - names of our own


def _record() -> str:
    arrays = ", ".join(
        f"${number}::{kind}[]" for number, kind in enumerate(COLUMNS.values(), start=1)
    )
    names = ", ".join(COLUMNS)
    values = ", ".join(
        f"timestamptz 'epoch' + {name} * interval '1 ms'" if name.endswith("_at") else name
        for name in COLUMNS
    )
    return (
        f"INSERT INTO predictions ({names})"  # noqa: S608 - names of our own
        f" SELECT {values} FROM unnest({arrays}) AS ended ({names})"
        " ON CONFLICT (id) DO NOTHING RETURNING id"
    )


# One statement for any number of rows: one plan, one round trip, one transaction.
RECORD = _record()

GET = f"{_READ} WHERE id = $1"
GET_MANY = f"{_READ} WHERE id = ANY($1::uuid[])"
ENDED = "SELECT id FROM predictions WHERE id = ANY($1::uuid[])"

OLDEST = "SELECT id FROM predictions ORDER BY id LIMIT 1"

# One statement, and the row's lock decides between two dispatchers that begin at once. In order of
# id, so that two who begin the same predictions do not wait for each other.
BEGIN = (
    "INSERT INTO begun AS before (id)"
    " SELECT id FROM unnest($1::uuid[]) AS beginning (id) ORDER BY id"
    " ON CONFLICT (id) DO UPDATE SET times = before.times + 1, last_at = now()"
    " RETURNING id, times"
)
BEGUN = "SELECT id, times FROM begun WHERE id = ANY($1::uuid[])"
RESTORING = "SELECT backup FROM restoring"
BEGIN_RESTORING = (
    "INSERT INTO restoring (backup) VALUES ($1) ON CONFLICT (one) DO NOTHING RETURNING backup"
)
END_RESTORING = "DELETE FROM restoring"
HORIZON = "SELECT accepted_before FROM horizon"


def page(*, owner: bool, model: bool, status: Status | None) -> str:
    """The statement that reads a page, newest first, with any of the filters.

    Its parameters are: ids are below $1, at most $2 rows, then owner and model where asked for.

    A filter with an index is written as a range and leads the order. `owner = $3 ORDER BY id`
    would let the planner walk the primary key instead, in the hope of meeting that owner soon; for
    an owner of few predictions that is a walk over all of them. A status other than succeeded is
    rare, so its partial index comes first; its value is in the text, or the planner could not tell
    that the index covers it.
    """
    conditions, order = ["id < $1"], list[str]()
    parameters = iter(("$3", "$4"))
    rare = status is not None and status is not Status.SUCCEEDED
    if status is not None:
        conditions.append(f"status = '{status.value}'")
    for name in [name for name, asked in (("owner", owner), ("model", model)) if asked]:
        parameter = next(parameters)
        if rare or order:
            conditions.append(f"{name} = {parameter}")
        else:
            conditions.append(f"{name} >= {parameter} AND {name} <= {parameter}")
            order = [f"{name} DESC"]
    ordering = ", ".join([*order, "id DESC"])
    return f"{_READ} WHERE {' AND '.join(conditions)} ORDER BY {ordering} LIMIT $2"
