"""Judges a history: was every promise kept? Pure, and knows nothing of how the calls were made.

The promises, and the word for breaking each, are in `Kind`. docs/reliability.md explains them.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from contract.moves import ENDED, State, may_follow
from tests.chaos.history import Announced, Call, End, Known, Record, Row, Rules, Seen

TOLERANCE = 1e-3  # of a score: the order of a sum depends on the batch
GRACE_S = 8.0  # an answer may come so much later than its wait, on a busy machine
ANSWER_S_MAX = 25.0  # of a call that does not wait: two patient looks into a ledger that hangs
GROWN_MB_MAX = 128.0  # of one process, in one cell; the load leaves a few MB in a gateway
REFUSALS = (429, 503)
EXPECTED = (0, 200, 201, 202, 404, 410, *REFUSALS)  # no caller asks for what is wrong


class Kind(StrEnum):
    """The ways in which a promise can be broken."""

    LOST = "lost"  # accepted, and neither in the queue nor in the ledger
    STUCK = "stuck"  # accepted, and not ended long after the fault was over
    LEFTOVER = "leftover"  # it has ended, and its ticket stays in the queue
    DOUBLE = "double"  # two different outcomes were seen, or one was announced twice
    WRONG = "wrong"  # the output is not what a lone call to the model gives
    FAILED = "failed"  # it failed, or was canceled, and nothing it was asked for explains that
    BACKWARDS = "backwards"  # a state was seen that cannot follow the one seen before
    UNKNOWN = "unknown"  # an accepted prediction, not lost, was answered with 404 or 410
    SPLIT = "split"  # one key, two predictions
    DISHONEST = "dishonest"  # an answer that says what is not so: see `_answers`
    LATE = "late"  # an answer came after its limit, or never
    ATTEMPTS = "attempts"  # an outage was counted as an attempt
    OUTAGE = "outage"  # a call was refused that does without the part that was away
    MEMORY = "memory"  # a process grew beyond all bounds
    UNREADY = "unready"  # a part is not ready long after the fault was over


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(slots=True)
class _Facts:
    """A history, sorted."""

    rules: Rules
    end: End
    known: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    announced: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, Call] = field(default_factory=dict)  # the first call that was told the id


def check(records: Iterable[Record]) -> list[Violation]:
    """Everything that is wrong with a history, sorted by kind."""
    facts = _sorted(records)
    return sorted(
        {
            *_endings(facts),
            *_outcomes(facts),
            *_states(facts),
            *_answers(facts),
            *_outages(facts),
            *_keys(facts),
            *_afterwards(facts),
        },
        key=str,
    )


def accepted(records: Iterable[Record]) -> int:
    """How many predictions were accepted."""
    return len(_sorted(records).accepted)


def _sorted(records: Iterable[Record]) -> _Facts:
    records = list(records)
    rules = next(record for record in records if isinstance(record, Rules))
    end = next(record for record in records if isinstance(record, End))
    facts = _Facts(rules, end)
    for record in records:
        match record:
            case Known():
                facts.known[record.asked] = record.output
            case Row():
                facts.rows[record.id] = record
            case Announced():
                facts.announced[record.id] += 1
            case Call():
                facts.calls.append(record)
                if record.accepts:
                    facts.accepted.setdefault(record.seen[0].id, record)
    return facts


def _endings(facts: _Facts) -> Iterator[Violation]:
    """Accepted means ended, exactly once."""
    queued = set(facts.end.queued)
    for each, call in facts.accepted.items():
        if each in facts.rows:
            continue
        if each in queued:
            yield Violation(Kind.STUCK, f"{each} ({call.asked}) is still in the queue")
        else:
            yield Violation(Kind.LOST, f"{each} ({call.asked}) is in neither queue nor ledger")
    for each, times in facts.announced.items():
        if times > 1:
            yield Violation(Kind.DOUBLE, f"the end of {each} was announced {times} times")


def _outcomes(facts: _Facts) -> Iterator[Violation]:
    """Everybody sees the same outcome, and it is the one that was asked for."""
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in facts.calls:
        for seen in call.seen:
            if seen.outcome is not None:
                told[seen.id].append(seen.outcome)
    for each, row in facts.rows.items():
        told[each].append(row.outcome)
    explained = _explained(facts)
    for each, outcomes in told.items():
        first = outcomes[0]
        if different := [other for other in outcomes if other != first]:
            yield Violation(Kind.DOUBLE, f"{each} ended as {first} and as {different[0]}")
        if each not in facts.rows and each not in facts.accepted:
            continue  # of an earlier cell: a page shows older ones as well
        yield from _meaning(facts, each, first, explained)
        if 0 < facts.rules.attempts_max < first["attempts"]:
            yield Violation(Kind.ATTEMPTS, f"{each} took {first['attempts']} attempts")


def _meaning(
    facts: _Facts, each: str, outcome: dict[str, Any], explained: set[tuple[str, str, str]]
) -> Iterator[Violation]:
    """Whether it is the model's answer, or else has an explanation."""
    asked = facts.accepted[each].asked if each in facts.accepted else ""
    if not asked and each in facts.rows:
        asked = facts.rows[each].asked
    if outcome["status"] != "succeeded":
        if (each, outcome["status"], outcome.get("error_code") or "") not in explained:
            yield Violation(Kind.FAILED, f"{each} ({asked}): {_short(outcome)}")
        return
    expected = _expected(facts, asked)
    if expected is not None and not alike(expected, outcome["output"]):
        yield Violation(Kind.WRONG, f"{each} ({asked}) answers {_short(outcome['output'])}")


def _explained(facts: _Facts) -> set[tuple[str, str, str]]:
    """The ends other than success that callers have asked for."""
    canceled = {(call.id, "canceled", "") for call in facts.calls if call.kind == "cancel"}
    overdue = {
        (seen.id, "failed", "deadline_exceeded")
        for call in facts.calls
        if call.cancel_after_s
        for seen in call.seen
    }
    # Of a submit that was never answered nobody knows the id; its text is its own.
    asked = {call.asked for call in facts.calls if call.cancel_after_s}
    unknown = {
        (row.id, "failed", "deadline_exceeded") for row in facts.rows.values() if row.asked in asked
    }
    return canceled | overdue | unknown


def _expected(facts: _Facts, asked: str) -> Any:
    if asked.startswith("text:"):
        return {"OUTPUT0": [asked.removeprefix("text:")]}
    return facts.known.get(asked)


def alike(expected: Any, answered: Any) -> bool:
    """Whether two outputs are the same; numbers within TOLERANCE."""
    match expected, answered:
        case float() | int(), float() | int():
            return math.isclose(expected, answered, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        case list(), list():
            return len(expected) == len(answered) and all(map(alike, expected, answered))
        case dict(), dict():
            same = expected.keys() == answered.keys()
            return same and all(alike(expected[name], answered[name]) for name in expected)
    return bool(expected == answered)


def _states(facts: _Facts) -> Iterator[Violation]:
    """States only move forward: what an answer shows may follow all that was known before."""
    sights: dict[str, list[tuple[Call, Seen]]] = defaultdict(list)
    for call in facts.calls:
        for seen in call.seen:
            sights[seen.id].append((call, seen))
    for each, of_one in sights.items():
        in_order = sorted(of_one, key=lambda sight: sight[0].ended)
        for call, seen in in_order:
            # Calls that overlap have no order: the earlier answer may have been on its way long.
            before = _furthest(earlier for earlier in in_order if earlier[0].ended <= call.began)
            if not may_follow(before, seen.state):
                what = f"{each} was {before}, then {seen.state} (at {call.began:.2f} s)"
                yield Violation(Kind.BACKWARDS, what)


def _furthest(sights: Iterable[tuple[Call, Seen]]) -> State | None:
    furthest: State | None = None
    for _, seen in sights:
        if furthest is None or may_follow(furthest, seen.state):
            furthest = seen.state
    return furthest


def _answers(facts: _Facts) -> Iterator[Violation]:
    """Each call is answered in time, and honestly."""
    fault_began, recovered = facts.end.fault_began, facts.end.recovered
    for call in facts.calls:
        in_window = call.ended >= fault_began and call.began <= recovered
        felt_s = max(0.0, min(call.ended, recovered) - max(call.began, fault_began))
        limit_s = GRACE_S + call.wait_s + felt_s if in_window else GRACE_S + call.wait_s
        took_s = call.ended - call.began
        where = f"{call.kind} {call.id or call.asked} at {call.began:.2f} s"
        if took_s > max(limit_s, ANSWER_S_MAX if in_window else 0.0):
            yield Violation(Kind.LATE, f"{where} took {took_s:.1f} s")
        if call.status in (404, 410) and _was_accepted(facts, call):
            yield Violation(Kind.UNKNOWN, f"{where}: {call.status}")
        elif call.status not in EXPECTED and (call.kind, call.status) != ("retry", 409):
            yield Violation(Kind.DISHONEST, f"{where}: {call.status} {call.failure}")
        elif call.status in REFUSALS and not call.retry_after.isdigit():
            yield Violation(Kind.DISHONEST, f"{where}: {call.status} without Retry-After")
        elif (call.status in REFUSALS or not call.status) and not in_window:
            what = f"{call.status or 'no answer'} {call.failure}, and there was no fault"
            yield Violation(Kind.DISHONEST, f"{where}: {what}")


def _outages(facts: _Facts) -> Iterator[Violation]:
    """While a part is away, whatever does without it goes on."""
    ended: dict[str, float] = {}  # when somebody had seen the outcome
    for call in facts.calls:
        for seen in call.seen:
            if seen.outcome is not None:
                ended[seen.id] = min(call.ended, ended.get(seen.id, call.ended))
    for call in facts.calls:
        refused = not call.status or call.status in REFUSALS
        where = f"{call.kind} {call.id or call.asked} at {call.began:.2f} s"
        # With a key it may be asked for what has ended already, which the ledger alone knows.
        if facts.rules.submits and call.kind == "submit" and not call.key and refused:
            yield Violation(Kind.OUTAGE, f"{where}: {call.status} {call.failure}")
        is_known = call.id in ended and ended[call.id] <= call.began
        if facts.rules.reads and call.kind in ("get", "wait") and is_known and refused:
            yield Violation(Kind.OUTAGE, f"{where}: {call.status} {call.failure}")


def _was_accepted(facts: _Facts, call: Call) -> bool:
    known = facts.accepted.get(call.id)
    is_somewhere = call.id in facts.rows or call.id in facts.end.queued
    return is_somewhere and known is not None and known.ended <= call.began


def _keys(facts: _Facts) -> Iterator[Violation]:
    """One key stands for one prediction, however often it is sent."""
    ids: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, str] = {}
    for call in facts.calls:
        if call.key and call.kind in ("submit", "put"):
            contents[call.asked] = call.key
            ids[call.key].update(seen.id for seen in call.seen)
    for row in facts.rows.values():
        if row.asked in contents:
            ids[contents[row.asked]].add(row.id)
    for key, those in ids.items():
        if len(those) > 1:
            yield Violation(Kind.SPLIT, f"{key} stands for {', '.join(sorted(those))}")


def _afterwards(facts: _Facts) -> Iterator[Violation]:
    for each in facts.end.queued:
        if each in facts.rows:
            yield Violation(Kind.LEFTOVER, f"{each} has ended and is in the queue")
        elif each not in facts.accepted:
            yield Violation(Kind.STUCK, f"{each}, of which no caller knows, is in the queue")
    if facts.end.grown_mb > GROWN_MB_MAX:
        yield Violation(Kind.MEMORY, f"it grew by {facts.end.grown_mb:.0f} MB")
    for part, reason in facts.end.missing.items():
        yield Violation(Kind.UNREADY, f"{part}: {reason}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


assert frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED}) == ENDED
