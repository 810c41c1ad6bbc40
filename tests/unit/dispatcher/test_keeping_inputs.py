"""Input files are kept, before the outcome is recorded and at the cost of no waiting."""

import asyncio

import msgspec
import pytest

from contract.errors import (
    ModelRejected,
)
from dispatcher.execute import KeepInputs
from tests.played_executor import Stage, codes, file, text


async def test_nothing_is_recorded_before_its_input_is_kept(stage: Stage) -> None:
    stage.blobs.away = 2
    await stage.run(text(None, **{"in": file()}))
    assert stage.effects == ["infer 1", "inferred", *["keep"] * 3, "record", "announce", "ack"]


async def test_inputs_are_kept_while_the_model_infers(stage: Stage) -> None:
    stage.triton.until = stage.blobs.kept.wait
    async with asyncio.timeout(5):
        await stage.run(text(None, **{"in": file()}))
    assert stage.effects == ["infer 1", "keep", "inferred", "record", "announce", "ack"]


async def test_what_a_model_failed_on_for_good_is_recorded_once_its_input_is_kept() -> None:
    stage = Stage(keep_inputs="failed")
    stage.triton.failures = [ModelRejected("no")]
    await stage.run(text(None, **{"in": file()}))
    stage.encoder.close()
    assert stage.effects == ["infer 1", "inferred", "keep", "record", "announce", "ack"]


async def test_the_input_of_what_is_refused_unrun_is_kept_too(stage: Stage) -> None:
    ticket = msgspec.structs.replace(text(None, **{"in": file()}), version=9)
    assert codes(await stage.run(ticket)) == ["unknown_model"]
    assert stage.effects == ["inferred", "keep", "record", "announce", "ack"]


async def test_a_bug_while_the_model_infers_leaves_at_once_though_the_blobs_are_away(
    stage: Stage,
) -> None:
    stage.blobs.away = 10**12
    stage.triton.failures = [ZeroDivisionError()]
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await stage.run(text(None, **{"in": file()}))
    assert "record" not in stage.effects


# One prediction that succeeds has one file, one that fails has two.
@pytest.mark.parametrize(("keep_inputs", "kept"), [("all", 3), ("failed", 2), ("none", 0)])
async def test_the_policy_says_whose_inputs_are_kept(keep_inputs: KeepInputs, kept: int) -> None:
    stage = Stage(keep_inputs=keep_inputs)
    bad = text(None, **{"in": file(), "no such field": file()})
    await stage.run(text(None, **{"in": file()}), bad)
    stage.encoder.close()
    assert stage.effects.count("keep") == kept
