"""When a model is fit to be served again."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.catalog import Lane, Model, Tensor
from contract.errors import ModelUnavailable
from dispatcher import health
from dispatcher.health import ModelHealth
from inference import Input, Triton

TWICE = Model(
    "echo", (1,), "tensor", 8, (Tensor("in", "BYTES", (1,)),), (Tensor("out", "BYTES", (1,)),),
    instances=2,
)  # fmt: skip


class HalfDeadTriton(Triton):
    """Two instances, the second one dead for a while. Gives a request to the first that is free."""

    def __init__(self, failures: int) -> None:
        super().__init__("nowhere:0")
        self._busy = 0
        self._failures = failures

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        instance = self._busy
        self._busy += 1
        try:
            await asyncio.sleep(0)
            if instance == 1 and self._failures:
                self._failures -= 1
                raise ModelUnavailable("its process has died")
        finally:
            self._busy -= 1
        return {"out": np.asarray(inputs["in"])}

    @property
    def is_whole(self) -> bool:
        return self._failures == 0


async def test_a_model_is_not_back_before_all_its_instances_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a prediction meets the dead one time and again, and is taken for the cause."""
    monkeypatch.setattr(health, "CHECK_S_FIRST", 0.0)
    known_answer(tmp_path)
    triton = HalfDeadTriton(failures=3)
    served = ModelHealth(TWICE, triton, tmp_path)
    await served.recover(ModelUnavailable("its process has died"))
    assert triton.is_whole
    assert served.reason == ""


class OccupiedTriton(HalfDeadTriton):
    """Its dead instance is busy with somebody else's request while the first answers are given."""

    def __init__(self, failures: int) -> None:
        super().__init__(failures)
        self._hidden = 2 * TWICE.instances  # of two rounds

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        if self._hidden:
            self._hidden -= 1
            return {"out": np.asarray(inputs["in"])}
        return await super().infer(lane, inputs, outputs, timeout_s=timeout_s)


async def test_before_an_input_is_blamed_no_dead_instance_can_hide_behind_a_request_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CHECK_S_FIRST", 0.0)
    monkeypatch.setattr(health, "HELD_BY_DEAD_S", 0.0)
    known_answer(tmp_path)
    triton = OccupiedTriton(failures=3)
    served = ModelHealth(TWICE, triton, tmp_path)
    away = ModelUnavailable("its process has died")
    await served.recover(away)
    assert not triton.is_whole, "this tests nothing any more"
    await served.recover(away, thorough=True)
    assert triton.is_whole
    assert served.reason == ""


def known_answer(repository: Path) -> None:
    question, answer = {"in": {"data": ["hello"], "shape": [1]}}, {"out": {"equals": ["hello"]}}
    (repository / "echo").mkdir()
    known = repository / "echo" / "known_answer.json"
    known.write_text(json.dumps({"inputs": question, "outputs": answer}))
