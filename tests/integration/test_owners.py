"""What belongs to somebody else is as unknown as what never was; and no path leads to a file."""

import asyncio
import base64
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.gateways import ALICE, BOB, PlayedDispatcher, RunningGateway

ECHO = "/v1/models/triton/identity/predictions"
TEXT = {"input": {"INPUT0": "hers"}}
LARGE = 2 * 1024 * 1024  # goes to the blobs before it is accepted
UNKNOWN = "0" * 26

TRAVERSALS = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "%00",
    "..%00/etc/passwd",
    "..%c0%af..%c0%afetc",
    "%ef%bc%8e%ef%bc%8e%2fetc",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    ".%2e%2fsecret",
]
PATHS = [
    "/v1/predictions/{}",
    "/v1/predictions/{}/input/INPUT0",
    "/v1/predictions/" + UNKNOWN + "/input/{}",
    "/v1/models/triton/{}",
    "/v1/models/{}/identity",
    "/v1/models/triton/identity/versions/{}",
    "/problems/{}",
    "/docs/{}",
    "/{}",
]


async def hers(gateway: RunningGateway, *, size: int = 0) -> str:
    body = TEXT
    if size:
        content = base64.b64encode(b"h" * size).decode()
        body = {"input": {"INPUT0": f"data:application/octet-stream;base64,{content}"}}
    answer = await gateway.client.post(ECHO, json=body, headers=ALICE)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def the_same(mine: httpx.Response, nothing: httpx.Response, name: str) -> None:
    """Both answers are those to an unknown id, word for word."""
    assert mine.status_code == nothing.status_code, mine.text
    assert mine.text.replace(name, UNKNOWN) == nothing.text.replace(name, UNKNOWN)


@pytest.mark.parametrize("ended", [False, True])
async def test_somebody_elses_prediction_is_as_unknown_as_one_that_never_was(
    gateway: RunningGateway, dispatcher: PlayedDispatcher, *, ended: bool
) -> None:
    name = await hers(gateway, size=LARGE)
    if ended:
        async with dispatcher.running():
            await dispatcher.recorded.wait()
            await asyncio.sleep(0)
    client = gateway.client
    for method, path in (
        ("GET", "/v1/predictions/{}"),
        ("GET", "/v1/predictions/{}?wait=1"),
        ("GET", "/v1/predictions/{}/input/INPUT0"),
        ("GET", "/v1/predictions/{}/input/other"),
        ("POST", "/v1/predictions/{}/cancel"),
        ("POST", "/v1/predictions/{}/retry"),
    ):
        theirs = await client.request(method, path.format(name), headers=BOB)
        nothing = await client.request(method, path.format(UNKNOWN), headers=BOB)
        the_same(theirs, nothing, name)
    listed = (await client.get("/v1/predictions", headers=BOB)).json()["results"]
    assert listed == []
    assert (await client.get(f"/v1/predictions/{name}", headers=ALICE)).status_code == 200


async def test_a_key_means_something_else_to_everybody(gateway: RunningGateway) -> None:
    key = {"Idempotency-Key": "the-same"}
    hers = await gateway.client.post(ECHO, json=TEXT, headers={**ALICE, **key})
    his = await gateway.client.post(ECHO, json={"input": {"INPUT0": "his"}}, headers={**BOB, **key})
    assert (hers.status_code, his.status_code) == (202, 202)
    assert hers.json()["id"] != his.json()["id"]


async def test_an_id_of_hers_gives_nobody_else_her_prediction(gateway: RunningGateway) -> None:
    """That it is taken cannot be hidden from one who knows it; what it is, and its end, can."""
    name = await hers(gateway)
    for text in ("hers", "his"):
        body = {"model": "triton/identity", "input": {"INPUT0": text}}
        answer = await gateway.client.put(f"/v1/predictions/{name}", json=body, headers=BOB)
        assert answer.status_code == 409, answer.text
        assert "output" not in answer.text
        assert "hers" not in answer.text
    assert (await gateway.client.get(f"/v1/predictions/{name}", headers=BOB)).status_code == 404


async def test_a_cursor_of_hers_shows_nobody_elses(gateway: RunningGateway) -> None:
    for _ in range(3):
        await hers(gateway)
    page = (await gateway.client.get("/v1/predictions?limit=1", headers=ALICE)).json()
    assert page["next"]
    answer = await gateway.client.get(page["next"], headers=BOB)
    assert answer.json()["results"] == []


@pytest.mark.parametrize("traversal", TRAVERSALS)
async def test_no_path_leads_to_a_file(
    gateway: RunningGateway, tmp_path: Path, traversal: str
) -> None:
    secret = uuid4().hex
    (tmp_path / "secret").write_text(secret)
    for path in PATHS:
        # As bytes that nobody has made neat: httpx would resolve the dots.
        url = httpx.URL(gateway.url).copy_with(raw_path=path.format(traversal).encode())
        answer = await gateway.client.send(gateway.client.build_request("GET", url))
        assert answer.status_code in (404, 405, 422), (path, answer.status_code)
        assert "root:" not in answer.text
        assert secret not in answer.text


async def test_a_name_of_a_blob_alone_opens_nothing(gateway: RunningGateway) -> None:
    """Files are read through a prediction of one's own; their names are known to many."""
    name = await hers(gateway, size=LARGE)
    mine = await gateway.client.get(f"/v1/predictions/{name}/input/INPUT0", headers=ALICE)
    sha256 = mine.headers["etag"].strip('"')
    for path in (f"/v1/predictions/{name}/input/{sha256}", f"/v1/files/{sha256}", f"/{sha256}"):
        for who in (ALICE, BOB):
            assert (await gateway.client.get(path, headers=who)).status_code == 404
