"""Leaves a server that cannot serve us, where there is another one to go to.

A client notices by itself that its connection was closed. It does not notice that the server hangs
(for 15 s), and never that it is cut off from the rest of its cluster: such a server goes on
answering pings, but whatever it is told cannot be kept.
"""

import asyncio
import logging
from typing import NoReturn

from broker.connection import Connection
from broker.requests import Requests
from broker.stream import NotDeclared, require_majority
from contract.errors import QueueUnavailable
from contract.queue import QueueNames

log = logging.getLogger(__name__)

EVERY_S = 1.0
LOOKS_MAX = 2  # that fail in a row before it moves on: 2 to 6 s


class Watch:
    """Asks for the stream's leader, once a second, through the server it is connected to."""

    def __init__(self, connection: Connection, requests: Requests, names: QueueNames) -> None:
        self._connection = connection
        self._requests = requests
        self._stream = names.stream

    async def run(self) -> NoReturn:
        failed = 0
        while True:
            await asyncio.sleep(EVERY_S)
            if not self._connection.has_others or not self._connection.is_connected:
                failed = 0
                continue
            try:
                await require_majority(self._requests, self._stream)
            except NotDeclared:
                failed = 0  # somebody who knows has answered
            except QueueUnavailable as error:
                failed += 1
                if failed == LOOKS_MAX:
                    # While a leader is elected no server is better than another. Going round them
                    # costs little; waiting at the one that is cut off would cost a lot.
                    log.warning("broker.moves_on", extra={"reason": str(error)})
                    self._connection.move_on()
                    failed = 0
            else:
                failed = 0
