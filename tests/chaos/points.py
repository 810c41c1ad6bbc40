"""Fault points: named places at which a process under attack stops, tells, and waits to be let go.

Product code has no hooks. The entry points of `faulty_gateway` and `faulty_dispatcher` wrap methods
of the product's classes by `Points.guard`; where nothing is armed, a wrapped method does what it
always did. This half runs inside the process under attack; `controller` is the other.
"""

import asyncio
import functools
import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

SOCKET_VARIABLE = "CHAOS_SOCKET"


class Points:
    """The fault points of this process. Armed from outside, each for one task and once.

    A thread reads what the controller says, so that nothing has to be started in any event loop.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # over the two below, and over what is written
        self._armed: dict[str, str] = {}  # which point, and for whom: "" is the first to come
        self._held: dict[str, Callable[[], None]] = {}  # lets go the task that waits at a point
        threading.Thread(target=self._listen, name="chaos.points", daemon=True).start()

    @classmethod
    def connect(cls, process: str) -> "Points":
        """Say hello to the controller."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[SOCKET_VARIABLE])
        points = cls(connection)
        points._say({"process": process, "pid": os.getpid()})
        return points

    async def reach(self, point: str, whom: str = "") -> None:
        """Stand here until let go, if this point is armed; otherwise go on."""
        with self._lock:
            if self._armed.get(point) not in ("", whom):
                return
            del self._armed[point]
            loop, go_on = asyncio.get_running_loop(), asyncio.Event()

            def let_go() -> None:
                loop.call_soon_threadsafe(go_on.set)

            self._held[point] = let_go
        self._say({"reached": point})
        await go_on.wait()

    def guard(
        self,
        owner: type,
        method: str,
        *,
        before: str = "",
        after: str = "",
        whom: Callable[..., str] = lambda *_, **__: "",
    ) -> None:
        """Stop in front of, or behind, each call of an asynchronous method of the product.

        `whom` makes of the call's arguments what a point may be armed for.
        """
        original = getattr(owner, method)

        async def guarded(*args: Any, **named: Any) -> Any:
            if before:
                await self.reach(before, whom(*args, **named))
            result = await original(*args, **named)
            if after:
                await self.reach(after, whom(*args, **named))
            return result

        setattr(owner, method, functools.wraps(original)(guarded))

    def _listen(self) -> None:
        with self._connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                order = json.loads(line)
                with self._lock:
                    if "arm" in order:
                        self._armed[order["arm"]] = order["whom"]
                    elif "disarm" in order:
                        self._armed.pop(order["disarm"], None)
                    elif let_go := self._held.pop(order["release"], None):
                        let_go()
                self._say({"done": order["number"]})

    def _say(self, message: dict[str, object]) -> None:
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
