"""What the large benchmarks compute themselves."""

import io

import pytest
from PIL import Image

from benchmarks.burst import Images, middle_rate
from benchmarks.ledger import PAGE, Filled, is_walk
from contract.ids import PredictionId, is_uuid7


@pytest.mark.parametrize("size", [70_000, 100_000, 200_000])
def test_images_of_a_burst_have_the_size_asked_for_differ_and_can_be_decoded(size: int) -> None:
    images = Images(size)
    made = {images.image(number) for number in range(130)}

    assert len(made) == 130
    assert {len(each) for each in made} == {size}
    for each in list(made)[:5]:
        Image.open(io.BytesIO(each)).load()


def test_the_rate_of_a_drain_leaves_out_its_beginning_and_its_end() -> None:
    held = [(0.0, 1000), (5.0, 900), (10.0, 500), (15.0, 100), (100.0, 0)]

    assert middle_rate(held) == 80.0


def test_a_page_that_reads_far_more_than_its_rows_is_a_walk() -> None:
    assert not is_walk({"blocks": PAGE + 50, "scans": ["Index Scan"]})
    assert is_walk({"blocks": 50 * PAGE, "scans": ["Index Scan"]})
    assert is_walk({"blocks": 5, "scans": ["Seq Scan"]})


def test_the_ids_of_a_filled_ledger_are_known_and_in_order() -> None:
    filled = Filled(1000, 1_795_392_000_000)
    ids: list[PredictionId] = [filled.id(number) for number in range(1000)]

    assert ids == sorted(set(ids))
    assert all(map(is_uuid7, ids))
