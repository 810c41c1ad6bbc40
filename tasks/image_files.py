"""Refuses image files built to be expensive: what their structure alone asks of a decoder. Pure.

A file of a megabyte can keep a decoder busy for minutes without stating a single pixel too many:
by a thousand passes over the same picture, by millions of empty parts, by tables that are searched
for each of their entries. Nothing here decodes; each check follows the walk that the decoder makes.
"""

import io
import re
import struct
from collections.abc import Iterator

from contract.errors import InvalidInput, TooLarge, UnsupportedMedia

READS_MAX = 2048  # of Pillow, for one file, and one more for each 64 bytes
_BYTES_PER_READ = 64  # of an honest file: rows of a small picture, each stored by itself

JPEG_SEGMENTS_MAX = 4096  # an honest file has some 30
# Each scan passes over every pixel: 40 ms for 40 megapixels. A progressive photograph has 10.
JPEG_SCANNED_PIXELS_MAX = 800_000_000

TIFF_NUMBERS_MAX = 65_536  # in one table, such as the places of an image's strips

# PNG: each is inflated, to a megabyte at most, before the picture is even looked at: 3 ms.
PNG_INFLATED_PARTS_MAX = 16
_PNG_INFLATED = (b"iCCP", b"zTXt", b"iTXt")

# AVIF: whatever is not picture. libavif compares each item with all before it, and stops Python
# meanwhile: 1 MB of items takes 4.6 s, 20 MB half an hour. An honest still has below 1 KB.
AVIF_BOX_BYTES_MAX = 64 * 1024
AVIF_BOXES_MAX = 64

# A marker of JPEG: not a stuffed zero, not padding, and none of those without a length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_NUMBERS = frozenset({3, 4, 5, 8, 9, 10, 11, 12, 13, 16})  # the types Pillow makes numbers of


class Content(io.BytesIO):
    """A file for Pillow to read, of which it can read only so often.

    Its walk over a file's parts is Python, and each part takes a read or more. Without this, 20 MB
    of empty parts keep the interpreter busy for eight seconds, and take 600 MB.
    """

    def __init__(self, content: bytes, field: str) -> None:
        super().__init__(content)
        self._field = field
        self._reads_left = READS_MAX + len(content) // _BYTES_PER_READ

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises TooLarge."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise _too_large("it consists of too many parts", self._field)
        return super().read(size)


def refuse_costly(content: bytes, field: str) -> None:
    """Refuse a file whose structure is made to cost more than its pixels, before Pillow sees it.

    Raises:
        TooLarge: naming what there is too much of.
        UnsupportedMedia: a BigTIFF.
        InvalidInput: an animated AVIF, which no still is taken from.
    """
    if content.startswith(b"\x89PNG"):
        # Counted wherever they stand: by chance four bytes are one of these once in a gigabyte.
        if sum(map(content.count, _PNG_INFLATED)) > PNG_INFLATED_PARTS_MAX:
            raise _too_large("it has too many compressed texts and profiles", field)
    elif content[4:8] == b"ftyp":
        _check_avif(content, field)
    elif content[:2] in (b"II", b"MM"):
        if (order := _TIFF_ORDERS.get(content[:4])) is None:
            # Pillow reads three more kinds; they are for files of gigabytes, or do not exist.
            raise UnsupportedMedia("it is no usual TIFF", field=field, rule="image_format")
        _check_tiff(content, order, field)


def refuse_many_scans(content: bytes, pixels: int, field: str) -> None:
    """Refuse a JPEG that makes its decoder pass over the picture again and again.

    Raises:
        TooLarge: more scans than a picture of so many pixels may have, or too many segments.
    """
    scans = 0
    for segments, marker in enumerate(_jpeg_markers(content), 1):
        scans += marker == _SOS
        if scans * pixels > JPEG_SCANNED_PIXELS_MAX:
            raise _too_large("it has too many scans; save it as a baseline JPEG", field)
        if segments > JPEG_SEGMENTS_MAX:
            raise _too_large("it consists of too many parts", field)


def _jpeg_markers(content: bytes) -> Iterator[int]:
    """The markers as libjpeg meets them: it seeks the next one after each segment and each scan."""
    at = 2
    while (found := _JPEG_MARKER.search(content, at)) is not None:
        marker = content[found.end() - 1]
        yield marker
        if marker == _EOI:
            return  # what follows is no part of the picture: phones put a film there
        at = found.end()
        if marker != _SOI:
            at += max(2, int.from_bytes(content[at : at + 2], "big"))


def _check_tiff(content: bytes, order: str, field: str) -> None:
    """Raises TooLarge for a table in the first directory that Pillow would spell out in Python."""
    if len(content) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    if start + 2 > len(content):
        return
    (count,) = struct.unpack_from(f"{order}H", content, start)
    entries = content[start + 2 : start + 2 + 12 * count]
    for _, kind, numbers, _ in struct.iter_unpack(
        f"{order}HHI4s", entries[: len(entries) // 12 * 12]
    ):
        if kind in _TIFF_NUMBERS and numbers > TIFF_NUMBERS_MAX:
            raise _too_large("it is cut into too many strips", field)


def _check_avif(content: bytes, field: str) -> None:
    """Raises TooLarge, InvalidInput."""
    at = described = boxes = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        head = 8
        if size == 1:
            if at + 16 > len(content):
                return
            (size,) = struct.unpack_from(">Q", content, at + 8)
            head = 16
        elif size == 0:
            size = len(content) - at
        if size < head:
            return  # libavif refuses it too
        if kind == b"moov":
            raise InvalidInput("it is a film; send a still image", field=field, rule="still_image")
        boxes += 1
        described += 0 if kind == b"mdat" else min(size, len(content) - at)
        if described > AVIF_BOX_BYTES_MAX or boxes > AVIF_BOXES_MAX:
            raise _too_large("it consists of too many parts", field)
        at += size


def _too_large(what: str, field: str) -> TooLarge:
    return TooLarge(what, field=field, rule="image_structure")
