"""When to start a service again that has ended. Pure: the caller passes in how long it ran.

The first time at once, since most deaths are accidents; then ever more slowly, since what dies
again and again costs the machine something and is seldom cured by haste.
"""

FIRST_WAIT_S = 0.5
WAIT_S_MAX = 10.0  # so long may it stay away after what was in its way has gone
STEADY_S = 60.0  # having run this long, its earlier ends no longer count
LOOP_ENDS = 4  # so many ends without a steady run in between are no accident


class Backoff:
    """The ends of one service since it last ran steadily."""

    def __init__(self) -> None:
        self._ends = 0

    def wait_s(self, *, ran_s: float) -> float:
        """Count one more end, after a run of `ran_s`; return how long to wait before a start."""
        self._ends = 1 if ran_s >= STEADY_S else self._ends + 1
        if self._ends == 1:
            return 0.0
        # The exponent has a limit, since a float has: a service may end for weeks.
        return min(FIRST_WAIT_S * 2.0 ** min(self._ends - 2, 16), WAIT_S_MAX)

    @property
    def ends(self) -> int:
        return self._ends

    @property
    def is_loop(self) -> bool:
        return self._ends >= LOOP_ENDS
