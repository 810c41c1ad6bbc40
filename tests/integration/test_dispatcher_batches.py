"""From the queue through Triton into the ledger, on the real servers."""

import asyncio
import json

import pytest
from prometheus_client import REGISTRY

from blobs import Blobs
from contract.announcements import Announced
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import Outcome, Status
from tests.dispatching import House, dispatching, image_ticket, text_ticket
from tests.services import ROOT

pytestmark = pytest.mark.triton

CAT = (ROOT / "samples" / "cat.jpg").read_bytes()


def output_of(outcome: Outcome) -> object:
    assert outcome.output is not None, outcome.error
    return json.loads(outcome.output)


def triton_requests(model: str) -> tuple[float, float]:
    """How many requests this process has made of a model, and rows in them."""
    labels = {"model": model}
    requests = REGISTRY.get_sample_value("tritonq_batch_rows_count", labels) or 0.0
    return requests, REGISTRY.get_sample_value("tritonq_batch_rows_sum", labels) or 0.0


async def test_a_prediction_ends_in_the_ledger_and_leaves_the_queue(house: House) -> None:
    async with dispatching(house):
        ids = await house.accept([text_ticket("hello"), image_ticket(CAT)])
        text, image = await house.outcomes(ids)
        await house.emptied()
    assert output_of(text) == {"OUTPUT0": ["hello"]}
    assert "cat" in json.dumps(output_of(image)).lower()
    for outcome in (text, image):
        assert outcome.attempts == 1
        assert outcome.completed_at_ms >= outcome.started_at_ms
        assert outcome.compute_ms > 0


async def test_a_recorded_outcome_is_announced(house: House) -> None:
    announced: asyncio.Queue[Announced] = asyncio.Queue()

    def heard(them: list[Announced]) -> None:
        for one in them:
            announced.put_nowait(one)

    await house.broker.subscribe_outcomes(heard)
    async with dispatching(house):
        ids = await house.accept([text_ticket("hello")])
        async with asyncio.timeout(10):
            told = await announced.get()
    assert told.id == ids[0]
    assert told.outcome == (await house.outcomes(ids))[0]


async def test_at_low_load_a_row_runs_at_once_and_alone(house: House) -> None:
    async with dispatching(house):
        before = triton_requests("identity")
        for number in range(5):
            await house.outcomes(await house.accept([text_ticket(str(number))]))
        after = triton_requests("identity")
    assert (after[0] - before[0], after[1] - before[1]) == (5, 5)


async def test_under_load_batches_are_full(house: House) -> None:
    ids = await house.accept(text_ticket(str(number)) for number in range(64 * 20))
    before = triton_requests("identity")
    async with dispatching(house):
        outcomes = await house.outcomes(ids)
        after = triton_requests("identity")
    assert [output_of(it) for it in outcomes] == [{"OUTPUT0": [str(n)]} for n in range(1280)]
    requests, rows = after[0] - before[0], after[1] - before[1]
    assert rows == 1280
    assert rows / requests > 48  # of 64


async def test_a_bad_image_fails_alone_among_its_batch_mates(house: House) -> None:
    images = [CAT, CAT, b"not an image", CAT[: len(CAT) // 2], CAT, b"", CAT]
    ids = await house.accept(image_ticket(content) for content in images)
    async with dispatching(house):
        outcomes = await house.outcomes(ids)
    assert [it.status for it in outcomes] == [
        Status.SUCCEEDED if content == CAT else Status.FAILED for content in images
    ]
    assert outcomes[2].error is not None
    assert outcomes[2].error.message.startswith("input.image")


async def test_an_inline_file_is_readable_by_its_name_once_the_prediction_has_ended(
    house: House,
) -> None:
    ticket = image_ticket(CAT)
    async with dispatching(house):
        await house.outcomes(await house.accept([ticket]))
    recorded = await house.ledger.get(ticket.id)
    assert recorded is not None
    file = recorded.ticket.files["image"]
    assert file.content is None
    blobs = Blobs.open(house.blobs_url)
    assert await blobs.get(ticket.id, file.sha256) == CAT


async def test_a_file_that_travelled_through_the_blobs_is_fetched(house: House) -> None:
    content = CAT + b"\0" * INLINE_BYTES_MAX  # a JPEG may have anything behind it
    ticket, gone = image_ticket(content, inline=False), image_ticket(CAT + b"\0", inline=False)
    sha256 = ticket.files["image"].sha256
    await Blobs.open(house.blobs_url).put(ticket.id, content, sha256)
    async with dispatching(house):
        kept, missing = await house.outcomes(await house.accept([ticket, gone]))
    assert "cat" in json.dumps(output_of(kept)).lower()
    assert missing.error is not None
    assert missing.error.code == "input_missing"


async def test_a_version_that_is_no_longer_served_fails_with_that_reason(house: House) -> None:
    async with dispatching(house):
        (outcome,) = await house.outcomes(await house.accept([text_ticket(version=7)]))
    assert outcome.error is not None
    assert outcome.error.code == "unknown_model"
    assert "7" in outcome.error.message
