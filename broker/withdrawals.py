"""Takes predictions out of the queue that have ended without being run, and tells dispatchers.

A dispatcher that holds one already need not run it any more. It may miss being told, since that is
core NATS; then it runs in vain, and the ledger keeps the first outcome.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec
from nats.aio.msg import Msg

from broker.answers import ApiError
from broker.connection import Connection, NotTaken
from broker.requests import Requests
from contract.errors import QueueUnavailable
from contract.ids import PredictionId
from contract.queue import QueueNames

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 2.0


class _Purged(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class Withdrawals:
    """Withdraws, and hears of withdrawals, for one process."""

    def __init__(self, connection: Connection, requests: Requests, names: QueueNames) -> None:
        self._connection = connection
        self._requests = requests
        self._names = names

    async def withdraw(self, prediction_id: PredictionId) -> None:
        """Remove the ticket, wherever it is, and tell who may hold it.

        Raises:
            QueueUnavailable: it may still be there.
        """
        try:
            await self._purge(prediction_id)
        finally:
            with suppress(NotTaken):
                await self._connection.publish(
                    self._names.withdrawn, _ENCODER.encode([prediction_id])
                )

    async def subscribe(self, heard: Callable[[list[PredictionId]], None]) -> None:
        async def decode(message: Msg) -> None:
            try:
                withdrawn = _WITHDRAWN.decode(message.data)
            except ValueError:
                log.warning("withdrawal.unreadable", extra={"subject": message.subject})
                return
            heard([PredictionId(each) for each in withdrawn])

        await self._connection.stand(self._names.withdrawn, decode)

    async def _purge(self, prediction_id: PredictionId) -> None:
        # By subject: deleting by sequence overwrites the message on disk, which takes 20 times
        # longer.
        answer = await self._requests.ask(
            f"$JS.API.STREAM.PURGE.{self._names.stream}",
            msgspec.json.encode({"filter": self._names.ticket_by_id(prediction_id)}),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        error = _PURGED.decode(answer.data).error
        if error is not None:
            raise QueueUnavailable(f"the queue gives nothing back: {error.description}")


_ENCODER = msgspec.msgpack.Encoder()
_WITHDRAWN = msgspec.msgpack.Decoder(list[str])
_PURGED = msgspec.json.Decoder(_Purged)
