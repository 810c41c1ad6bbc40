"""A checker that has never caught anything proves nothing: so bugs are planted, and it must."""

import asyncio

import pytest

from tests.chaos.attack import Result
from tests.chaos.campaign import Campaign
from tests.chaos.checker import Kind
from tests.chaos.matrix import Cell, Fault, Moment, Target
from tests.chaos.planted import Bug

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(240)]

SEED = 1
KILLED = Cell(Target.DISPATCHER, Fault.KILL, Moment.INFERRED)
RIVALED = Cell(Target.DISPATCHER, Fault.RIVAL, Moment.INFERRED)
FROZEN = Cell(Target.GATEWAY, Fault.FREEZE, Moment.LOOKING)
CAUGHT = (
    (Bug.ACK_BEFORE_RECORD, KILLED, Kind.LOST),
    (Bug.UPDATE_INSTEAD_OF_INSERT, RIVALED, Kind.DOUBLE),
    (Bug.NO_LAST_LOOK, FROZEN, Kind.UNKNOWN),
)
# What else such a bug may show. Between its ack and its record a prediction is nowhere, and readers
# may come by just then; and an update may make a success of what was canceled.
COMPANY = {Kind.LOST: Kind.UNKNOWN, Kind.DOUBLE: Kind.BACKWARDS}


@pytest.mark.parametrize(("bug", "cell", "kind"), CAUGHT, ids=[str(bug) for bug, _, _ in CAUGHT])
def test_a_planted_bug_is_reported_by_its_own_word(bug: Bug, cell: Cell, kind: Kind) -> None:
    result = played(cell, bug)
    assert not result.error
    found = {violation.kind for violation in result.violations}
    assert kind in found
    assert found <= {kind, COMPANY.get(kind)}


def played(cell: Cell, bug: Bug) -> Result:
    results: list[Result] = []
    asyncio.run(Campaign([cell], SEED, results.append, bug=bug, keep="none").run(1))
    return results[0]
