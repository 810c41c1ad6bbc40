"""Whether the gateway can do its work, and which part is missing if not.

Ready means that an inference would succeed: the queue and the ledger answer, and for every model
on offer a dispatcher told us lately that its last inference did.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from broker import Broker
from contract.announcements import DispatcherStatus
from contract.errors import DependencyError
from ledger import Ledger

HEARD_S_MAX = 5.0  # dispatchers tell their status every second
DISPATCHERS_MAX = 1000  # remembered; more would be somebody making up names
PING_S_MAX = 2.0
FRESH_S = 1.0  # readiness is asked by whoever likes, and costs two round trips
NOT_READY_FRESH_S = 0.1  # whoever starts us waits for the change


class Readiness(msgspec.Struct, frozen=True):
    """`missing` maps each part that is missing to the reason, in a sentence."""

    ready: bool
    missing: dict[str, str]
    dispatchers: int  # heard of lately


class Health:
    """Listens to dispatchers, and answers for all parts.

    Args:
        models: the names on offer; each must be served by somebody.
        clock: seconds, monotonic.
    """

    def __init__(
        self, ledger: Ledger, broker: Broker, models: Iterable[str], clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._models = tuple(models)
        self._clock = clock
        self._heard: dict[str, tuple[float, DispatcherStatus]] = {}
        self._last: tuple[float, Readiness] | None = None
        self._asking = asyncio.Lock()

    def heard(self, status: DispatcherStatus) -> None:
        """Take in what a dispatcher told."""
        self._heard.pop(status.dispatcher, None)  # the most recent is last
        self._heard[status.dispatcher] = (self._clock(), status)
        if len(self._heard) > DISPATCHERS_MAX:
            del self._heard[next(iter(self._heard))]

    async def readiness(self) -> Readiness:
        """What is missing; at most a second old."""
        async with self._asking:
            if self._last is not None:
                asked_at, readiness = self._last
                fresh_s = FRESH_S if readiness.ready else NOT_READY_FRESH_S
                if self._clock() - asked_at <= fresh_s:
                    return readiness
            readiness = await self._ask()
            self._last = (self._clock(), readiness)
            return readiness

    async def _ask(self) -> Readiness:
        queue, ledger = await asyncio.gather(
            _reason(self._broker.ping()), _reason(self._ledger.ping())
        )
        missing = {"queue": queue, "ledger": ledger}
        now = self._clock()
        lately = [each for at, each in self._heard.values() if now - at <= HEARD_S_MAX]
        if not lately:
            missing["dispatcher"] = f"no dispatcher was heard of for {HEARD_S_MAX:.0f} s"
        else:
            missing.update((f"model:{name}", _model_reason(name, lately)) for name in self._models)
            if all(each.ledger for each in lately):
                missing["dispatcher"] = f"outcomes cannot be recorded: {lately[0].ledger}"
        missing = {part: reason for part, reason in missing.items() if reason}
        return Readiness(not missing, missing, len(lately))

    async def answer_alive(self, _: Request) -> Response:
        """The process runs and its event loop turns."""
        return _json({"status": "ok"}, 200)

    async def answer_ready(self, _: Request) -> Response:
        readiness = await self.readiness()
        return _json(readiness, 200 if readiness.ready else 503)


def _model_reason(name: str, lately: list[DispatcherStatus]) -> str:
    """Why nobody serves the model; empty if somebody does."""
    reasons = [each.models[name] for each in lately if name in each.models]
    if not reasons:
        return "no dispatcher serves it"
    return "" if "" in reasons else reasons[0]


async def _reason(ping: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PING_S_MAX):
            await ping
    except DependencyError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {PING_S_MAX:.0f} s"
    return ""


def _json(content: object, status: int) -> Response:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")
