"""Finds tickets that were acknowledged and are in the stream all the same.

The server notes an ack in the consumer and removes the message from the stream: two writes. Where
only the first one lasted (the disk was full, the power went), the ticket is neither delivered
again nor removed: it holds a place in the queue for ever.
"""

import msgspec

from broker.answers import ApiError
from broker.messages import Messages
from broker.requests import Requests
from contract.errors import QueueUnavailable
from contract.ids import PredictionId
from contract.queue import QueueNames, id_in_subject

ANSWER_TIMEOUT_S = 2.0
FOUND_MAX = 200  # at once, of one consumer; the next look finds the others


class _Floor(msgspec.Struct, frozen=True):
    stream_seq: int = 0  # everything up to here that the consumer filters was acknowledged


class _Config(msgspec.Struct, frozen=True):
    filter_subject: str = ""


class _Consumer(msgspec.Struct, frozen=True):
    config: _Config
    ack_floor: _Floor = _Floor()


class _Consumers(msgspec.Struct, frozen=True):
    total: int = 0
    consumers: list[_Consumer] | None = None
    error: ApiError | None = None


class Leftovers:
    """Looks for them, for one process."""

    def __init__(self, requests: Requests, names: QueueNames) -> None:
        self._requests = requests
        self._names = names
        self._messages = Messages(requests, names.stream)

    async def find(self) -> list[PredictionId]:
        """The predictions whose tickets nobody will be given any more.

        A ticket whose ack is being dealt with just now may be among them.

        Raises:
            QueueUnavailable: nobody can tell.
        """
        found: list[PredictionId] = []
        for consumer in await self._consumers():
            found += await self._below(consumer.ack_floor.stream_seq, consumer.config)
        return found

    async def _below(self, floor: int, config: _Config) -> list[PredictionId]:
        found: list[PredictionId] = []
        sequence = 1
        while sequence <= floor and len(found) < FOUND_MAX:
            first = await self._messages.first_from(sequence, config.filter_subject)
            if first is None or first.sequence > floor:
                break
            if (left := id_in_subject(first.subject)) is not None:
                found.append(left)
            sequence = first.sequence + 1
        return found

    async def _consumers(self) -> list[_Consumer]:
        found: list[_Consumer] = []
        while True:
            answer = await self._requests.ask(
                f"$JS.API.CONSUMER.LIST.{self._names.stream}",
                msgspec.json.encode({"offset": len(found)}),
                timeout_s=ANSWER_TIMEOUT_S,
            )
            page = _DECODER.decode(answer.data)
            if page.error is not None:
                raise QueueUnavailable(f"the queue cannot be read: {page.error.description}")
            found += page.consumers or []
            if not page.consumers or len(found) >= page.total:
                return found


_DECODER = msgspec.json.Decoder(_Consumers)
