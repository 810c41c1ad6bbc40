"""A steady load by many callers, each with a habit of its own, drawn from a seed.

Callers come at a fixed rate, whatever becomes of those before them: a service that stalls is not
spared. Each makes its calls, follows what was accepted until it has seen the outcome, and leaves.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from contract.ids import new_prediction_id
from contract.moves import ENDED, State
from tests.chaos.history import Call, History
from tests.chaos.http import Answer, NoAnswer, ask
from tests.chaos.sight import all_seen_in

TEXT_PATH = "/v1/models/triton/identity/predictions"
IMAGE_PATH = "/v1/models/triton/efficientnet_lite0/predictions"
CALLERS_MAX = 600  # more than these and the machine is what is being tested
PATIENCE_S = 45.0  # a caller's, beyond the wait it asked for
POLL_S_FIRST, POLL_S_MAX = 0.05, 1.5
KEPT_ENDED = 200


@dataclass(frozen=True, slots=True)
class Photograph:
    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Fate:
    """When a prediction was accepted, and when its end was first seen."""

    kind: str  # "text" or "image"
    accepted_at: float
    ended_at: float


class Load:
    """Callers of one gateway, for one cell."""

    def __init__(
        self,
        port: int,
        history: History,
        clock: Callable[[], float],
        photographs: list[Photograph],
        *,
        seed: str,
        rate_per_s: float,
        moves: bool,
    ) -> None:
        self._port = port
        self._history = history
        self._clock = clock
        self._random = random.Random(seed)
        self._photographs = photographs
        self._rate_per_s = rate_per_s
        self._callers: set[asyncio.Task[None]] = set()
        self._coming: asyncio.Task[None] | None = None
        self._numbers = 0
        self._changed = asyncio.Event()
        self._ended_ids: list[str] = []
        self._failed_ids: list[str] = []
        self.fates: list[Fate] = []
        self.turned_away = 0  # callers who did not come, because too many were there
        self._habits: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (28, self._submits_text_and_polls),
            (18, self._prefers_to_wait),
            (14, self._waits_by_get),
            (12, self._sends_a_photograph),
            (10, self._reads_again),
            (4, self._lists),
        )
        if moves:
            self._habits += (
                (6, self._repeats_with_a_key),
                (4, self._puts),
                (4, self._cancels),
                (3, self._sets_a_deadline),
            )

    def start(self) -> None:
        self._coming = asyncio.create_task(self._come(), name="chaos.load")

    def stop_coming(self) -> None:
        """Nobody new from now on; those who are there go on."""
        if self._coming is not None:
            self._coming.cancel()

    async def all_left(self, wait_s: float) -> bool:
        """Wait until every caller has seen what it came for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._callers:
                    await asyncio.wait(self._callers)
        return not self._callers

    async def end(self) -> None:
        """Send everybody away. Raises what a caller raised: a bug of ours."""
        self.stop_coming()
        left = list(self._callers)
        for caller in left:
            caller.cancel()
        if left:
            await asyncio.wait(left)
        if self._coming is not None:
            await asyncio.wait([self._coming])
            if not self._coming.cancelled() and (error := self._coming.exception()):
                raise error

    async def until(self, fulfilled: Callable[[list[Fate]], bool], wait_s: float) -> None:
        """Wait until what was seen to end fulfils something. Raises TimeoutError."""
        async with asyncio.timeout(wait_s):
            while not fulfilled(self.fates):
                self._changed.clear()
                await self._changed.wait()

    async def _come(self) -> None:
        weights = [weight for weight, _ in self._habits]
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._random.expovariate(self._rate_per_s)
            await asyncio.sleep(max(0.0, due - loop.time()))
            [(_, habit)] = self._random.choices(self._habits, weights)
            if len(self._callers) >= CALLERS_MAX:
                self.turned_away += 1
                continue
            caller = asyncio.ensure_future(habit())
            self._callers.add(caller)
            caller.add_done_callback(self._leaves)

    def _leaves(self, caller: "asyncio.Task[None]") -> None:
        self._callers.discard(caller)
        if not caller.cancelled() and (error := caller.exception()) and self._coming:
            self._coming.get_loop().call_exception_handler({"message": "load", "exception": error})

    # The habits.

    async def _submits_text_and_polls(self) -> None:
        call = await self._submit_text()
        await self._poll(call)

    async def _prefers_to_wait(self) -> None:
        call = await self._submit_text(wait_s=self._random.choice((1.0, 3.0, 6.0)))
        await self._wait(call)

    async def _waits_by_get(self) -> None:
        call = await self._submit_text()
        await self._wait(call)

    async def _sends_a_photograph(self) -> None:
        photograph = self._random.choice(self._photographs)
        wait_s = self._random.choice((0.0, 3.0))
        headers = {"Content-Type": photograph.media_type}
        asked = f"image:{photograph.name}"
        call = await self._call(
            "submit", "POST", IMAGE_PATH, headers, photograph.content, asked=asked, wait_s=wait_s
        )
        await self._poll(call)

    async def _reads_again(self) -> None:
        """What has ended must stay readable, and the same."""
        if self._ended_ids:
            await self._get(self._random.choice(self._ended_ids))

    async def _lists(self) -> None:
        await self._call("list", "GET", f"/v1/predictions?limit={self._random.choice((10, 40))}")

    async def _repeats_with_a_key(self) -> None:
        """Several at once with one key, and again until one of them is answered."""
        text, key = self._text(), f"key-{self._random.getrandbits(64):016x}"
        for _ in range(20):
            many = self._random.choice((1, 2, 4))
            calls = await asyncio.gather(*(self._submit_text(text, key=key) for _ in range(many)))
            if accepted := [call for call in calls if call.accepts]:
                await self._poll(accepted[0])
                return
            await asyncio.sleep(0.5)

    async def _puts(self) -> None:
        """A caller's own id: sent again until it is answered, and once more after that."""
        text = self._text()
        own = new_prediction_id(time.time_ns() // 1_000_000, self._random.randbytes(10))
        path = f"/v1/predictions/{own}"
        document = {"version": "triton/identity", "input": {"INPUT0": text}}
        for _ in range(20):
            call = await self._call(
                "put", "PUT", path, _JSON, _json(document), asked=f"text:{text}", key=own
            )
            if call.accepts:
                await self._poll(call)
                await self._call(
                    "put", "PUT", path, _JSON, _json(document), asked=f"text:{text}", key=own
                )
                return
            await asyncio.sleep(0.5)

    async def _cancels(self) -> None:
        call = await self._submit_text()
        if not call.accepts:
            return
        await asyncio.sleep(self._random.choice((0.0, 0.0, 0.02, 0.3)))
        path = f"/v1/predictions/{call.seen[0].id}/cancel"
        await self._call("cancel", "POST", path, id=call.seen[0].id)
        await self._poll(call)

    async def _sets_a_deadline(self) -> None:
        """And tries once more, without one, what was not run in time."""
        call = await self._submit_text(cancel_after_s=self._random.choice((1.0, 2.0, 30.0)))
        await self._wait(call)
        if self._failed_ids and self._failed_ids[-1] == _id(call):
            path = f"/v1/predictions/{_id(call)}/retry"
            again = await self._call("retry", "POST", path, asked=call.asked)
            await self._poll(again)

    # What they are made of.

    async def _submit_text(
        self,
        text: str | None = None,
        *,
        wait_s: float = 0.0,
        key: str = "",
        cancel_after_s: float = 0.0,
    ) -> Call:
        text = text or self._text()
        headers = dict(_JSON)
        if key:
            headers["Idempotency-Key"] = key
        if cancel_after_s:
            headers["Cancel-After"] = f"{cancel_after_s:g}s"
        return await self._call(
            "submit", "POST", TEXT_PATH, headers, _json({"input": {"INPUT0": text}}),
            asked=f"text:{text}", key=key, wait_s=wait_s, cancel_after_s=cancel_after_s,
        )  # fmt: skip

    async def _poll(self, submitted: Call) -> None:
        """Ask now and then until it has ended."""
        pause_s = POLL_S_FIRST
        while submitted.accepts and not self._has_ended(submitted):
            await asyncio.sleep(pause_s * self._random.uniform(0.7, 1.3))
            pause_s = min(1.5 * pause_s, POLL_S_MAX)
            call = await self._get(submitted.seen[0].id)
            if call.status in (404, 410) or self._ends(submitted, call):
                return

    async def _wait(self, submitted: Call) -> None:
        """Ask and wait until it has ended."""
        while submitted.accepts and not self._has_ended(submitted):
            call = await self._get(submitted.seen[0].id, self._random.choice((1.0, 4.0, 8.0)))
            if call.status in (404, 410) or self._ends(submitted, call):
                return
            if call.status != 200:
                await asyncio.sleep(0.5)

    def _has_ended(self, submitted: Call) -> bool:
        return self._ends(submitted, submitted)

    def _ends(self, submitted: Call, call: Call) -> bool:
        """Whether this call shows the outcome; if so, note it."""
        if not call.seen or call.seen[0].state not in ENDED:
            return False
        self.fates.append(Fate(submitted.asked.partition(":")[0], submitted.ended, call.ended))
        self._ended_ids.append(call.seen[0].id)
        if call.seen[0].state is State.FAILED:
            self._failed_ids.append(call.seen[0].id)
        del self._ended_ids[:-KEPT_ENDED]
        self._changed.set()
        return True

    async def _get(self, prediction_id: str, wait_s: float = 0.0) -> Call:
        path = f"/v1/predictions/{prediction_id}"
        if not wait_s:
            return await self._call("get", "GET", path, id=prediction_id)
        return await self._call(
            "wait", "GET", f"{path}?wait={wait_s:g}", id=prediction_id, wait_s=wait_s
        )

    async def _call(
        self,
        kind: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        **told: Any,
    ) -> Call:
        """Make one call and write down what came of it; `told` are fields of `Call`."""
        wait_s = told.get("wait_s", 0.0)
        sent = dict(headers or {})
        if wait_s and kind != "wait":
            sent["Prefer"] = f"wait={wait_s:g}"
        began, failure, answer = self._clock(), "", None
        try:
            answer = await ask(
                self._port, method, path, headers=sent, body=body, within_s=wait_s + PATIENCE_S
            )
        except NoAnswer as error:
            failure = str(error)
        call = _call(kind, began, self._clock(), answer, failure, told)
        self._history.add(call)
        return call

    def _text(self) -> str:
        self._numbers += 1
        return f"text {self._numbers} {self._random.getrandbits(64):016x} äöü"


def _call(
    kind: str,
    began: float,
    ended: float,
    answer: Answer | None,
    failure: str,
    told: Mapping[str, Any],
) -> Call:
    if answer is None:
        return Call(kind, began, ended, 0, failure=failure, **told)
    seen = []
    if answer.status < 300:
        seen = all_seen_in(answer.body)
    else:
        failure = _code(answer.body)
    retry_after = answer.headers.get("retry-after", "")
    return Call(
        kind, began, ended, answer.status, seen,
        retry_after=retry_after, failure=failure, **told,
    )  # fmt: skip


def _id(call: Call) -> str:
    return call.seen[0].id if call.seen else ""


def _code(body: bytes) -> str:
    """The code of a problem, and what is said about it."""
    try:
        document = json.loads(body)
        return f"{document['code']}: {document['detail']}"
    except (ValueError, KeyError, TypeError):
        return ascii(body[:80])


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


_JSON = {"Content-Type": "application/json"}
