"""How often a prediction was run, so that one that ends every dispatcher ends itself at last.

A fresh ticket is run without counting: it costs no write. From its second delivery on, each run is
counted in the ledger before it begins. What a dispatcher held when it died, and had not begun, has
lost nothing. Which death leaves which count: docs/decisions/0013-attempts-count-runs.md.
"""

import logging
from collections.abc import Sequence
from functools import partial

from contract.ids import PredictionId
from contract.prediction import Failure
from dispatcher.outages import Outage
from dispatcher.row import Row
from ledger import Ledger

log = logging.getLogger(__name__)


class Attempts:
    """Counts runs in the ledger, and waits where it is away."""

    def __init__(self, ledger: Ledger, outage: Outage, attempts_max: int) -> None:
        self._ledger = ledger
        self._outage = outage
        self._max = attempts_max

    async def learn(self, redelivered: Sequence[Row]) -> None:
        """Find out how often each was begun before."""
        ids = [row.id for row in redelivered]
        begun = await self._outage.ride_out(partial(self._ledger.begun, ids))
        for row in redelivered:
            row.begun = begun.get(row.id, 0)

    async def begin(self, rows: Sequence[Row], now_ms: int) -> None:
        """Count this run of the redelivered ones; fail, unrun, those that have had all theirs."""
        redelivered = [row for row in rows if row.is_redelivered]
        await self._count(redelivered)
        for row in redelivered:
            if row.begun > self._max:
                row.begun -= 1  # this one does not take place
                message = f"given up: {row.begun} attempts came to no end"
                row.fail(Failure("attempts_exhausted", message), now_ms)
                log.error("prediction.exhausted", extra={"prediction": row.id})

    async def count_failed(self, rows: Sequence[Row]) -> None:
        """Count the runs that will be repeated, where that was not done when they began."""
        await self._count(
            [row for row in rows if row.retry_in_s is not None and not row.is_redelivered]
        )

    async def _count(self, rows: Sequence[Row]) -> None:
        """Count one more run of each row: once, even if the ledger goes away in the middle."""
        if not rows:
            return

        async def count() -> dict[PredictionId, int]:
            ids = [row.id for row in rows]
            begun = await self._ledger.begun(ids)
            left = [row.id for row in rows if begun.get(row.id, 0) <= row.begun]
            return begun | await self._ledger.begin(left)

        begun = await self._outage.ride_out(count)
        for row in rows:
            row.begun = begun[row.id]
