"""Decodes images that strangers sent: what is too large or no image costs almost nothing.

The only user of Pillow's decoders. `check_image` reads the header alone; `square_image` decodes,
crops and scales in one step, in the way that was measured to be the fastest with unchanged labels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from contract.errors import InvalidInput, TooLarge, UnsupportedMedia
from contract.limits import IMAGE_PIXELS_MAX, IMAGE_SIDE_MAX
from tasks import image_files
from tasks.scaling import scaled_square

# Only these decoders ever see a caller's bytes. Importing them here registers them, so that Pillow
# never loads its forty others to try.
_DECODERS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    AvifImagePlugin.AvifImageFile,
)
FORMATS = tuple(str(decoder.format) for decoder in _DECODERS)

# Pillow only warns between its limit and twice that. Ours is checked right after the header.
Image.MAX_IMAGE_PIXELS = None
# It also warns of damaged metadata, in words that contain the damage: each would be a new line in
# the log, and kept in memory for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# The part of the shorter side that is kept, as these classifiers were evaluated: 224 of 256.
CROP = 0.875
# A JPEG is scaled down while it is decoded, to no less than this: labels stay the same, and a
# photograph of 12 megapixels takes a quarter of the time.
_DRAFT_SIDE = 512

_ORIENTATION_TAG = 0x0112
# How to turn an image for each value of the EXIF tag. Source: EXIF 2.32, section 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_NO_RANGE = ("I", "F")  # 32-bit pixels: nothing says which value is white
_HIGH_BYTE = 8  # bits


def check_image(content: bytes, field: str) -> None:
    """Refuse what its header shows to be no image, or one with too many pixels.

    Takes about 0.05 ms: nothing is decoded.

    Args:
        content: the file.
        field: its path in the request, for the message.

    Raises:
        UnsupportedMedia: no image, or of a format not in FORMATS.
        TooLarge: more pixels than contract.limits.IMAGE_PIXELS_MAX.
        InvalidInput: the header is damaged.
    """
    _open(content, field)


def square_image(content: bytes, side: int, field: str) -> NDArray[np.uint8]:
    """Decode the middle of an image, as it is seen, scaled to a square.

    The first frame of several; turned as its EXIF tag says; transparent parts over white; 16-bit
    grey by its high byte.

    Returns:
        uint8[side, side, 3], RGB.

    Raises:
        InvalidInput: it cannot be decoded, for example since it is truncated. (Also
            UnsupportedMedia and TooLarge, as `check_image`.)
    """
    image = _open(content, field)
    if image.mode in _NO_RANGE:
        raise InvalidInput(
            "its pixels are 32-bit numbers without a known range; send 8 or 16 bits a channel",
            field=field,
            rule="pixel_format",
        )
    with _decoding(field):
        image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE))
        pixels = _with_8_bits(image)
        square = scaled_square(pixels, side, _middle(pixels.size))
        if square.mode == "RGBA":
            square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square)
        # The middle square stays the same square however it is turned: turn the small one.
        turn = _TURNS.get(_orientation(image))
        turned = square if turn is None else square.transpose(turn)
        return np.asarray(turned if turned.mode == "RGB" else turned.convert("RGB"))


def _open(content: bytes, field: str) -> Image.Image:
    """Read the header and check the size it states."""
    try:
        with _decoding(field):
            image_files.refuse_costly(content, field)
            image = Image.open(image_files.Content(content, field), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedMedia(
            f"it is not an image in one of the formats {', '.join(FORMATS)}",
            field=field,
            rule="image_format",
        ) from None
    width, height = image.size
    if width * height > IMAGE_PIXELS_MAX:
        raise TooLarge(
            f"it has {width} x {height} pixels; at most {IMAGE_PIXELS_MAX:,} are allowed",
            field=field,
            rule="image_pixels",
        )
    if max(width, height) > IMAGE_SIDE_MAX:
        # Each row costs Pillow a pointer and a call, however short it is.
        raise TooLarge(
            f"it has {width} x {height} pixels; at most {IMAGE_SIDE_MAX:,} are allowed a side",
            field=field,
            rule="image_side",
        )
    if width < 1 or height < 1:
        raise InvalidInput("it has no pixels", field=field, rule="image_pixels")
    if image.format == JpegImagePlugin.JpegImageFile.format:
        image_files.refuse_many_scans(content, width * height, field)
    return image


@contextmanager
def _decoding(field: str) -> Iterator[None]:
    """Turn whatever a decoder raises into InvalidInput.

    On damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error, IndexError and
    more; all of them mean the same.
    """
    try:
        yield
    except (UnidentifiedImageError, MemoryError, InvalidInput):
        raise
    except Exception as error:
        raise InvalidInput(
            "it cannot be decoded: the file is damaged or truncated",
            field=field,
            rule="decodable_image",
        ) from error


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Decode as RGB, or as RGBA where something is transparent."""
    if image.mode in _DEEP_GREY:
        # Pillow's own conversion would clip: anything above 255 of 65535 would be white.
        deep: NDArray[Any] = np.asarray(image)
        return Image.fromarray((deep >> _HIGH_BYTE).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # Converting a photograph to what it is already would copy it: 0.5 of 3 ms.
    return image if image.mode == mode else image.convert(mode)


def _middle(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    side = CROP * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - as in _decoding; damaged metadata is no reason to refuse
        return 1
