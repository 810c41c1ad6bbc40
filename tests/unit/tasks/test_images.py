"""Whatever strangers call an image is decoded as it looks, or refused with the rule it breaks."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from contract.errors import InvalidInput, TooLarge, UnsupportedMedia
from contract.limits import IMAGE_PIXELS_MAX
from tasks.images import FORMATS, check_image, square_image

ROOT = Path(__file__).parents[3]
FIELD = "input.image"
SIDE = 32
TOLERANCE = 12  # of 255: what lossy coding moves a flat colour by


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def quarters(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Red and green above, blue and white below: shows every turn and every swapped channel."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    middle_x, middle_y = size[0] // 2, size[1] // 2
    draw.rectangle((0, 0, middle_x - 1, middle_y - 1), fill="red")
    draw.rectangle((middle_x, 0, size[0], middle_y - 1), fill="lime")
    draw.rectangle((0, middle_y, middle_x - 1, size[1]), fill="blue")
    return image


def corners(square: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, from the upper left in reading order."""
    near, far = SIDE // 4, SIDE * 3 // 4
    return [tuple(square[y, x].tolist()) for y in (near, far) for x in (near, far)]


def assert_looks_like(square: NDArray[np.uint8], *expected: tuple[int, int, int]) -> None:
    assert square.shape == (SIDE, SIDE, 3)
    assert square.dtype == np.uint8
    difference = np.abs(np.array(corners(square)) - np.array(expected)).max()
    assert difference <= TOLERANCE, corners(square)


RED, LIME, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_decoded_to_the_same_square(file_format: str) -> None:
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    content = encoded(quarters(), file_format, **options)
    check_image(content, FIELD)
    assert_looks_like(square_image(content, SIDE, FIELD), RED, LIME, BLUE, WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_comes_out_as_rgb(mode: str) -> None:
    content = encoded(Image.new("RGB", (40, 40), "white").convert(mode), "TIFF")
    assert Image.open(io.BytesIO(content)).mode == mode
    assert_looks_like(square_image(content, SIDE, FIELD), WHITE, WHITE, WHITE, WHITE)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    content = encoded(quarters().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    assert_looks_like(square_image(content, SIDE, FIELD), RED, LIME, BLUE, WHITE)


def test_16_bit_grey_keeps_its_shades() -> None:
    shades = np.full((64, 64), 0x4000, dtype=np.uint16)
    content = encoded(Image.fromarray(shades), "PNG")
    assert Image.open(io.BytesIO(content)).mode == "I;16"
    quarter = (0x40, 0x40, 0x40)
    assert_looks_like(square_image(content, SIDE, FIELD), quarter, quarter, quarter, quarter)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused_since_nothing_says_what_is_white(mode: str) -> None:
    content = encoded(Image.new(mode, (8, 8)), "TIFF")
    with pytest.raises(InvalidInput) as raised:
        square_image(content, SIDE, FIELD)
    assert (raised.value.field, raised.value.rule) == (FIELD, "pixel_format")


def test_transparent_parts_are_seen_over_white() -> None:
    image = quarters().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    for file_format in ("PNG", "WEBP"):
        content = encoded(image, file_format)
        assert_looks_like(square_image(content, SIDE, FIELD), WHITE, WHITE, WHITE, WHITE)


def test_a_palette_with_a_transparent_colour_is_seen_over_white() -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    content = encoded(image, "PNG", transparency=1)
    assert_looks_like(square_image(content, SIDE, FIELD), WHITE, WHITE, WHITE, WHITE)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "lime")]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        content = encoded(
            frames[0], file_format, save_all=True, append_images=frames[1:], **options
        )
        assert_looks_like(square_image(content, SIDE, FIELD), RED, RED, RED, RED)


TURNED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("orientation", sorted(TURNED))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_turned_as_its_exif_tag_says(orientation: int, file_format: str) -> None:
    """A camera held sideways stores the scene turned, and the tag that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95} if file_format in ("JPEG", "WEBP") else {}
    content = encoded(TURNED[orientation](quarters()), file_format, exif=exif, **options)
    square = square_image(content, SIDE, FIELD)
    difference = np.abs(np.array(corners(square)) - np.array([RED, LIME, BLUE, WHITE])).max()
    assert difference <= 2 * TOLERANCE


def test_damaged_exif_data_is_no_reason_to_refuse_and_not_worth_a_word() -> None:
    content = encoded(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x07" * 40)
    script = (
        "import sys\n"
        "from tasks.images import square_image\n"
        "print(square_image(sys.stdin.buffer.read(), 32, 'input.image').shape)\n"
    )
    # In a process of its own: pytest filters warnings in its own way.
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], input=content, capture_output=True, cwd=ROOT
    )
    assert (ended.stdout, ended.stderr) == (b"(32, 32, 3)\n", b"")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_an_image_of_a_few_pixels_is_an_image(size: tuple[int, int]) -> None:
    content = encoded(Image.new("RGB", size, "blue"), "PNG")
    assert_looks_like(square_image(content, SIDE, FIELD), BLUE, BLUE, BLUE, BLUE)


def test_a_large_photograph_looks_the_same_although_it_is_scaled_while_decoding() -> None:
    content = encoded(quarters((4000, 3000)), "JPEG", quality=95)
    assert_looks_like(square_image(content, SIDE, FIELD), RED, LIME, BLUE, WHITE)


def test_the_middle_seven_eighths_are_kept() -> None:
    """As these classifiers are evaluated: the middle 224 of 256 pixels."""
    image = Image.new("RGB", (256, 256), "red")
    image.paste("blue", (16, 16, 240, 240))
    assert (square_image(encoded(image, "PNG"), 224, FIELD) == (0, 0, 255)).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is `width` x `height`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (IMAGE_PIXELS_MAX + 1, 1)]
)
def test_a_pixel_bomb_is_too_large_before_anything_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge) as raised:
        check_image(bomb(*size), FIELD)
    assert (raised.value.field, raised.value.rule) == (FIELD, "image_pixels")


@pytest.mark.parametrize(
    "content",
    [
        b"not an image at all",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 64,
    ],
)
def test_what_is_no_image_is_unsupported(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as raised:
        check_image(content, FIELD)
    assert (raised.value.field, raised.value.rule) == (FIELD, "image_format")


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_image_cut_off_in_the_middle_cannot_be_decoded(file_format: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(InvalidInput) as raised:
        square_image(content[: len(content) // 2], SIDE, FIELD)
    assert raised.value.field == FIELD
    assert raised.value.rule in {"decodable_image", "image_format"}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FORMATS), st.data())
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(
    file_format: str, data: st.DataObject
) -> None:
    content = bytearray(encoded(quarters((24, 16)), file_format))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput):
        assert square_image(bytes(content), SIDE, FIELD).shape == (SIDE, SIDE, 3)
