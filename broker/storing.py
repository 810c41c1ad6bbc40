"""One message into a stream, and its final answer: repeated until there is one.

The message must name itself (`Nats-Msg-Id`), so that our own repetitions are stored once.
"""

import asyncio
import random
from dataclasses import dataclass

from broker.answers import Verdict, read_answer, verdict
from broker.connection import Connection, NotTaken
from broker.requests import NoAnswer, Requests
from contract.errors import AcceptanceUnknown, QueueUnavailable

ANSWER_TIMEOUT_S = 2.0
STORE_S_MAX = 10.0  # the repetitions included; the election of a new leader takes 4 to 9
PAUSE_S_MIN, PAUSE_S_MAX = 0.015, 0.25  # between repetitions


@dataclass(frozen=True, slots=True)
class Answered:
    """The final answer to a publish; its verdict is never TRY_AGAIN."""

    verdict: Verdict
    unknown: bool  # an earlier try was not answered: that one may have been stored
    reason: str  # the server's own words, where it refused
    sequence: int | None  # where it is stored, if this answer says so


class Storing:
    """Stores messages for one process."""

    def __init__(self, connection: Connection, requests: Requests) -> None:
        self._connection = connection
        self._requests = requests

    async def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> Answered:
        """Publish until the answer is final or the time is up.

        Raises:
            QueueUnavailable: certainly not stored.
            AcceptanceUnknown: stored or not; the same may be tried again.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + STORE_S_MAX
        unknown = False
        failure: QueueUnavailable
        pause_s = PAUSE_S_MIN
        while True:
            try:
                timeout_s = min(ANSWER_TIMEOUT_S, ends_at - clock())
                answer = await self._requests.ask(
                    subject, payload, headers=headers, timeout_s=timeout_s
                )
            except NoAnswer as error:
                unknown, failure = True, error
            except NotTaken as error:
                if not self._connection.is_connected and not unknown:
                    raise QueueUnavailable("the queue is not reachable") from error
                failure = error
            else:
                given = read_answer(answer.data)
                judged = verdict(given)
                if judged is not Verdict.TRY_AGAIN:
                    reason = given.error.description if given.error else ""
                    return Answered(judged, unknown, reason, given.seq or None)
                failure = QueueUnavailable("the queue is busy with this prediction")
            if not self._connection.is_connected:
                await self._connection.wait_connected(ends_at - clock())
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            if ends_at - clock() <= 2 * pause_s:
                raise given_up(unknown=unknown) from failure
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311  # no secret


def given_up(*, unknown: bool) -> QueueUnavailable:
    """What to raise where a try may have been stored (`unknown`), or none was."""
    if unknown:
        return AcceptanceUnknown("the queue did not confirm the prediction; it may be stored")
    return QueueUnavailable("the queue does not answer")
