"""Outcomes are recorded once, whole, and each for itself."""

import asyncio
import random
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.ids import PredictionId, new_prediction_id, to_uuid
from contract.prediction import Failure, File, Outcome, Prediction, Priority, Status, Ticket
from ledger import Ledger, Unrecordable
from ledger.rows import COLUMNS
from tests.ended import failed, new_id, succeeded, until_blocked


async def test_what_was_recorded_is_read_back(ledger: Ledger) -> None:
    first, second = succeeded(), failed()

    assert await ledger.record([first, second]) == {first.id, second.id}

    assert await ledger.get(first.id) == first
    assert await ledger.get_many([first.id, second.id, new_id()]) == {
        first.id: first,
        second.id: second,
    }
    assert await ledger.ended([first.id, new_id()]) == {first.id}
    assert await ledger.get(new_id()) is None


async def test_nothing_at_all_may_be_recorded(ledger: Ledger) -> None:
    assert await ledger.record([]) == set()


async def test_the_first_outcome_wins_and_a_repeat_changes_nothing(ledger: Ledger) -> None:
    first = succeeded()
    await ledger.record([first])

    assert await ledger.record([first]) == set()
    assert await ledger.record([failed(first.id), other := failed()]) == {other.id}

    assert await ledger.get(first.id) == first


async def test_the_first_of_two_outcomes_in_one_batch_wins(ledger: Ledger) -> None:
    first = succeeded()

    assert await ledger.record([first, failed(first.id)]) == {first.id}

    assert await ledger.get(first.id) == first


async def test_of_many_who_record_the_same_predictions_each_has_one_winner(
    ledger: Ledger, ledger_dsn: str
) -> None:
    other = await Ledger.connect(ledger_dsn)
    ids = [new_id() for _ in range(100)]

    async def attempt(number: int, through: Ledger) -> set[PredictionId]:
        outcomes = [succeeded(each, output=b"%d" % number) for each in ids]
        random.shuffle(outcomes)
        return await through.record(outcomes)

    won = await asyncio.gather(*[attempt(n, other if n % 2 else ledger) for n in range(12)])
    await other.close()

    assert sorted(each for winners in won for each in winners) == sorted(ids)
    recorded = await ledger.get_many(ids)
    for number, winners in enumerate(won):
        for each in winners:
            outcome = recorded[each].outcome
            assert outcome is not None
            assert outcome.output == b"%d" % number


async def test_batches_that_share_predictions_do_not_deadlock(
    ledger: Ledger, ledger_dsn: str
) -> None:
    """Each would hold what the other needs next, if rows went in in the order they are given."""
    template, first, middle, last = sorted([succeeded() for _ in range(4)], key=lambda p: p.id)
    await ledger.record([template])
    others = ", ".join(name for name in COLUMNS if name != "id")
    gate = await asyncpg.connect(ledger_dsn)

    transaction = gate.transaction()
    await transaction.start()  # an insert of `middle` that everybody has to wait for
    await gate.execute(
        f"INSERT INTO predictions (id, {others}) SELECT $1, {others} FROM predictions",
        to_uuid(middle.id),
    )
    batches = [[first, middle, last], [last, middle, first]]
    recording = [asyncio.create_task(ledger.record(batch)) for batch in batches]
    await until_blocked(gate, 2)
    await transaction.rollback()
    won = await asyncio.gather(*recording)
    await gate.close()

    assert sorted(won, key=len) == [set(), {first.id, middle.id, last.id}]


async def test_the_contents_of_files_are_left_out(ledger: Ledger) -> None:
    prediction = succeeded(content=b"abc")
    await ledger.record([prediction])

    read = await ledger.get(prediction.id)

    assert read is not None
    assert read.ticket == prediction.ticket.without_contents()
    assert read.ticket.files["image"].content is None


async def test_an_output_comes_back_byte_for_byte(ledger: Ledger) -> None:
    outputs = [
        b'{"b":1,"a":2,"b":3}',
        b"  [1.0, 1e400, -0.0, 12345678901234567890123]\n",
        rb'"NUL \u0000, half of a pair \ud800, \u00e9"',
        '"é \U0001f408 \u2028"'.encode(),
        b"null",
    ]
    predictions = [succeeded(output=output) for output in outputs]
    await ledger.record(predictions)

    assert await ledger.get_many(each.id for each in predictions) == {
        each.id: each for each in predictions
    }


UNRECORDABLE = {
    "not JSON": lambda: succeeded(output=b'{"label":'),
    "nothing": lambda: succeeded(output=b""),
    "not UTF-8": lambda: succeeded(output=b'"\xff"'),
    "nested without end": lambda: succeeded(output=b"[" * 100_000 + b"]" * 100_000),
    "a NUL in a message": lambda: failed(message="bad\0input"),
    "half a surrogate pair in a message": lambda: failed(message="bad \ud800"),
    "half a surrogate pair in the input": lambda: failed(input={"text": "\ud800"}),
}


@pytest.mark.parametrize("kind", UNRECORDABLE)
async def test_an_unrecordable_prediction_is_refused_alone(
    ledger: Ledger, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = [succeeded() for _ in range(9)]
    refused = [UNRECORDABLE[kind](), UNRECORDABLE[kind]()]

    with pytest.raises(Unrecordable) as raised:
        await ledger.record([*good[:4], refused[0], *good[4:], refused[1]])

    assert raised.value.reasons.keys() == {each.id for each in refused}
    assert raised.value.recorded == {each.id for each in good}
    assert await ledger.ended(each.id for each in good + refused) == {each.id for each in good}
    assert "ledger.refused" in caplog.messages

    # What its owner does then: the failure is recorded in place of the outcome.
    replaced = [failed(each.id) for each in refused]
    assert await ledger.record([*good, *replaced]) == {each.id for each in refused}


async def test_a_broken_invariant_is_a_bug_and_nothing_is_recorded(ledger: Ledger) -> None:
    good, bad = succeeded(), succeeded()
    assert bad.outcome is not None
    backwards = msgspec.structs.replace(bad.outcome, completed_at_ms=0)

    with pytest.raises(asyncpg.CheckViolationError, match="completed_after_started"):
        await ledger.record([good, Prediction(bad.ticket, backwards)])

    assert await ledger.get(good.id) is None


BROKEN_ROWS = {
    "model = 'no spaces'": "model_is_a_name",
    "model = ''": "model_is_a_name",
    "version = 0": "version_is_positive",
    "priority = 'urgent'": "priority_is_known",
    "owner = repeat('x', 257)": "owner_is_short",
    "input = '[]'": "input_is_an_object",
    "files = 'null'": "files_is_an_object",
    "status = 'running', output = NULL": "status_is_terminal",
    "output = NULL": "output_exactly_when_succeeded",
    "status = 'canceled'": "output_exactly_when_succeeded",
    "error = 'also failed'": "error_exactly_when_failed",
    "error_code = 'also_failed'": "error_exactly_when_failed",
    "status = 'failed', output = NULL, error = 'no code'": "error_exactly_when_failed",
    "status = 'failed', output = NULL, error = '', error_code = 'Not a word'": (
        "error_code_is_a_word"
    ),
    "attempts = -1": "attempts_are_counted",
    "completed_at = started_at - interval '1 ms'": "completed_after_started",
    "queue_ms = -1": "durations_are_finite",
    "compute_ms = 'NaN'": "durations_are_finite",
}


async def test_the_database_itself_refuses_every_row_that_breaks_an_invariant(
    ledger: Ledger, ledger_dsn: str
) -> None:
    await ledger.record([succeeded()])
    connection = await asyncpg.connect(ledger_dsn)
    try:
        for change, constraint in BROKEN_ROWS.items():
            await connection.execute(
                "DROP TABLE IF EXISTS changed;"
                " CREATE TABLE changed (LIKE predictions);"
                " INSERT INTO changed SELECT * FROM predictions;"
                f" UPDATE changed SET id = gen_random_uuid(), {change};"
            )
            with pytest.raises(asyncpg.CheckViolationError, match=constraint):
                await connection.execute("INSERT INTO predictions SELECT * FROM changed")
    finally:
        await connection.close()


async def test_no_row_is_ever_updated_by_whatever_way(ledger: Ledger, ledger_dsn: str) -> None:
    prediction = succeeded()
    await ledger.record([prediction])
    connection = await asyncpg.connect(ledger_dsn)
    try:
        table = await connection.fetchval("SELECT tableoid::regclass::text FROM predictions")
        for statement in (
            "UPDATE predictions SET owner = 'mallory'",
            f"UPDATE {table} SET owner = 'mallory'",
            "INSERT INTO predictions SELECT * FROM predictions"
            " ON CONFLICT (id) DO UPDATE SET owner = 'mallory'",
        ):
            with pytest.raises(asyncpg.RestrictViolationError, match="never updated"):
                await connection.execute(statement)
    finally:
        await connection.close()
    assert await ledger.get(prediction.id) == prediction


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAME = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
MOMENTS = st.integers(0, 2**53 // 1000)  # Unix milliseconds; Postgres is exact until 2255
DURATIONS = st.floats(0, 1e300)
WITHOUT_NUL = TEXT.filter(lambda text: "\0" not in text)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    prediction_id = new_prediction_id(
        draw(st.integers(0, 2**48 - 1)), draw(st.binary(min_size=10, max_size=10))
    )
    files = st.builds(
        File,
        media_type=TEXT,
        size=st.integers(0, 2**40),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    )
    ticket = Ticket(
        id=prediction_id,
        model=draw(NAME),
        version=draw(st.integers(1, 2**63 - 1)),
        input=draw(st.dictionaries(TEXT, JSONS, max_size=4)),
        files=draw(st.dictionaries(TEXT, files, max_size=2)),
        priority=draw(st.sampled_from(Priority)),
        owner=draw(WITHOUT_NUL),
        deadline_ms=draw(st.none() | MOMENTS),
        retry_of=draw(st.none() | st.just(prediction_id)),
    )
    started_ms = draw(MOMENTS)
    ending: dict[str, Any] = draw(
        st.one_of(
            st.fixed_dictionaries(
                {"status": st.just(Status.SUCCEEDED), "output": JSONS.map(msgspec.json.encode)}
            ),
            st.fixed_dictionaries(
                {
                    "status": st.just(Status.FAILED),
                    "error": st.builds(
                        Failure,
                        code=st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True),
                        message=WITHOUT_NUL,
                    ),
                }
            ),
            st.just({"status": Status.CANCELED}),
        )
    )
    outcome = Outcome(
        id=prediction_id,
        started_at_ms=started_ms,
        completed_at_ms=draw(st.integers(started_ms, 2**53 // 1000)),
        attempts=draw(st.integers(0, 2**31 - 1)),
        queue_ms=draw(DURATIONS),
        compute_ms=draw(DURATIONS),
        **ending,
    )
    return Prediction(ticket, outcome)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch=st.lists(predictions(), min_size=1, max_size=4, unique_by=lambda each: each.id))
async def test_any_prediction_survives_the_round_trip(
    ledger: Ledger, batch: list[Prediction]
) -> None:
    known = await ledger.ended(each.id for each in batch)
    new = [each for each in batch if each.id not in known]

    assert await ledger.record(new) == {each.id for each in new}

    assert await ledger.get_many(each.id for each in new) == {each.id: each for each in new}


async def test_an_input_nested_too_deep_for_text_is_refused_and_its_neighbours_are_recorded(
    ledger: Ledger,
) -> None:
    """Left to itself it would end the dispatcher again and again, and never itself."""
    nested: list[object] = []
    for _ in range(2000):
        nested = [nested]
    deep, other = succeeded(input={"n": nested}), succeeded()
    with pytest.raises(Unrecordable) as refused:
        await ledger.record([deep, other])
    assert refused.value.reasons == {deep.id: "RecursionError"}
    assert refused.value.recorded == {other.id}
