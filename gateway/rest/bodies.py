"""Reads the body of a submit, in the four forms it may have.

JSON (files as data URIs), one raw file, a multipart form, each into the same `Asked`. Knows
nothing of models and tasks: what a field means is for `gateway.submit` and the task.
"""

import asyncio
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from contract.errors import InvalidInput, TooLarge, UnsupportedMedia
from contract.limits import FILES_MAX
from contract.prediction import JSON, File
from gateway.rest import strict_json
from gateway.rest.headers import parse_cancel_after_ms, parse_priority
from gateway.submit import LONE_FILE, Asked

UNKNOWN_MEDIA_TYPE = "application/octet-stream"
FORM_FIELDS_MAX = 256
FORM_FIELD_BYTES_MAX = 64 * 1024
LARGE_BYTES = 256 * 1024  # from here on decoding would hold up everybody else: it gets a thread

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}")
_FIELDS = frozenset({"version", "model", "input", "priority", "cancel_after"})
_IGNORED = frozenset({"stream"})  # Replicate's clients send it; every answer here can be polled
_NOT_OFFERED = ("webhook", "webhook_completed", "webhook_events_filter")

T = TypeVar("T")


async def read_asked(request: Request, *, names_model: bool) -> Asked:
    """Read the body of a submit.

    Args:
        names_model: the body (or query) has to name the model, since the path does not.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: naming field and rule.
        Overloaded: it is too large to be read beside the others.
    """
    media_type = _media_type(request.headers.get("content-type"))
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia(
            "send the body uncompressed", field="header.content-encoding", rule="identity"
        )
    if media_type == "application/json":
        body = await _read(request)
        # 2 MB of JSON can become 100 MB of values: they count among the bodies that are held.
        request.state.reserve_body(strict_json.memory_bytes(body))
        read = partial(_from_json, body, names_model=names_model)
        return await _off_loop_if_large(len(body), read)
    if media_type == "multipart/form-data":
        return await _from_form(request, names_model=names_model)
    if media_type.startswith("image/") or media_type == UNKNOWN_MEDIA_TYPE:
        body = await _read(request)
        query = _without_repeats(request.query_params.multi_items(), "query")
        reference = _take_reference(query, "query") if names_model else None
        file = await _off_loop_if_large(len(body), partial(_file, body, media_type))
        files = {LONE_FILE: file}
        return Asked(reference, query, files, is_text=True, body_bytes=len(body))
    shown = f"not {media_type[:80]!a}" if media_type else "the header is missing"
    raise UnsupportedMedia(
        "send Content-Type application/json, multipart/form-data, image/* or "
        f"application/octet-stream; {shown}",
        field="header.content-type",
        rule="media_type",
    )


async def read_nothing(request: Request) -> None:
    """Make sure that there is no body, or one that asks for nothing.

    Raises:
        InvalidInput: it asks for something.
    """
    body = await _read(request)
    if body and (len(body) > LARGE_BYTES or strict_json.read_object(body)):
        raise InvalidInput("this takes no body", field="body", rule="empty")


def _from_json(body: bytes, *, names_model: bool) -> Asked:
    document = strict_json.read_object(body)
    _check_fields(document, names_model=names_model)
    given = document.get("input")
    if not isinstance(given, dict):
        raise InvalidInput(
            'send the model\'s input as an object, {"input": {…}}', field="input", rule="object"
        )
    files: dict[str, File] = {}
    plain: dict[str, JSON] = {}
    for name, value in given.items():
        if isinstance(value, str) and value[:5].lower() == "data:":
            files[name] = read_data_uri(value, field=f"input.{name}")
        else:
            plain[name] = value
    _check_file_count(len(files))
    priority = document.get("priority")
    after = document.get("cancel_after")
    return Asked(
        _take_reference(document, "body") if names_model else None,
        plain,
        files,
        None if priority is None else parse_priority(priority, field="priority"),
        None if after is None else parse_cancel_after_ms(after, field="cancel_after"),
        body_bytes=len(body),
    )


def _check_fields(document: dict[str, JSON], *, names_model: bool) -> None:
    for name in document:
        if name in _FIELDS or name in _IGNORED or document[name] is None:
            continue
        if name in _NOT_OFFERED:
            if document.get("webhook") is None and name != "webhook_completed":
                continue  # a filter for no webhook asks for nothing
            raise InvalidInput(
                "webhooks are not offered yet; poll the prediction, or wait for it",
                field=name,
                rule="not_offered",
            )
        raise InvalidInput(
            "this field is unknown; inputs of the model belong into `input`",
            field=ascii(name[:80])[1:-1],
            rule="known_field",
        )
    if not names_model:
        for name in ("version", "model"):
            if document.get(name) is not None:
                raise InvalidInput(
                    "the path names the model already; a version goes there too, as `name@1`",
                    field=name,
                    rule="named_once",
                )


def _take_reference(given: dict[str, JSON], where: str) -> str:
    """Take `version` or `model` out of `given`: exactly one of them names the model."""
    named = [
        (name, value)
        for name in ("version", "model")
        if (value := given.pop(name, None)) is not None
    ]
    if len(named) != 1:
        raise InvalidInput(
            f"name the model by either `version` or `model` in the {where}",
            field="version",
            rule="required" if not named else "named_once",
        )
    name, value = named[0]
    if not isinstance(value, str):
        raise InvalidInput("a version is a string", field=name, rule="string")
    return value


def read_data_uri(uri: str, *, field: str) -> File:
    """Decode a data URI.

    Raises:
        InvalidInput: it has no comma, or its base64 is broken.

    Source: RFC 2397.
    """
    head, comma, data = uri[5:].partition(",")
    if not comma:
        raise InvalidInput(
            "a data URI is written data:<type>;base64,<data>", field=field, rule="data_uri"
        )
    media_type, *parameters = head.split(";")
    if any(parameter.strip().lower() == "base64" for parameter in parameters):
        try:
            content = binascii.a2b_base64(data, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"broken base64: {error}", field=field, rule="base64") from None
    else:
        content = unquote_to_bytes(data)
    return _file(content, _media_type(media_type))


async def _from_form(request: Request, *, names_model: bool) -> Asked:
    """Read a multipart form: parts with a file name are files, the others are text."""
    form = await _parse_form(request)
    try:
        items = form.multi_items()
        texts = _without_repeats(
            [(name, value) for name, value in items if isinstance(value, str)], "input"
        )
        files: dict[str, File] = {}
        for name, upload in items:
            if not isinstance(upload, UploadFile):
                continue
            strict_json.check_text(name, "input")
            if name in files or name in texts:
                raise _repeated(name, "input")
            content = await upload.read()
            make_file = partial(_file, content, _media_type(upload.content_type))
            files[name] = await _off_loop_if_large(len(content), make_file)
    finally:
        await form.close()
    reference = _take_reference(texts, "form") if names_model else None
    body_bytes = sum(file.size for file in files.values())
    return Asked(reference, texts, files, is_text=True, body_bytes=body_bytes)


class _InMemoryParser(MultiPartParser):
    # The body's size is bounded before it is read, and so many bytes at most are read at once:
    # parts need not go through the disk.
    spool_max_size = 1 << 40
    has_ended = False

    def on_end(self) -> None:
        self.has_ended = True


async def _parse_form(request: Request) -> FormData:
    parser = _InMemoryParser(
        request.headers,
        _chunks(request),
        max_files=FILES_MAX,
        max_fields=FORM_FIELDS_MAX,
        max_part_size=FORM_FIELD_BYTES_MAX,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(error.message, field="body", rule="multipart") from None
    if not parser.has_ended:
        # What came before would pass for the whole form: a field in the part that is missing
        # would get its default.
        await form.close()
        raise InvalidInput(
            "the form ends before its closing boundary", field="body", rule="multipart"
        )
    return form


async def _chunks(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        yield chunk


async def _read(request: Request) -> bytes:
    # Not `request.body()`: that would keep the bytes for as long as the request lives, and a
    # request may wait for its outcome for a minute.
    chunks: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _off_loop_if_large(size: int, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


def _file(content: bytes, media_type: str) -> File:
    return File(
        media_type or UNKNOWN_MEDIA_TYPE,
        len(content),
        hashlib.sha256(content).hexdigest(),
        content,
    )


def _media_type(header: str | None) -> str:
    """The media type without parameters, in lower case; empty where there is none."""
    found = (header or "").partition(";")[0].strip().lower()
    return found if _MEDIA_TYPE.fullmatch(found) else ""


def _without_repeats(items: list[tuple[str, str]], where: str) -> dict[str, JSON]:
    values: dict[str, JSON] = {}
    for name, value in items:
        strict_json.check_text(name, where)
        strict_json.check_text(value, f"{where}.{name}")
        if name in values:
            raise _repeated(name, where)
        values[name] = value
    return values


def _repeated(name: str, where: str) -> InvalidInput:
    return InvalidInput(
        f"{name[:80]!a} is given twice", field=f"{where}.{name[:80]}", rule="unique_names"
    )


def _check_file_count(count: int) -> None:
    if count > FILES_MAX:
        raise TooLarge(
            f"an input has at most {FILES_MAX} files, not {count}", field="input", rule="files_max"
        )
