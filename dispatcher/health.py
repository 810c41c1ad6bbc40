"""Whether a model answers, and answers right.

Triton says "ready" for a model whose process is dead, or whose environment corrupts its tensors. So
the one proof is an inference whose answer is known: at start, and after every outage.
"""

import asyncio
import logging
from pathlib import Path

from contract.catalog import Model
from contract.errors import ModelUnavailable
from dispatcher.outages import Outage
from inference import BrokenRepository, Triton, check_known_answer
from telemetry import metrics

log = logging.getLogger(__name__)

CHECK_S_FIRST = 0.1  # pause between two checks while the model is away
HELD_BY_DEAD_S = 1.2  # more than Triton waits for a dead stub
CHECK_S_MAX = 0.5


class ModelHealth:
    """Knows whether one model can be served, in every version on offer."""

    def __init__(self, model: Model, triton: Triton, repository: Path) -> None:
        self._model = model
        self._triton = triton
        self._repository = repository
        self._gauge = metrics.MODEL_AVAILABLE.labels(model.name)
        self._recovering = asyncio.Lock()
        self._recoveries = 0
        self.outage = Outage(f"model:{model.name}", reason="its known answer is not checked yet")

    @property
    def reason(self) -> str:
        """Why the model cannot be served: one sentence; empty when it can."""
        return self.outage.reason

    async def recover(
        self, error: ModelUnavailable | None = None, *, thorough: bool = False
    ) -> None:
        """Return once every version gives its known answer; `error` is how it was found away.

        Callers that find it away together share one round of checks, but for those who ask for a
        `thorough` one: whose input is blamed if the model is still not well.
        """
        before = self._recoveries
        self._note(error)
        async with self._recovering:
            if self._recoveries > before and not thorough:
                return
            self._note(error)  # somebody else's round may have ended meanwhile
            await self._until_right()
            if thorough:
                # A dead instance holds whatever it is given for a second, and while it held
                # somebody else's request, the others gave all the answers.
                await asyncio.sleep(HELD_BY_DEAD_S)
                await self._until_right()
            self._recoveries += 1
            self._gauge.set(1)
            self.outage.end()

    def _note(self, error: ModelUnavailable | None) -> None:
        if error is not None:
            self.outage.begin(str(error))
            self._gauge.set(0)

    async def _until_right(self) -> None:
        pause_s = CHECK_S_FIRST
        while (reason := await self._reason_now()) != "":
            if reason != self.outage.reason:
                log.warning("model.unfit", extra={"model": self._model.name, "reason": reason})
            self.outage.begin(reason)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, CHECK_S_MAX)

    async def _reason_now(self) -> str:
        for version in self._model.versions:
            # One question for each instance, all at once: Triton gives each to an instance that is
            # free. A dead one, asked or not by chance, would make rows look guilty in the end.
            checks = [
                check_known_answer(self._triton, self._model, version, self._repository)
                for _ in range(self._model.instances)
            ]
            for error in await asyncio.gather(*checks, return_exceptions=True):
                if isinstance(error, ModelUnavailable | BrokenRepository):
                    return str(error)
                if error is not None:
                    raise error
        return ""
