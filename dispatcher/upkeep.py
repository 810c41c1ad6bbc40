"""What a dispatcher does beside predictions: makes partitions, removes what is old or left.

Every dispatcher does it, and none needs to know of the others: each step may be done by several at
once, cut off anywhere, and done again. A part that is away is left for the next time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import NoReturn

from blobs import Blobs
from broker import Broker
from contract.errors import DependencyError
from contract.ids import week_of
from ledger import Ledger

log = logging.getLogger(__name__)

EVERY_S = 6 * 3600.0
SWEPT_EVERY_S = 20.0  # two questions to the queue
AGAIN_AFTER_S = 300.0  # where a part was away, or somebody held what was needed
# What was recorded by somebody who died before the ack comes back within seconds, and must find
# its row; so nothing is removed at once by a dispatcher that starts after a long time.
EXPIRY_AFTER_START_S = 600.0

_WEEK = timedelta(weeks=1)
# A caller's own id may be a day older than its ticket, and clocks differ; the unit is a week.
_MARGIN = _WEEK


class Upkeep:
    """Runs for as long as the dispatcher.

    Args:
        retention_days: how long outcomes are kept, at least; 0 for ever.
        now: the time, with its zone.
    """

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        blobs: Blobs,
        retention_days: int,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._blobs = blobs
        self._retention = timedelta(days=retention_days)
        self._now = now

    async def run(self) -> NoReturn:
        await asyncio.gather(
            _again_and_again("partitions", self.make_partitions),
            self._expire_again_and_again(),
            _again_and_again("sweep", self.sweep, every_s=SWEPT_EVERY_S),
        )
        raise AssertionError("upkeep never ends")

    async def make_partitions(self) -> None:
        await self._ledger.ensure_partitions(self._now())

    async def sweep(self) -> None:
        """Take tickets out of the queue that were acknowledged and did not leave it.

        Raises:
            DependencyError: a part is away; the rest is left for the next time.
        """
        left = await self._broker.leftovers()
        if not left:
            return
        ended = await self._ledger.ended(left)
        for prediction_id in left:
            if prediction_id in ended:
                await self._broker.withdraw(prediction_id)
                log.info("ticket.swept", extra={"prediction": prediction_id})
            else:
                # Acknowledged and never recorded, or the ledger has lost it: not ours to decide.
                log.error("ticket.orphaned", extra={"prediction": prediction_id})

    async def expire(self) -> None:
        """Remove what has been kept for long enough: outcomes first, then the files of inputs.

        Raises:
            DependencyError: a part is away; something is left for the next time.
        """
        if not self._retention:
            return
        await self._ledger.expire(self._now() - self._retention)
        for week in await self._weeks_nobody_needs():
            removed = await self._blobs.remove_week(week)
            log.info("blobs.week_expired", extra={"week": str(week), "blobs": removed})

    async def _weeks_nobody_needs(self) -> list[date]:
        """The weeks whose blobs no prediction has, in the queue or in the ledger.

        Nor will one have them: ids from before the horizon are not accepted any more.
        """
        horizon = await self._ledger.horizon()
        weeks = await self._blobs.weeks()
        if horizon is None or not weeks:
            return []
        # The queue first. What has left it meanwhile is in the ledger then; the other way round it
        # could be missed in both.
        oldest = [await self._broker.oldest(), await self._ledger.oldest()]
        needed = [week_of(each) for each in oldest if each is not None]
        first_kept = min([horizon.date(), *needed]) - _MARGIN
        return [week for week in weeks if week < first_kept]

    async def _expire_again_and_again(self) -> None:
        await asyncio.sleep(EXPIRY_AFTER_START_S)
        await _again_and_again("expiry", self.expire)


async def _again_and_again(
    work: str, do: Callable[[], Awaitable[None]], *, every_s: float = EVERY_S
) -> NoReturn:
    while True:
        try:
            await do()
        except DependencyError as error:
            log.warning("upkeep.put_off", extra={"work": work, "reason": str(error)})
            await asyncio.sleep(min(AGAIN_AFTER_S, every_s))
        else:
            await asyncio.sleep(every_s)
