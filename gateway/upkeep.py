"""What the gateway does beside requests: prepares its services, and watches the queue's depth.

A service that is away when the gateway starts is prepared once it comes; until then requests are
answered as in any outage.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from broker import Broker, QueueLimits
from contract.errors import DependencyError, QueueUnavailable
from ledger import Ledger
from telemetry import metrics

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 2.0
DEPTH_EVERY_S = 5.0  # Retry-After is computed from how the depth changes


class Upkeep:
    """Runs for as long as the gateway."""

    def __init__(
        self, ledger: Ledger, broker: Broker, models: Iterable[str], limits: QueueLimits
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._models = tuple(models)
        self._limits = limits

    async def run(self) -> NoReturn:
        await asyncio.gather(
            _until_done("queue", lambda: self._broker.declare(self._models, self._limits)),
            _until_done("ledger", self._ledger.migrate),
            self._watch_depth(),
        )
        raise AssertionError("watching never ends")

    async def _watch_depth(self) -> NoReturn:
        while True:
            with suppress(QueueUnavailable):
                depth = await self._broker.depth()
                metrics.QUEUE_TICKETS.set(depth.tickets)
                metrics.QUEUE_BYTES.set(depth.bytes)
            await asyncio.sleep(DEPTH_EVERY_S)


async def _until_done(part: str, prepare: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await prepare()
        except DependencyError as error:
            log.warning("gateway.part_not_prepared", extra={"part": part, "reason": str(error)})
            await asyncio.sleep(AGAIN_AFTER_S)
        else:
            log.info("gateway.part_prepared", extra={"part": part})
            return
