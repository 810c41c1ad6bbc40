"""Finds models of Triton that do not infer while the server is ready, and has them replaced.

Triton runs each model in processes of its own, its stubs. It neither restarts a stub that died nor
reports it: the server stays ready, and every request to that stub fails. A stub that is frozen or
spins looks just as healthy. The end of one is told by the kernel, the frozen are seen in the
process table; what spins only by an inference, which dispatchers try all the time while one fails.
A model that could not be loaded is loaded again and again: its files may have been mended.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from standalone.alarms import Alarms
from standalone.triton import (
    Triton,
    TritonNotHealed,
    kill_frozen_stubs,
    living_stubs,
    stub_pids,
    stubs_alive,
)

log = logging.getLogger(__name__)

STUBS_S_MAX = 10.0  # a model is loaded again in half a second on an idle machine
FROZEN_S_MIN = 1.0  # a stub is believed to be frozen if it still is after so long
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

    Args:
        unfit_models: each model whose last inference failed, and why; may block for seconds.
    """

    def __init__(self, triton: Triton, unfit_models: Callable[[], Mapping[str, str]]) -> None:
        self._triton = triton
        self._unfit_models = unfit_models
        self._pid = 0
        self._expected: Counter[str] = Counter()
        self._alarms = Alarms()
        self._asked_at = 0.0
        self._unfit = UnfitModels()
        self._hung: str | None = None
        self._refused: dict[str, str] = {}  # models that Triton could not load, and why

    async def take_stock(self, pid: int) -> None:
        self._pid, self._expected = pid, await asyncio.to_thread(living_stubs, pid)
        self._alarms.watch(await asyncio.to_thread(stub_pids, pid))
        self._unfit.restarted(time.monotonic())

    async def alarm(self) -> None:
        await self._alarms.wait()

    async def ailment(self, pid: int) -> str:
        self._alarms.watch(await asyncio.to_thread(stub_pids, pid))
        if missing := await self._missing(pid):
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
        ill = set(await self._missing(self._pid))
        await asyncio.to_thread(kill_frozen_stubs, self._pid)
        if self._hung is not None:
            hung, self._hung = self._hung, None
            if not self._unfit.may_reload(hung, time.monotonic()):
                return False
            ill.add(hung)
        for model in sorted(ill):
            try:
                await self._triton.heal(model)
            except TritonNotHealed as error:
                log.warning("triton.not_healed", extra={"model": model, "reason": str(error)})
                return False
        return await stubs_alive(self._pid, self._expected, STUBS_S_MAX)

    async def _missing(self, pid: int) -> Counter[str]:
        """How many stubs of each model are dead or frozen."""
        missing = self._expected - await asyncio.to_thread(living_stubs, pid)
        if missing and not self._expected - await asyncio.to_thread(living_stubs, pid, frozen=True):
            # They are all there. What was frozen together with us wakes up a moment after us.
            await asyncio.sleep(FROZEN_S_MIN)
            missing = self._expected - await asyncio.to_thread(living_stubs, pid)
        return missing

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
                self._expected |= await asyncio.to_thread(living_stubs, self._pid)
        self._refused = refused
        return refused
