"""Finds models of Triton that do not infer while the server is ready, and has them replaced.

Triton runs each model in processes of its own, its stubs. It neither restarts a stub that died nor
reports it: the server stays ready, and every request to that stub fails. A stub that is frozen or
spins looks just as healthy. The end of one is told by the kernel, the frozen are seen in the
process table; what spins only by an inference, which dispatchers try all the time while one fails.
A model that could not be loaded is loaded again and again: its files may have been mended.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from standalone.alarms import Alarms
from standalone.triton import Stub, Triton, TritonNotHealed, stubs

log = logging.getLogger(__name__)

STUBS_S_MAX = 10.0  # a model is loaded again in half a second on an idle machine
FROZEN_S_MIN = 1.0  # a stub is believed to be frozen if it still is after so long
# A stub of an earlier load may finish what it was asked; an execution takes 10 s at most.
REPLACED_S_MAX = 15.0
UNFIT_EVERY_S = 2.0  # how often the inferences are asked about
# How long a model may fail to infer before it is loaded again, and after that before the server is
# restarted. A reload fails no request, so it need not wait for long; a restart disturbs everybody.
RELOAD_AFTER_S, RESTART_AFTER_S = 5.0, 20.0


@dataclass(slots=True)
class _Spell:
    """A time in which a model does not infer."""

    since: float
    measures: int = 0  # taken against it: one reload, then one restart of the server, then none


class UnfitModels:
    """Decides what to do about models that do not infer. Pure: the time is passed in."""

    def __init__(self) -> None:
        self._spells: dict[str, _Spell] = {}

    def heard(self, unfit: Mapping[str, str], now: float) -> str | None:
        """Take in which models are unfit; return one that something should be done about."""
        patience = (RELOAD_AFTER_S, RESTART_AFTER_S)
        for model in set(self._spells).difference(unfit):
            del self._spells[model]
        for model in unfit:
            spell = self._spells.setdefault(model, _Spell(now))
            if spell.measures < len(patience) and now - spell.since >= patience[spell.measures]:
                return model
        return None

    def restarted(self, now: float) -> None:
        """The server has just been started: each model gets its time again, but no measure more."""
        for spell in self._spells.values():
            spell.since = now

    def may_reload(self, model: str, now: float) -> bool:
        """Begin the next measure: True for a reload, False for a restart of the server.

        What neither of them cures (a wrong environment, a broken file) is left to people.
        """
        spell = self._spells[model]
        spell.since = now
        spell.measures += 1
        return spell.measures == 1


class StubRemedy:
    """The `Remedy` of Triton: one reload of a model instead of a restart of the server.

    It knows the stubs that serve by their processes. To count them would not do: where a stub died
    with a request in its hands, Triton never lets go of the load that it belonged to, and the
    other stubs of that load stay, without work, beside those that took their place.

    Args:
        unfit_models: each model whose last inference failed, and why; may block for seconds.
    """

    def __init__(self, triton: Triton, unfit_models: Callable[[], Mapping[str, str]]) -> None:
        self._triton = triton
        self._unfit_models = unfit_models
        self._pid = 0
        self._serving: dict[str, set[int]] = {}  # the stubs that Triton asks, by model
        self._replaced: dict[int, float] = {}  # stubs of earlier loads, and since when
        self._alarms = Alarms()
        self._asked_at = 0.0
        self._unfit = UnfitModels()
        self._hung: str | None = None
        self._refused: dict[str, str] = {}  # models that Triton could not load, and why

    async def take_stock(self, pid: int) -> None:
        self._pid, self._serving, self._replaced = pid, {}, {}
        for stub in await asyncio.to_thread(stubs, pid):
            self._serving.setdefault(stub.model, set()).add(stub.process.pid)
        self._watch()
        self._unfit.restarted(time.monotonic())

    async def alarm(self) -> None:
        await self._alarms.wait()

    async def ailment(self, pid: int) -> str:  # noqa: ARG002 -- of whose start we took stock
        await self._end_replaced()
        if missing := await self._missing():
            return f"dead or frozen stubs of {', '.join(sorted(missing))}"
        if time.monotonic() - self._asked_at < UNFIT_EVERY_S:
            return ""
        unfit = dict(await asyncio.to_thread(self._unfit_models))
        self._asked_at = time.monotonic()
        if unfit:
            for model in await self._load_refused():
                unfit.pop(model, None)  # neither a reload nor a restart would do more than that
        self._hung = self._unfit.heard(unfit, self._asked_at)
        return f"{self._hung} does not infer: {unfit[self._hung]}" if self._hung else ""

    async def heal(self) -> bool:
        ill = await self._missing()
        # Before their models are loaded again: one that wakes up afterwards crashes Triton.
        for stub in await asyncio.to_thread(stubs, self._pid):
            if stub.is_frozen:
                _kill(stub)
        if self._hung is not None:
            hung, self._hung = self._hung, None
            if not self._unfit.may_reload(hung, time.monotonic()):
                return False
            ill.add(hung)
        for model in sorted(ill):
            try:
                if not await self._reload(model):
                    return False
            except TritonNotHealed as error:
                log.warning("triton.not_healed", extra={"model": model, "reason": str(error)})
                return False
        return True

    async def _reload(self, model: str) -> bool:
        """Have the stubs of `model` replaced; False if they do not come. Raises TritonNotHealed."""
        earlier = await self._stubs_of(model)
        await self._triton.heal(model)
        wanted = max(1, len(self._serving.get(model, ())))
        deadline = time.monotonic() + STUBS_S_MAX
        while len(present := await self._stubs_of(model) - earlier) < wanted:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        self._serving[model] = present
        self._replaced |= dict.fromkeys(earlier, time.monotonic())
        self._watch()
        return True

    async def _stubs_of(self, model: str) -> set[int]:
        found = await asyncio.to_thread(stubs, self._pid)
        return {stub.process.pid for stub in found if stub.model == model}

    async def _end_replaced(self) -> None:
        """End the stubs of earlier loads that Triton has not ended, with all their memory."""
        now = time.monotonic()
        due = {pid for pid, since in self._replaced.items() if now - since > REPLACED_S_MAX}
        if not due:
            return
        for stub in await asyncio.to_thread(stubs, self._pid):
            if stub.process.pid in due:
                log.info("triton.stub_ended", extra={"model": stub.model})
                _kill(stub)
        for pid in due:
            del self._replaced[pid]

    async def _missing(self) -> set[str]:
        """The models of which a stub that should serve is dead or frozen."""
        dead, frozen = await self._dead_and_frozen()
        if frozen and not dead:
            # They are all there. What was frozen together with us wakes up a moment after us.
            await asyncio.sleep(FROZEN_S_MIN)
            dead, frozen = await self._dead_and_frozen()
        return dead | frozen

    async def _dead_and_frozen(self) -> tuple[set[str], set[str]]:
        found = {stub.process.pid: stub for stub in await asyncio.to_thread(stubs, self._pid)}
        dead = {model for model, pids in self._serving.items() if pids - found.keys()}
        serving = set[int]().union(*self._serving.values())
        return dead, {found[pid].model for pid in serving & found.keys() if found[pid].is_frozen}

    def _watch(self) -> None:
        self._alarms.watch(set[int]().union(*self._serving.values()))

    async def _load_refused(self) -> Mapping[str, str]:
        """Load what Triton could not load before; each model that it still cannot, and why."""
        refused: dict[str, str] = {}
        try:
            unready = await self._triton.unready_models()
        except TritonNotHealed:  # it has just ended; that is seen elsewhere
            return {}
        for model in unready:
            try:
                await self._triton.load(model)
            except TritonNotHealed as error:
                refused[model] = str(error)
                if self._refused.get(model) != str(error):
                    log.warning("triton.not_loaded", extra={"model": model, "reason": str(error)})
            else:
                log.info("triton.loaded", extra={"model": model})
                self._serving[model] = await self._stubs_of(model)
                self._watch()
        self._refused = refused
        return refused


def _kill(stub: Stub) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        stub.process.kill()
