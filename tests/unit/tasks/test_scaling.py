"""A photograph is scaled to what Pillow makes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.photographs import photographs
from tasks import images, scaling
from tasks.scaling import scaled_square

SIDES = st.integers(1, 700)


def off_by(image: Image.Image, side: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int16]]":
    """How far each byte is from what Pillow makes of the same part."""
    box = images._middle(image.size)
    expected = image.resize((side, side), Image.Resampling.BICUBIC, box)
    found = scaled_square(image, side, box)
    assert (found.mode, found.size) == (image.mode, (side, side))
    return np.abs(np.asarray(found, np.int16) - np.asarray(expected, np.int16))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_photographs_differ_from_pillows_in_few_bytes_and_by_one() -> None:
    for content in photographs(14):
        difference = off_by(images._with_8_bits(images._open(content, "image")), 224)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.01


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.sampled_from([1, 32, 224, 300]), st.integers(0, 100))
def test_a_picture_of_any_size_and_shape_is_scaled_up_or_down_as_pillow_does(
    width: int, height: int, side: int, seed: int
) -> None:
    difference = off_by(noise(width, height, seed), side)  # noise is the worst there is
    if width >= height:
        assert difference.max() <= 2
    else:  # Pillow may begin with the columns, and rounds and clips in between
        assert difference.mean() < 1


@pytest.mark.parametrize("size", [(375, 500), (768, 1024), (30_000, 20)])
def test_usual_portraits_and_very_long_pictures_are_scaled_as_pillow_does(
    size: tuple[int, int],
) -> None:
    assert off_by(noise(*size), 224).max() <= 2


def test_a_picture_too_large_to_copy_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "ImageData", lambda *_: pytest.fail("it was copied"))
    assert off_by(noise(2001, 1000), 224).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_other_modes_are_left_to_pillow(mode: str) -> None:
    assert off_by(noise(50, 40).convert(mode), 32).max() == 0
