"""Bad input through a real server: what comes back, and that nothing else breaks.

After every case the server still answers and the queue is as empty as before.
"""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from broker import Broker
from contract.ids import new_prediction_id
from gateway.server import HEAD_BYTES_MAX
from gateway.settings import GatewaySettings
from tests.gateways import ALICE, ECHO, RunningGateway, declared, serving

CLASSIFY = "/v1/models/triton/efficientnet_lite0/predictions"
UNKNOWN_ID = new_prediction_id(0, bytes(10))
JSON = {"content-type": "application/json"}


def image(kind: str, mode: str = "RGB", size: tuple[int, int] = (16, 16), **how: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **how)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.fixture(autouse=True)
async def nothing_else_breaks(
    gateway: RunningGateway, gateway_broker: Broker
) -> AsyncIterator[None]:
    yield
    assert (await gateway.client.get("/healthz")).status_code == 200
    answer = await gateway.client.get("/v1/models")
    assert answer.status_code == 200
    assert (await gateway_broker.depth()).tickets == 0


def assert_refused(
    answer: httpx.Response, status: int, *, field: str | None = None, rule: str | None = None
) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["detail"]
    if field is not None:
        (error,) = body["errors"]
        assert error["field"] == field, error
        assert error["message"]
        assert rule in (None, error["rule"])
    return body


@pytest.mark.parametrize(
    ("content", "status", "rule"),
    [
        pytest.param(b"no picture at all", 415, "image_format", id="not an image"),
        pytest.param(b"", 422, "not_empty", id="0 bytes"),
        pytest.param(b"\xff\xd8\xff", 422, None, id="three bytes of a JPEG"),
        pytest.param(png_header(60_000, 60_000), 413, "image_pixels", id="a pixel bomb"),
        pytest.param(b"<svg onload='alert(1)'/>", 415, "image_format", id="a script"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "image_format", id="PostScript"),
    ],
)
async def test_what_is_no_usable_image_is_refused_in_every_form_of_body(
    gateway: RunningGateway, content: bytes, status: int, rule: str | None
) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    form = {"image": ("x.jpg", content, "image/jpeg")}
    for answer in (
        await gateway.client.post(CLASSIFY, json={"input": {"image": uri}}),
        await gateway.client.post(CLASSIFY, files=form),
        await gateway.client.post(
            CLASSIFY, content=content, headers={"content-type": "image/jpeg"}
        ),
    ):
        if content.startswith(b"\xff\xd8") and answer.status_code == 415:
            continue  # too short to tell which it is
        assert_refused(answer, status, field="input.image", rule=rule)


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"[1, 2]", "body", "object"),
        (b"no json", "body", "json"),
        (b'"text"', "body", "object"),
        (b"", "body", "json"),
        (b'{"input": {"INPUT0": "a\\u0000b"}}', "input.INPUT0", "no_nul"),
        (b'{"input": {"INPUT0": "\\ud83d"}}', "input.INPUT0", "unicode"),
        (b'{"input": {"INPUT0": "\xff"}}', "body", "utf8"),
        (b'{"input": {"INPUT0": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "body", "depth"),
        (b'{"input": {"INPUT0": 1e999}}', "input.INPUT0", "number_range"),
        (b'{"input": {"INPUT0": "a", "INPUT0": "b"}}', "body", "unique_names"),
        (b'{"input": {"INPUT1": "a"}}', "input.INPUT1", "known_field"),
        (b'{"input": {}}', "input.INPUT0", "required"),
        (b'{"inputs": {}}', "inputs", "known_field"),
        (b'{"input": {"INPUT0": "a"}, "priority": "urgent"}', "priority", "enum"),
        (b'{"input": {"INPUT0": "data:image/png;base64,@@@@"}}', "input.INPUT0", "base64"),
    ],
)
async def test_bad_json_is_refused_by_field_and_rule(
    gateway: RunningGateway, body: bytes, field: str, rule: str
) -> None:
    answer = await gateway.client.post(ECHO, content=body, headers=JSON)
    assert_refused(answer, 422, field=field, rule=rule)


async def test_base64_with_rubbish_in_it_names_the_image(gateway: RunningGateway) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(image("JPEG")).decode() + "%%%"
    answer = await gateway.client.post(CLASSIFY, json={"input": {"image": uri}})
    assert_refused(answer, 422, field="input.image", rule="base64")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("triton.nothing.1", 404),
        ("triton/nothing", 404),
        ("triton.identity.9", 404),
        ("triton/identity:9", 404),
        ("triton/identity@0", 422),
        ("1", 422),
        ("", 422),
        ("../../etc/passwd", 422),
        ("triton/identity:triton.identity.1:x", 422),
        ("x" * 5000, 422),
    ],
)
async def test_an_unknown_model_or_version_is_refused(
    gateway: RunningGateway, version: str, status: int
) -> None:
    body = {"version": version, "input": {"INPUT0": "a"}}
    problem = assert_refused(await gateway.client.post("/v1/predictions", json=body), status)
    if status == 422:
        assert problem["errors"][0]["field"] == "version"
    if version == "1":
        assert "triton.<model>" in problem["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/triton/nothing/predictions",
        "/v1/models/somebody/identity/predictions",
        "/v1/models/triton/identity@9/predictions",
        "/v1/models/triton/identity@x/predictions",
        "/v1/models/triton/%00/predictions",
    ],
)
async def test_a_path_to_an_unknown_model_is_refused_before_its_body_is_read(
    gateway: RunningGateway, path: str
) -> None:
    answer = await gateway.client.post(path, content=b"not even json", headers=JSON)
    assert_refused(answer, 404)


@pytest.mark.parametrize(
    "identifier", [UNKNOWN_ID, "1", "x" * 26, UNKNOWN_ID.upper() + "A", "%00", "ä" * 26, "." * 26,
                   "0" * 5000]
)  # fmt: skip
async def test_an_unknown_id_and_one_of_wrong_form_are_not_found(
    gateway: RunningGateway, identifier: str
) -> None:
    assert_refused(await gateway.client.get(f"/v1/predictions/{identifier}"), 404)
    assert_refused(await gateway.client.get(f"/v1/predictions/{identifier}?wait=5"), 404)
    assert_refused(await gateway.client.get(f"/v1/predictions/{identifier}/input/image"), 404)


@pytest.mark.parametrize(
    "query", ["wait=soon", "wait=-1", "wait=nan", "wait=99999999999999999999999x"]
)
async def test_a_wait_that_is_no_number_is_refused(gateway: RunningGateway, query: str) -> None:
    answer = await gateway.client.get(f"/v1/predictions/{UNKNOWN_ID}?{query}")
    assert_refused(answer, 422, field="query.wait")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("cursor=nonsense", "query.cursor"),
        ("cursor=%00", "query.cursor"),
        ("limit=0", "query.limit"),
        ("limit=101", "query.limit"),
        ("limit=-1", "query.limit"),
        ("limit=" + "9" * 4000, "query.limit"),
        ("limit=%D9%A1", "query.limit"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(
    gateway: RunningGateway, query: str, field: str
) -> None:
    assert_refused(await gateway.client.get(f"/v1/predictions?{query}"), 422, field=field)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
async def test_a_wrong_method_is_told_the_right_ones(gateway: RunningGateway, method: str) -> None:
    answer = await gateway.client.request(method, "/v1/predictions")
    if method == "BREW":  # not even HTTP's parser knows it
        assert answer.status_code == 400
        return
    assert_refused(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "", "x"]
)
async def test_a_wrong_content_type_is_told_the_right_ones(
    gateway: RunningGateway, content_type: str
) -> None:
    body = b'{"input": {"INPUT0": "a"}}'
    answer = await gateway.client.post(ECHO, content=body, headers=_type(content_type))
    problem = assert_refused(answer, 415, field="header.content-type")
    assert "application/json" in problem["detail"]


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Basic YTpi", "Bearer", "Bearer " + "x" * 4000]
)
@pytest.mark.parametrize("path", ["/v1/predictions", ECHO, "/metrics", "/nowhere"])
async def test_without_a_known_token_nothing_is_said_but_how_to_send_one(
    gateway: RunningGateway, authorization: str | None, path: str
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with httpx.AsyncClient(base_url=gateway.url) as stranger:
        answer = await stranger.post(path, headers=headers, json={"input": {"INPUT0": "a"}})
    assert_refused(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_ten_thousand_bytes_of_headers_are_too_many(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/healthz", headers={"x-long": "x" * 10_000})
    assert_refused(answer, 431)
    many = {f"x-{number}": "x" * 90 for number in range(100)}
    assert_refused(await gateway.client.get("/healthz", headers=many), 431)


async def test_a_body_of_fifty_megabytes_is_refused_and_the_answer_arrives(
    gateway: RunningGateway,
) -> None:
    body = bytes(50_000_000)
    answer = await gateway.client.post(CLASSIFY, content=body, headers=_type("image/png"))
    assert_refused(answer, 413, field="body", rule="body_bytes_max")


async def test_a_body_that_does_not_say_its_size_is_cut_where_it_becomes_too_large(
    gateway: RunningGateway,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1_000_000)

    with pytest.raises(httpx.HTTPError):  # it sends for ever and never looks for an answer
        await gateway.client.post(CLASSIFY, content=endless(), headers=_type("image/png"))


async def test_a_chunked_body_that_becomes_too_large_is_told_so(gateway: RunningGateway) -> None:
    client = await RawClient.connect(gateway.url)
    client.send_head(CLASSIFY, content_type="image/png", transfer_encoding="chunked")
    for _ in range(21):
        client.writer.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        await client.writer.drain()
    assert (await client.reader.readline()).startswith(b"HTTP/1.1 413 ")
    client.close()


class RawClient:
    """Speaks to a gateway byte by byte, as no HTTP library would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str) -> "RawClient":
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    def send_head(self, path: str, **headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: {_BEARER}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def rest(self) -> bytes:
        """Everything until the gateway hangs up."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


_BEARER = ALICE["Authorization"]


@pytest.fixture
async def hasty(settings: GatewaySettings) -> AsyncIterator[RunningGateway]:
    """A gateway that gives up a body after a third of a second."""
    async with serving(settings.model_copy(update={"body_wait_s": 0.3})) as running:
        await declared(running)
        yield running


async def test_a_client_that_hangs_in_mid_body_is_told_and_cut_off(hasty: RunningGateway) -> None:
    client = await RawClient.connect(hasty.url)
    client.send_head(ECHO, content_type="application/json", content_length="100")
    client.writer.write(b'{"input"')
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    client.close()


async def test_a_client_that_leaves_in_mid_body_leaves_nothing_behind(
    gateway: RunningGateway,
) -> None:
    client = await RawClient.connect(gateway.url)
    client.send_head(ECHO, content_type="application/json", content_length="100")
    client.writer.write(b'{"input"')
    await client.writer.drain()
    client.close()


async def test_headers_without_end_are_cut_off(gateway: RunningGateway) -> None:
    client = await RawClient.connect(gateway.url)
    client.writer.write(b"GET /healthz HTTP/1.1\r\nx: ")
    client.writer.write(b"x" * (HEAD_BYTES_MAX + 1))
    assert (await client.rest()).startswith(b"HTTP/1.1 431 ")
    client.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HELLO\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nconnection: close\r\nauthorization: %a\r\n\r\n", 404),
        (b"CONNECT host:80 HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
    ],
)
async def test_what_names_no_path_or_is_no_http_is_a_problem_too(
    gateway: RunningGateway, head: bytes, status: int
) -> None:
    client = await RawClient.connect(gateway.url)
    client.writer.write(head.replace(b"%a", _BEARER.encode()))
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/problem+json\r\n" in answer
    client.close()


async def test_headers_that_never_end_are_given_up(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.HEAD_WAIT_S", 0.2)
    silent, slow = [await RawClient.connect(gateway.url) for _ in range(2)]
    slow.writer.write(b"GET /healthz HTTP/1.1\r\nx:")
    assert (await silent.rest()).startswith(b"HTTP/1.1 408 ")
    assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
    silent.close()
    slow.close()


async def test_a_second_request_on_a_connection_has_limits_of_its_own(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.HEAD_WAIT_S", 0.5)
    client = await RawClient.connect(gateway.url)
    client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
    client.writer.write(b"GET /healthz HTTP/1.1\r\nx:")
    assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
    client.close()


async def test_a_refused_body_that_trickles_on_is_cut_off_after_a_while(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.LINGER_S", 0.3)
    client = await RawClient.connect(gateway.url)
    client.send_head(CLASSIFY, content_type="image/png", content_length="900000000")

    async def trickle() -> None:
        while True:  # each byte would put off the end of an idle connection
            client.writer.write(b"x")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert (await client.reader.readline()).startswith(b"HTTP/1.1 413 ")
    with suppress(ConnectionResetError):
        await client.rest()
    trickling.cancel()
    client.close()


async def test_more_requests_than_allowed_are_sent_away_and_health_still_answers(
    settings: GatewaySettings, gateway: RunningGateway
) -> None:
    update = {"requests_max": 1, "waiters_max": 1}
    async with serving(settings.model_copy(update=update)) as small:
        held = await RawClient.connect(small.url)
        held.send_head(ECHO, content_type="application/json", content_length="100")
        await _until_status(small, 429)
        answer = await small.client.get("/v1/predictions")
        assert_refused(answer, 429)
        assert answer.headers["retry-after"] == "1"
        assert (await small.client.get("/healthz")).status_code == 200
        held.close()
        await _until_status(small, 200)


async def test_bodies_that_together_take_too_much_memory_are_sent_away(
    settings: GatewaySettings, gateway: RunningGateway
) -> None:
    update = {"body_bytes_max": 2000, "bodies_bytes_max": 3000}
    async with serving(settings.model_copy(update=update)) as small:
        held = await RawClient.connect(small.url)
        held.send_head(ECHO, content_type="application/json", content_length="2000")

        async def post() -> httpx.Response:
            body = b'{"input": {}}'.ljust(1500)
            return await small.client.post(ECHO, content=body, headers=JSON)

        async with asyncio.timeout(10):
            while (answer := await post()).status_code != 429:
                assert_refused(answer, 422)
        held.close()
        async with asyncio.timeout(10):
            while (answer := await post()).status_code == 429:
                await asyncio.sleep(0.01)
        assert_refused(answer, 422)


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null"])
async def test_without_tokens_other_web_sites_are_kept_out(
    settings: GatewaySettings, gateway: RunningGateway, origin: str
) -> None:
    async with (
        serving(settings.model_copy(update={"auth": "none"})) as opened,
        httpx.AsyncClient(base_url=opened.url) as browser,
    ):
        body = {"input": {"INPUT0": "a"}}
        answer = await browser.post(ECHO, json=body, headers={"origin": origin})
        assert_refused(answer, 401)
        assert_refused(
            await browser.post(ECHO, json=body, headers={"host": "rebound.example"}), 401
        )
        assert (await browser.get("/v1/models")).status_code == 200


async def test_a_host_header_cannot_put_anything_into_links(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/v1/models", headers={"host": 'evil"/><script>'})
    assert "evil" not in json.dumps(answer.json())


async def _until_status(gateway: RunningGateway, status: int) -> None:
    async with asyncio.timeout(10):
        while (await gateway.client.get("/v1/predictions")).status_code != status:
            await asyncio.sleep(0.01)


def _type(content_type: str) -> dict[str, str]:
    return {"content-type": content_type}
