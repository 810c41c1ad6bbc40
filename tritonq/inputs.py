"""Turns what a caller passes as input into the body of a submit. Reads files; sends nothing.

A file on its own becomes the raw body: no base64, and the service puts it into the input field
that its task reads files from; further fields travel beside it as text. A mapping becomes JSON,
files among its values as data URIs.
"""

import base64
import json
import mimetypes
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tritonq.errors import InvalidInput
from tritonq.results import JSON
from tritonq.wire import Body

FILE_BYTES_MAX = 256 * 1024 * 1024  # guards our memory; the service's own limit is far lower
UNKNOWN_MEDIA_TYPE = "application/octet-stream"

FileLike: TypeAlias = PathLike[str] | bytes | BinaryIO
Input: TypeAlias = str | FileLike | Mapping[str, JSON | FileLike]
"""A file (`str` is a path), or a mapping of input fields; files may be values, a `str` is text."""
Scalar: TypeAlias = str | int | float | bool

# First bytes of the kinds that are told apart by content, since names lie and bytes have none.
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


def read_input(given: Input, fields: Mapping[str, Scalar] | None = None) -> Body:
    """Make the body of a submit.

    Args:
        fields: further input fields beside a lone file.

    Raises:
        InvalidInput: a file cannot be read or is too large, or a value is not JSON.
    """
    if isinstance(given, Mapping):
        values = {name: _plain(name, value) for name, value in {**given, **(fields or {})}.items()}
        return Body(_json({"input": values}), "application/json")
    file = read_file(Path(given) if isinstance(given, str) else given)
    # Raw bodies are images or bytes of no said kind; a name like notes.txt makes no other kind.
    raw = file.media_type if file.media_type.startswith("image/") else UNKNOWN_MEDIA_TYPE
    return Body(file.content, raw, {name: _text(value) for name, value in (fields or {}).items()})


def read_file(file: FileLike) -> Body:
    """Read one file; a file object is read from where it stands and not closed.

    Raises:
        InvalidInput: it cannot be read, or is too large.
    """
    if isinstance(file, bytes):
        content, name = file, ""
    elif isinstance(file, PathLike):
        content, name = _contents(Path(file)), str(file)
    else:
        # One byte more than allowed tells "too large" from "just fits" without reading it all.
        content, name = file.read(FILE_BYTES_MAX + 1), str(getattr(file, "name", ""))
        if not isinstance(content, bytes):
            raise InvalidInput("open the file in binary mode", field="file", rule="bytes")
    if len(content) > FILE_BYTES_MAX:
        raise _too_large(name or "the input", len(content))
    return Body(content, media_type(content, name))


def media_type(content: bytes, name: str) -> str:
    """The media type by content, or else by the ending of the name."""
    for signature, found in _SIGNATURES:
        if content.startswith(signature):
            return found
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return mimetypes.guess_type(name)[0] or UNKNOWN_MEDIA_TYPE


def data_uri(body: Body) -> str:
    return f"data:{body.media_type};base64,{base64.b64encode(body.content).decode('ascii')}"


def _plain(name: str, value: JSON | FileLike) -> JSON:
    is_file = isinstance(value, bytes | PathLike) or hasattr(value, "read")
    if not is_file:
        return value
    try:
        return data_uri(read_file(value))
    except InvalidInput as error:
        raise InvalidInput(str(error), field=f"input.{name}", rule=error.rule) from error


def _text(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(value: JSON) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"not JSON: {error}", field="input", rule="json") from error


def _contents(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise _too_large(str(path), size)
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(f"cannot read {path}: {reason}", rule="readable_file") from error


def _too_large(name: str, size: int) -> InvalidInput:
    return InvalidInput(
        f"{name} has {size} bytes, more than {FILE_BYTES_MAX}", rule="file_bytes_max"
    )
