"""A few cells of the fault matrix, so that `make test` sees what breaks it. All: `make chaos`."""

import asyncio
from itertools import pairwise

import pytest

from tests.chaos.attack import Result
from tests.chaos.campaign import Campaign
from tests.chaos.matrix import IN_TRITON, Fault, Moment, Target, cells, chosen
from tests.chaos.report import line_of

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(300)]

SEED = 3
SOME = (
    "gateway/kill/stored,dispatcher/kill/recorded,triton/kill/inferring,"
    "stub/kill/fetched,nats/kill/publishing,postgres/cut/inferred"
)


def test_nothing_is_lost_or_doubled_in_some_cells_of_the_matrix() -> None:
    results: list[Result] = []
    asyncio.run(Campaign(chosen(SOME, SEED), SEED, results.append).run(1))
    assert len(results) == SOME.count(",") + 1
    red = [line_of(result) for result in results if not result.is_green]
    assert not red, "\n".join(red)


def test_every_process_meets_every_fault_that_it_can_have() -> None:
    met = {(cell.target, cell.fault) for cell in cells()}
    for target in Target:
        for fault in (Fault.KILL, Fault.TERMINATE, Fault.FREEZE):
            assert (target, fault) in met
        network = {(target, Fault.CUT), (target, Fault.SLOW)}
        assert bool(network & met) is (target not in IN_TRITON)
    for fault in Fault:
        assert fault is Fault.NONE or any(cell.fault is fault for cell in cells())


def test_every_moment_is_met_by_every_process_that_stands_in_it() -> None:
    for moment in Moment:
        if moment is not Moment.STEADY:
            assert sum(cell.moment is moment for cell in cells()) >= 10
    assert len(set(cells())) == len(cells()) >= 100


def test_a_seed_decides_the_order_and_a_pattern_the_choice() -> None:
    assert chosen("*", 1) == chosen("*", 1) != chosen("*", 2)
    assert sorted(chosen("*", 1)) == sorted(cells())
    assert {cell.target for cell in chosen("nats/*, stub/kill/*", 1)} == {Target.NATS, Target.STUB}


def test_no_process_is_hit_twice_in_a_row() -> None:
    order = chosen("*", 5)
    assert not [one for one, after in pairwise(order) if one.target is after.target]
