"""How rows get through a Triton that refuses, fails, or goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.catalog import Lane, Model, Tensor
from contract.errors import BatchFailed, InferenceError, ModelRejected, ModelUnavailable
from dispatcher.health import ModelHealth
from dispatcher.infer import DOWNFALLS_MAX, Answer, BroughtDown, Inference
from inference import Input, Overran, Triton
from tasks.base import Tensors

LANE = Lane("doubling", 1)


class DoublingTriton(Triton):
    """Answers twice the input. `objection` may raise, given the batch's numbers."""

    def __init__(self, objection: Callable[[list[int]], None] = lambda numbers: None) -> None:
        super().__init__("nowhere:0")
        self.objection = objection
        self.requests: list[tuple[int, ...]] = []  # the shape of each
        self.hurried: list[bool] = []  # whether each was

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        x = np.asarray(inputs["x"])
        self.requests.append(x.shape)
        self.hurried.append(hurried)
        await asyncio.sleep(0)
        self.objection([int(number) for number in x.ravel()])
        return {"y": x * 2}


class QuickHealth(ModelHealth):
    """A model that is back as soon as somebody asks."""

    def __init__(self, model: Model, triton: Triton) -> None:
        super().__init__(model, triton, Path())
        self.recoveries = 0

    async def recover(
        self, error: ModelUnavailable | None = None, *, thorough: bool = False
    ) -> None:
        self.recoveries += 1


def model(*, max_batch_size: int = 16) -> Model:
    tensors = (Tensor("x", "INT64", (-1,)),), (Tensor("y", "INT64", (-1,)),)
    return Model("doubling", (1,), "tensor", max_batch_size, *tensors)


def ran(triton: Triton, rows: Sequence[Tensors], **settings: int) -> list[Answer | None]:
    served = model(**settings)
    inference = Inference(served, triton, QuickHealth(served, triton), timeout_s=1)
    return asyncio.run(inference.run(LANE, rows))


def rows_of(numbers: Sequence[int]) -> list[Tensors]:
    return [{"x": np.array([number])} for number in numbers]


def results(answers: Sequence[Answer | None]) -> list[int | str]:
    """The number each row was answered, or the code of its error; empty without an answer."""
    return [result(it) for it in answers]


def result(answer: Answer | None) -> int | str:
    if answer is None:
        return ""
    outputs = answer.outputs
    return outputs.code if isinstance(outputs, InferenceError) else int(outputs["y"][0])


def refusing(bad: set[int], error: InferenceError) -> Callable[[list[int]], None]:
    def objection(numbers: list[int]) -> None:
        if bad & set(numbers):
            raise error

    return objection


def test_rows_that_fit_together_share_one_request() -> None:
    triton = DoublingTriton()
    assert results(ran(triton, rows_of(range(16)))) == [2 * n for n in range(16)]
    assert triton.requests == [(16, 1)]


@given(
    st.integers(1, 16),
    st.sets(st.integers(0, 15)),
    st.sampled_from([BatchFailed("it broke"), ModelRejected("not these")]),
)
def test_bad_rows_fail_alone_whichever_they_are(
    count: int, bad: set[int], error: InferenceError
) -> None:
    answers = ran(DoublingTriton(refusing(bad, error)), rows_of(range(count)))
    assert results(answers) == [error.code if n in bad else 2 * n for n in range(count)]


def test_rows_of_different_shapes_go_in_different_requests_and_keep_their_order() -> None:
    rows = [{"x": np.full(size, number)} for number, size in enumerate([3, 5, 3, 3, 5])]
    triton = DoublingTriton()
    answers = ran(triton, rows)
    assert results(answers) == [0, 2, 4, 6, 8]
    assert triton.requests == [(3, 3), (2, 5)]


def test_rows_of_different_types_are_not_stacked_into_one() -> None:
    rows: list[Tensors] = [{"x": np.array([1], np.int64)}, {"x": np.array([2.5], np.float32)}]
    triton = DoublingTriton()
    ran(triton, rows)
    assert len(triton.requests) == 2


def test_a_model_that_was_away_for_a_moment_fails_nobody() -> None:
    outage = iter([True, True, False])

    def objection(numbers: list[int]) -> None:
        if next(outage, False):
            raise ModelUnavailable("its process has died")

    assert results(ran(DoublingTriton(objection), rows_of(range(4)))) == [0, 2, 4, 6]


def test_a_row_that_brings_the_model_down_each_time_fails_alone() -> None:
    def objection(numbers: list[int]) -> None:
        if 3 in numbers:
            raise ModelUnavailable("its process has died")

    triton = DoublingTriton(objection)
    assert results(ran(triton, rows_of(range(4)))) == [0, 2, 4, "inference_failed"]
    # Twice together, then each alone, and only the bad one as often as allowed.
    assert triton.requests == [(4, 1)] * 2 + [(1, 1)] * (3 + DOWNFALLS_MAX)


def test_a_row_that_never_ends_is_asked_for_last_and_alone_with_all_the_time_there_is() -> None:
    """Its neighbours do not wait for it: what is far slower than usual is ended early for them."""
    triton = DoublingTriton(refusing({1, 3}, Overran("the model overran the 2 s")))
    assert results(ran(triton, rows_of(range(4)))) == [0, "inference_failed", 4, "inference_failed"]
    assert triton.requests == [(4, 1), *[(1, 1)] * 6]
    assert triton.hurried == [*[True] * 5, False, False]


def test_a_row_that_is_only_slower_than_the_others_is_answered_all_the_same() -> None:
    class Slow(DoublingTriton):
        async def infer(
            self,
            lane: Lane,
            inputs: Mapping[str, Input],
            outputs: Sequence[str],
            *,
            timeout_s: float,
            hurried: bool = False,
        ) -> dict[str, NDArray[Any]]:
            if hurried and 3 in inputs["x"]:
                raise Overran("the model overran the 2 s")
            return {"y": np.asarray(inputs["x"]) * 2}

    assert results(ran(Slow(), rows_of(range(4)))) == [0, 2, 4, 6]


async def test_batches_under_which_the_model_went_down_are_tried_again_one_at_a_time() -> None:
    """Or a deadly row would take the innocent ones down with it until they look as guilty."""
    at_once: set[int] = set()
    most_at_once = 0

    class Counting(DoublingTriton):
        calls = 0

        async def infer(
            self,
            lane: Lane,
            inputs: Mapping[str, Input],
            outputs: Sequence[str],
            *,
            timeout_s: float,
            hurried: bool = False,
        ) -> dict[str, NDArray[Any]]:
            nonlocal most_at_once
            number = int(inputs["x"][0][0])
            self.calls += 1
            is_down = self.calls <= 4
            await asyncio.sleep(0)
            if is_down:
                raise ModelUnavailable("Triton does not answer")
            at_once.add(number)
            most_at_once = max(most_at_once, len(at_once))
            await asyncio.sleep(0.001)
            at_once.remove(number)
            return {"y": np.asarray(inputs["x"]) * 2}

    served, triton = model(), Counting()
    inference = Inference(served, triton, QuickHealth(served, triton), timeout_s=1)
    answers = await asyncio.gather(*(inference.run(LANE, rows_of([n])) for n in range(4)))
    assert [results(it) for it in answers] == [[0], [2], [4], [6]]
    assert most_at_once == 1


def test_an_answer_with_too_few_rows_is_nobodys_answer() -> None:
    class Losing(DoublingTriton):
        async def infer(
            self,
            lane: Lane,
            inputs: Mapping[str, Input],
            outputs: Sequence[str],
            *,
            timeout_s: float,
            hurried: bool = False,
        ) -> dict[str, NDArray[Any]]:
            return {"y": np.asarray(inputs["x"][:1])}

    assert results(ran(Losing(), rows_of([5, 6, 7]))) == [5, 6, 7]  # asked one by one in the end


def test_a_model_that_does_not_batch_sees_no_batch_dimension() -> None:
    triton = DoublingTriton()
    assert results(ran(triton, rows_of([21]), max_batch_size=0)) == [42]
    assert triton.requests == [(1,)]


@pytest.mark.parametrize("count", [0, 1])
def test_the_time_of_a_request_is_that_of_its_rows(count: int) -> None:
    assert all(it and it.compute_ms > 0 for it in ran(DoublingTriton(), rows_of(range(count))))


async def test_rows_that_are_not_wanted_any_more_are_left_out_of_the_request() -> None:
    triton = DoublingTriton()
    inference = Inference(model(), triton, QuickHealth(model(), triton), timeout_s=1)
    answers = await inference.run(LANE, rows_of(range(6)), wanted=lambda number: number % 2 == 0)
    assert results(answers) == [0, "", 4, "", 8, ""]
    assert triton.requests == [(3, 1)]
    assert results(await inference.run(LANE, rows_of([1, 2]), wanted=lambda _: False)) == ["", ""]
    assert len(triton.requests) == 1, "nothing is asked where nothing is wanted"


async def test_whether_a_row_is_wanted_is_asked_again_once_the_model_is_back() -> None:
    """An outage may be long."""
    unwanted: set[int] = set()

    def objection(numbers: list[int]) -> None:
        if not unwanted:
            unwanted.add(1)
            raise ModelUnavailable("Triton does not answer")

    triton = DoublingTriton(objection)
    inference = Inference(model(), triton, QuickHealth(model(), triton), timeout_s=1)
    wanted = inference.run(LANE, rows_of(range(3)), wanted=lambda number: number not in unwanted)
    assert results(await wanted) == [0, "", 4]
    assert triton.requests == [(3, 1), (2, 1)]


async def test_whoever_waits_for_the_model_steps_aside_meanwhile() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def aside() -> AsyncIterator[None]:
        steps.append("aside")
        yield
        steps.append("back")

    def objection(numbers: list[int]) -> None:
        steps.append("asked")
        if steps.count("asked") < 3:
            raise ModelUnavailable("Triton does not answer")

    triton = DoublingTriton(objection)
    inference = Inference(model(), triton, QuickHealth(model(), triton), timeout_s=1)
    await inference.run(LANE, rows_of([1]), aside=aside)
    assert steps == ["asked", "aside", "back", "asked", "aside", "back", "asked"]


def test_a_row_that_brings_the_model_down_is_told_apart_from_one_that_fails() -> None:
    triton = DoublingTriton(refusing({0}, ModelUnavailable("its process has died")))  # type: ignore[arg-type]
    (answer,) = ran(triton, rows_of([0]))
    assert answer is not None
    assert isinstance(answer.outputs, BroughtDown)
