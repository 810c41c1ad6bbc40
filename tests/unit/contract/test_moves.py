"""The table of moves, as an observer may rely on it."""

import pytest

from contract.moves import ENDED, MOVES, State, may_follow


def test_every_state_but_the_last_leads_somewhere() -> None:
    leading = {move.before for move in MOVES}
    assert set(State) - leading == {State.EXPIRED}


@pytest.mark.parametrize("ended", sorted(ENDED))
@pytest.mark.parametrize("later", [each for each in State if each is not State.EXPIRED])
def test_an_outcome_is_followed_by_nothing_but_itself(ended: State, later: State) -> None:
    assert may_follow(ended, later) is (ended is later)


def test_a_state_that_was_missed_does_no_harm() -> None:
    assert may_follow(None, State.SUCCEEDED)
    assert may_follow(State.WAITING, State.EXPIRED)


def test_a_running_prediction_never_waits_again() -> None:
    assert not may_follow(State.RUNNING, State.WAITING)
