"""A file that is built to be expensive is refused before it costs anything; honest ones pass."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.errors import InvalidInput, TooLarge, UnsupportedMedia
from contract.limits import IMAGE_SIDE_MAX
from tasks.image_files import READS_MAX, Content
from tasks.images import check_image, square_image

FIELD = "input.image"
SIDE = 32

Make = Callable[[], bytes]


def encoded(size: tuple[int, int], file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, file_format, **options)
    return file.getvalue()


def png(*parts: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    rows = zlib.compress(bytes((3 * size[0] + 1) * size[1]))
    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *parts, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(size: tuple[int, int], *, scans: int) -> bytes:
    """A progressive JPEG with its last scan so many times more."""
    image = encoded(size, "JPEG", "L", progressive=True, quality=50)
    last = image[image.rindex(b"\xff\xda") : -2]
    return image[:-2] + last * scans + b"\xff\xd9"


def inserted(image: bytes, at: int, what: bytes) -> bytes:
    return image[:at] + what + image[at:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def avif_of_items(count: int) -> bytes:
    """An AVIF with a table of so many items, each of which is compared with all others."""
    none = bytes(4)
    handler = box(b"hdlr", none + struct.pack(">I4sIII", 0, b"pict", 0, 0, 0) + b"\0")
    items = b"".join(struct.pack(">IHHHII", at + 1, 0, 0, 1, 0, 1) for at in range(count))
    table = struct.pack(">I", 2 << 24) + bytes((0x44, 0)) + struct.pack(">I", count) + items
    meta = none + handler + box(b"pitm", none + b"\0\1") + box(b"iloc", table)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta", meta)


def tiff_of_strips(count: int, *, order: str = "<") -> bytes:
    """One pixel wide; each row is a strip of its own, and all are the same byte of the file."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    eight, one = (8, 1) if order == "<" else (8 << 16, 1 << 16)  # 16 bits stand first of 32
    tables = 8 + 2 + 9 * 12 + 4
    entries = [
        (256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, eight), (259, 3, 1, one),
        (262, 3, 1, one), (273, 4, count, tables), (277, 3, 1, one), (278, 4, 1, 1),
        (279, 4, count, tables + 4 * count),
    ]  # fmt: skip
    directory = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    numbers = np.full(count, 8, f"{order}u4").tobytes() + np.full(count, 1, f"{order}u4").tobytes()
    start = struct.pack(f"{order}IH", 8, len(entries))
    return head + start + directory + bytes(4) + numbers


def bmp_in_runs(width: int, height: int) -> bytes:
    """A BMP of runs of one pixel, which Pillow reads one by one in Python."""
    rows = (b"\x01\x00" * width + b"\0\0") * height + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(head) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + bytes(1024) + rows


GIF = encoded((8, 8), "GIF", "L")
GIF_IMAGE = GIF.index(b"\x2c", 13)
JPEG = encoded((64, 64), "JPEG")
INFLATED = b"k\0\0" + zlib.compress(bytes(1_000_000))

COSTLY: dict[str, Make] = {
    "a JPEG of a hundred scans": lambda: jpeg((8000, 5000), scans=100),
    "a small JPEG of 10,000 scans": lambda: jpeg((64, 64), scans=10_000),
    "a JPEG of empty segments": lambda: inserted(JPEG, 2, b"\xff\xe5\x00\x02" * 500_000),
    "a JPEG of comments": lambda: inserted(JPEG, 2, b"\xff\xfe\x00\x02" * 500_000),
    "a JPEG of segments without length": lambda: inserted(JPEG, 2, b"\xff\xd0" * 500_000),
    "a PNG of empty parts": lambda: png(chunk(b"abCd", b"") * 200_000),
    "a PNG of texts": lambda: png(chunk(b"tEXt", b"k\0v") * 200_000),
    "a PNG of inflated texts": lambda: png(chunk(b"zTXt", INFLATED) * 60),
    "a PNG of inflated profiles": lambda: png(chunk(b"iCCP", INFLATED) * 60),
    "a PNG of empty pieces": lambda: png(chunk(b"IDAT", b"") * 200_000),
    "a GIF of comments": lambda: inserted(GIF, GIF_IMAGE, b"\x21\xfe\x00" * 500_000),
    "a GIF of one long comment": lambda: inserted(
        GIF, GIF_IMAGE, b"\x21\xfe" + b"\x01a" * 500_000 + b"\0"
    ),
    "a TIFF of a million strips": lambda: tiff_of_strips(1_000_000),
    "the same, with the large end first": lambda: tiff_of_strips(1_000_000, order=">"),
    "a BMP in runs": lambda: bmp_in_runs(2000, 1000),
    "an AVIF of 20,000 items": lambda: avif_of_items(20_000),
    "an AVIF of empty boxes": lambda: box(b"ftyp", b"avif\0\0\0\0") + box(b"free", b"") * 100,
}  # fmt: skip


@pytest.mark.parametrize("make", COSTLY.values(), ids=COSTLY)
def test_a_file_built_to_be_expensive_is_refused(make: Make) -> None:
    content = make()
    with pytest.raises(TooLarge) as refused:
        square_image(content, SIDE, FIELD)
    assert (refused.value.field, refused.value.rule) == (FIELD, "image_structure")


def test_an_image_longer_than_any_camera_makes_is_refused() -> None:
    with pytest.raises(TooLarge) as refused:
        check_image(png(size=(1, IMAGE_SIDE_MAX + 1)), FIELD)
    assert refused.value.rule == "image_side"
    check_image(png(size=(1, IMAGE_SIDE_MAX)), FIELD)


def test_a_film_is_no_still() -> None:
    film = box(b"ftyp", b"avis\0\0\0\0avis") + box(b"moov", bytes(100))
    with pytest.raises(InvalidInput) as refused:
        check_image(film, FIELD)
    assert refused.value.rule == "still_image"


@pytest.mark.parametrize("head", [b"II+\0", b"MM\0+", b"MM*\0", b"II\0*"])
def test_other_kinds_of_tiff_do_not_get_around_the_check(head: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        check_image(head + tiff_of_strips(1_000_000)[4:], FIELD)


HONEST: dict[str, Make] = {
    "a progressive JPEG of 12 megapixels": lambda: encoded((4000, 3000), "JPEG", progressive=True),
    "a JPEG with restarts": lambda: encoded((512, 512), "JPEG", restart_marker_blocks=1),
    "a JPEG with a film behind it": lambda: (
        encoded((512, 512), "JPEG", progressive=True)
        + np.random.default_rng(0).integers(0, 256, 4_000_000, np.uint8).tobytes()
    ),
    "a JPEG with a thumbnail and a profile": lambda: encoded(
        (512, 512), "JPEG", icc_profile=bytes(300_000), exif=b"Exif\0\0" + JPEG
    ),
    "a PNG with a few texts": lambda: png(chunk(b"zTXt", INFLATED) * 5, chunk(b"tEXt", b"k\0v")),
    "a PNG in small pieces": lambda: png(chunk(b"IDAT", b"") * 100),
    "a TIFF of 1000 strips": lambda: tiff_of_strips(1000),
    "a TIFF in tiles": lambda: encoded((512, 512), "TIFF", compression="tiff_adobe_deflate"),
    "an AVIF": lambda: encoded((512, 512), "AVIF"),
    "a WebP": lambda: encoded((512, 512), "WEBP"),
    "an animated WebP": lambda: encoded(
        (64, 64), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")] * 30
    ),
    "a BMP": lambda: encoded((512, 512), "BMP"),
}


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_what_cameras_and_editors_write_is_read(make: Make) -> None:
    assert square_image(make(), SIDE, FIELD).shape == (SIDE, SIDE, 3)


def test_a_reader_that_reads_on_and_on_is_stopped() -> None:
    file = Content(bytes(64 * 10), FIELD)
    for _ in range(READS_MAX + 10):
        file.read(0)
    with pytest.raises(TooLarge):
        file.read(0)
