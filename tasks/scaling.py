"""Scales photographs as Pillow's BICUBIC does, in a third of its time. Pure.

Pillow goes over each byte by itself; cykooz-resizer, the Python side of Rust's fast_image_resize,
takes 32 at once where the processor can. Asked for the rows and then for the columns, as Pillow
does it, it gives the same picture: 3 bytes in 1,000 differ, by 1. (Both in one call are rounded in
another order: 150 in 1,000. So are pictures so tall that Pillow begins with the columns.)
"""

import math

from cykooz_resizer import (
    CropBox,
    FilterType,
    ImageData,
    PixelType,
    ResizeAlg,
    ResizeOptions,
    Resizer,
)
from PIL import Image

# Its pixels are copied on their way: a larger picture is left to Pillow, which needs no copy. A
# photograph that was scaled down while it was decoded has 1 megapixel at most, unless it is long.
COPIED_PIXELS_MAX = 2_000_000

_CUBIC = ResizeAlg.convolution(FilterType.catmull_rom)  # a = -0.5, as in Pillow
_SUPPORT = 2.0  # of the cubic: so many source pixels on either side, times the scale

Box = tuple[float, float, float, float]  # left, upper, right, lower


def scaled_square(image: Image.Image, side: int, box: Box) -> Image.Image:
    """The part of `image` inside `box`, scaled to `side` x `side`.

    500 x 375 to 224: 0.4 ms instead of 1.3.
    """
    width, height = image.size
    if image.mode != "RGB" or width * height > COPIED_PIXELS_MAX:
        return image.resize((side, side), Image.Resampling.BICUBIC, box)
    left, upper, right, lower = box
    reach = _SUPPORT * max(1.0, (lower - upper) / side) + 1
    first, last = max(0, math.floor(upper - reach)), min(height, math.ceil(lower + reach))
    resizer = Resizer()  # it keeps what it works with: one for each thread, and none costs less
    source = ImageData(width, height, PixelType.U8x3, image.tobytes())
    rows = ImageData(side, last - first, PixelType.U8x3)
    resizer.resize(source, rows, _part(left, first, right - left, last - first))
    square = ImageData(side, side, PixelType.U8x3)
    resizer.resize(rows, square, _part(0, upper - first, side, lower - upper))
    return Image.frombytes("RGB", (side, side), square.get_buffer())


def _part(left: float, upper: float, width: float, height: float) -> ResizeOptions:
    return ResizeOptions(resize_alg=_CUBIC, crop_box=CropBox(left, upper, width, height))
