"""Outcomes and dispatchers' status on core NATS: at most once, and nobody relies on them."""

import logging
from collections.abc import Callable

from nats.aio.msg import Msg

from broker.connection import Connection, NotTaken
from contract.announcements import (
    Announced,
    DispatcherStatus,
    decode_outcomes,
    decode_status,
    encode_outcomes,
    encode_status,
)
from contract.limits import NATS_PAYLOAD_BYTES_MAX
from contract.prediction import Outcome
from contract.queue import QueueNames

log = logging.getLogger(__name__)


class Announcements:
    """Tells and hears."""

    def __init__(self, connection: Connection, names: QueueNames) -> None:
        self._connection = connection
        self._names = names

    async def announce(self, outcomes: list[Outcome]) -> None:
        """Tell everybody how predictions ended; in silence if NATS is away."""
        if not outcomes:
            return
        payload = encode_outcomes(outcomes)
        if len(payload) > NATS_PAYLOAD_BYTES_MAX:
            # Each outcome is small enough (`INLINE_OUTPUT_BYTES_MAX`), so this ends.
            assert len(outcomes) > 1
            middle = len(outcomes) // 2
            await self.announce(outcomes[:middle])
            await self.announce(outcomes[middle:])
            return
        await self._tell(self._names.outcomes, payload)

    async def tell_status(self, status: DispatcherStatus) -> None:
        """Tell everybody what this dispatcher can do; in silence if NATS is away."""
        await self._tell(self._names.dispatcher_status(status.dispatcher), encode_status(status))

    async def subscribe_outcomes(self, heard: Callable[[list[Announced]], None]) -> None:
        async def decode(message: Msg) -> None:
            try:
                announced = decode_outcomes(message.data)
            except ValueError:
                log.warning("announcement.unreadable", extra={"subject": message.subject})
                return
            heard(announced)

        await self._connection.stand(self._names.outcomes, decode)

    async def subscribe_dispatchers(self, heard: Callable[[DispatcherStatus], None]) -> None:
        async def decode(message: Msg) -> None:
            try:
                status = decode_status(message.data)
            except ValueError:
                log.warning("announcement.unreadable", extra={"subject": message.subject})
                return
            heard(status)

        await self._connection.stand(self._names.all_dispatcher_status, decode)

    async def _tell(self, subject: str, payload: bytes) -> None:
        try:
            await self._connection.publish(subject, payload)
        except NotTaken:
            log.debug("announcement.lost", extra={"subject": subject})
