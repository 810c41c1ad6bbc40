import base64
import hashlib
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from contract.errors import InvalidInput, UnsupportedMedia
from contract.prediction import Priority
from gateway.rest.bodies import read_asked, read_data_uri
from gateway.submit import LONE_FILE, Asked

FORM = "multipart/form-data; boundary=xx"


async def read(
    body: bytes, content_type: str | None, *, names_model: bool = False, query: str = "",
    headers: Mapping[str, str] | None = None,
) -> Asked:  # fmt: skip
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    if content_type is not None:
        pairs.append((b"content-type", content_type.encode()))
    chunks = [body[start : start + 700] for start in range(0, len(body), 700)] or [b""]
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    messages[-1]["more_body"] = False

    async def receive() -> Message:
        return messages.pop(0)

    state = {"reserve_body": lambda _: None}
    scope: dict[str, object] = {
        "type": "http", "headers": pairs, "query_string": query.encode(), "method": "POST",
        "state": state,
    }  # fmt: skip
    return await read_asked(Request(scope, receive), names_model=names_model)


def part(name: str, content: bytes, *, file: str = "", kind: str = "") -> bytes:
    lines = [b"--xx", f'Content-Disposition: form-data; name="{name}"'.encode()]
    if file:
        lines[-1] += f'; filename="{file}"'.encode()
    if kind:
        lines.append(f"Content-Type: {kind}".encode())
    return b"\r\n".join([*lines, b"", content, b""])


async def test_json_gives_inputs_as_they_are_and_data_uris_as_files() -> None:
    uri = "data:image/PNG;base64," + base64.b64encode(b"picture").decode()
    body = f'{{"input": {{"image": "{uri}", "top_k": 3}}, "priority": "low"}}'.encode()
    asked = await read(body, "application/json; charset=utf-8")
    assert asked.input == {"top_k": 3}
    assert asked.priority is Priority.LOW
    file = asked.files["image"]
    assert (file.media_type, file.content, file.size) == ("image/png", b"picture", 7)
    assert file.sha256 == hashlib.sha256(b"picture").hexdigest()


@given(st.binary(max_size=200))
def test_a_data_uri_gives_back_the_bytes_that_went_in(content: bytes) -> None:
    uri = "data:;base64," + base64.b64encode(content).decode()
    file = read_data_uri(uri, field="input.x")
    assert (file.content, file.media_type) == (content, "application/octet-stream")


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64",
        "data:image/png;base64,abc",
        "data:image/png;base64,ab=c",
        "data:image/png;base64,ab$=",
        "data:image/png;base64,YWJj\nYWJj",
        "data:image/png;base64,YWJj-_",
        "data:image/png;base64,ä",
    ],
)
def test_broken_data_uris_are_refused_by_field(uri: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_data_uri(uri, field="input.image")
    assert refused.value.field == "input.image"
    assert refused.value.rule in {"base64", "data_uri"}


def test_a_data_uri_without_base64_is_percent_encoded() -> None:
    assert read_data_uri("data:text/plain,a%20b", field="x").content == b"a b"


async def test_a_raw_body_is_one_file_with_parameters_in_the_query() -> None:
    asked = await read(b"\xff\xd8", "image/jpeg", query="top_k=3&name=a%20b")
    assert asked.input == {"top_k": "3", "name": "a b"}
    assert asked.is_text
    assert asked.files[LONE_FILE].content == b"\xff\xd8"
    assert asked.files[LONE_FILE].media_type == "image/jpeg"


async def test_a_form_gives_files_by_name_and_the_rest_as_text() -> None:
    content = bytes(range(256)) * 20
    body = part("image", content, file="x.jpg", kind="image/jpeg") + part("top_k", b"3") + b"--xx--"
    asked = await read(body, FORM)
    assert asked.input == {"top_k": "3"}
    assert asked.files["image"].content == content
    assert asked.files["image"].media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("body", "content_type", "names_model", "field", "rule"),
    [
        (b"{}", "application/json", False, "input", "object"),
        (b'{"input": []}', "application/json", False, "input", "object"),
        (b'{"input": null}', "application/json", False, "input", "object"),
        (b'{"input": {}, "imput": 1}', "application/json", False, "imput", "known_field"),
        (b'{"input": {}, "version": "x"}', "application/json", False, "version", "named_once"),
        (b'{"input": {}}', "application/json", True, "version", "required"),
        (b'{"input": {}, "version": 1}', "application/json", True, "version", "string"),
        (b'{"input": {}, "version": "a", "model": "b"}', "application/json", True, "version",
         "named_once"),
        (b'{"input": {}, "priority": "x"}', "application/json", False, "priority", "enum"),
        (b'{"input": {}, "webhook": "https://x"}', "application/json", False, "webhook",
         "not_offered"),
        (b"no form", FORM, False, "body", "multipart"),
        (part("a", b"1") + b"--xx\r\nContent-Disposition: fo", FORM, False, "body", "multipart"),
        (b"--xx\r\n\r\n", "multipart/form-data", False, "body", "multipart"),
        (part("a", b"1") + part("a", b"2") + b"--xx--", FORM, False, "input.a", "unique_names"),
        (part("a", b"1", file="f") + part("a", b"2") + b"--xx--", FORM, False, "input.a",
         "unique_names"),
        (part("a", b"\x00") + b"--xx--", FORM, False, "input.a", "no_nul"),
        (b"".join(part(f"f{n}", b"1", file="f") for n in range(17)) + b"--xx--", FORM, False,
         "body", "multipart"),
        (b"x", "image/png", True, "version", "required"),
        (b"x", "text/plain", False, "header.content-type", "media_type"),
        (b"x", "nonsense", False, "header.content-type", "media_type"),
        (b"x", None, False, "header.content-type", "media_type"),
    ],
)  # fmt: skip
async def test_a_body_that_breaks_a_rule_is_refused_by_field_and_rule(
    body: bytes, content_type: str | None, names_model: bool, field: str, rule: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await read(body, content_type, names_model=names_model)
    assert (refused.value.field, refused.value.rule) == (field, rule)


@given(st.binary(max_size=300))
async def test_no_form_makes_anything_but_a_refusal(body: bytes) -> None:
    for whole in (body, b"--xx\r\n" + body, part("a", body) + b"--xx--"):
        with suppress(InvalidInput):
            await read(whole, FORM)


async def test_harmless_fields_of_replicates_clients_are_ignored() -> None:
    body = b'{"input": {}, "stream": true, "webhook": null, "webhook_events_filter": ["start"]}'
    assert (await read(body, "application/json")).input == {}


async def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        await read(b"x", "application/json", headers={"content-encoding": "gzip"})


async def test_the_model_is_taken_out_of_the_query_and_not_left_as_an_input() -> None:
    asked = await read(b"x", "image/png", names_model=True, query="version=m&top_k=1")
    assert asked.reference == "m"
    assert asked.input == {"top_k": "1"}
