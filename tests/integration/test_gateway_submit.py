"""Submitting through a real server: what is accepted, how, and while what is down."""

import base64
import io
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from broker import Broker
from contract.ids import parse_prediction_id
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import Priority
from gateway.settings import GatewaySettings
from standalone.nats import Nats
from standalone.server import running
from tests import services
from tests.gateways import (
    ECHO,
    NOBODY_LISTENS,
    TEXT,
    RunningGateway,
    declared,
    make_settings,
    serving,
)
from tests.tickets import until

CLASSIFY = "/v1/models/triton/efficientnet_lite0/predictions"
VERSION = "triton.efficientnet_lite0.1"


def image(kind: str, mode: str = "RGB", size: tuple[int, int] = (16, 16), **how: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **how)
    return out.getvalue()


def animated_gif() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("P", (16, 16), color) for color in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image("JPEG", exif=exif)


async def test_a_submit_is_accepted_at_once_and_says_where_it_stands(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    answers = [await gateway.client.post(ECHO, json=TEXT) for _ in range(3)]
    for answer in answers:
        assert answer.status_code == 202
        assert answer.headers["location"] == answer.json()["urls"]["get"]
        assert answer.json()["status"] == "starting"
    assert (await gateway_broker.depth()).tickets == 3
    last = (await gateway.client.get(answers[-1].headers["location"])).json()
    assert last["status"] == "starting"
    assert last["queue"] == {"state": "waiting", "position": 3}


async def test_every_form_of_body_makes_the_same_ticket(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    content = image("JPEG")
    uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    by_json = {"input": {"image": uri, "top_k": 3}}
    raw = {"content-type": "image/jpeg"}
    form = {"files": {"photo": ("x.jpg", content, "image/jpeg")}, "data": {"top_k": "3"}}
    whole = "/v1/predictions"
    for answer in (
        await gateway.client.post(CLASSIFY, json=by_json),
        await gateway.client.post(
            whole, json={"version": "triton.efficientnet_lite0.1", **by_json}
        ),
        await gateway.client.post(whole, json={"model": "triton/efficientnet_lite0", **by_json}),
        await gateway.client.post(f"{CLASSIFY}?top_k=3", content=content, headers=raw),
        await gateway.client.post(
            f"{whole}?model=triton/efficientnet_lite0&top_k=3", content=content, headers=raw
        ),
        await gateway.client.post(CLASSIFY, **form),  # type: ignore[arg-type]
    ):
        assert answer.status_code == 202, answer.text
        queued = await gateway_broker.find(parse_prediction_id(answer.json()["id"]))
        assert queued is not None
        assert (queued.ticket.model, queued.ticket.version) == ("efficientnet_lite0", 1)
        assert queued.ticket.input == {"top_k": 3}
        assert queued.ticket.files["image"].content == content
        assert queued.ticket.files["image"].media_type == "image/jpeg"
        assert queued.ticket.owner == "alice"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(image("PNG", size=(1, 1)), id="1 pixel"),
        pytest.param(image("JPEG", "CMYK"), id="CMYK"),
        pytest.param(image("PNG", "I;16"), id="16-bit PNG"),
        pytest.param(animated_gif(), id="animated GIF"),
        pytest.param(rotated_jpeg(), id="EXIF-rotated"),
        pytest.param(image("JPEG", size=(640, 480))[:-900], id="truncated JPEG"),
    ],
)
async def test_odd_images_are_accepted_and_left_to_the_decoder(
    gateway: RunningGateway, content: bytes
) -> None:
    headers = {"content-type": "image/png"}  # nobody believes it
    answer = await gateway.client.post(CLASSIFY, content=content, headers=headers)
    assert answer.status_code == 202, answer.text


async def test_a_file_can_be_fetched_again_while_it_waits_small_or_large(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    for size in (1000, INLINE_BYTES_MAX + 1):
        content = os.urandom(size)
        headers = {"content-type": "application/octet-stream"}
        answer = await gateway.client.post(ECHO, content=content, headers=headers)
        assert answer.status_code == 202, answer.text
        queued = await gateway_broker.find(parse_prediction_id(answer.json()["id"]))
        assert queued is not None
        travels_inline = queued.ticket.files["INPUT0"].content is not None
        assert travels_inline == (size <= INLINE_BYTES_MAX)
        fetched = await gateway.client.get(answer.json()["input"]["INPUT0"])
        assert fetched.content == content
        assert fetched.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in fetched.headers["content-security-policy"]
    missing = await gateway.client.get(f"{answer.json()['urls']['get']}/input/INPUT1")
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("headers", "body", "priority"),
    [
        ({}, {}, Priority.NORMAL),
        ({"X-Priority": "low"}, {}, Priority.LOW),
        ({}, {"priority": "high"}, Priority.HIGH),
        ({"X-Priority": "low"}, {"priority": "high"}, Priority.HIGH),
    ],
)
async def test_a_priority_comes_by_header_or_body(
    gateway: RunningGateway,
    gateway_broker: Broker,
    headers: dict[str, str],
    body: dict[str, str],
    priority: Priority,
) -> None:
    answer = await gateway.client.post(ECHO, json={**TEXT, **body}, headers=headers)
    assert answer.json()["priority"] == priority
    queued = await gateway_broker.find(parse_prediction_id(answer.json()["id"]))
    assert queued is not None
    assert queued.ticket.priority is priority


async def test_submitting_works_while_postgres_is_down_and_waiting_ones_can_be_read(
    settings: GatewaySettings,
) -> None:
    async with serving(_changed(settings, postgres_dsn=NOBODY_LISTENS)) as gateway:
        await declared(gateway)
        answer = await gateway.client.post(ECHO, json=TEXT)
        assert answer.status_code == 202
        read = await gateway.client.get(answer.headers["location"])
        assert (read.status_code, read.json()["status"]) == (200, "starting")
        unknown = await gateway.client.get("/v1/predictions/" + "0" * 26)
        assert unknown.status_code == 503  # it may have ended: nobody can tell
        assert unknown.headers["retry-after"].isdigit()
        assert (await gateway.client.get("/v1/predictions")).status_code == 503


async def test_while_nats_is_down_submits_are_refused_and_come_back_with_it(
    tmp_path: Path, ledger_dsn: str, namespace: str
) -> None:
    async with AsyncExitStack() as stack:
        nats = services.nats(tmp_path)
        address = await nats.__aenter__()
        settings = make_settings(tmp_path, address, ledger_dsn, namespace)
        gateway = await stack.enter_async_context(serving(settings))
        await declared(gateway)
        assert (await gateway.client.post(ECHO, json=TEXT)).status_code == 202
        await nats.__aexit__(None, None, None)
        answer = await gateway.client.post(ECHO, json=TEXT)
        assert answer.status_code == 503
        assert answer.headers["retry-after"].isdigit()
        assert answer.json()["code"] in {"queue_unavailable", "acceptance_unknown"}
        ready = await gateway.client.get("/readyz")
        assert "queue" in ready.json()["missing"]


async def test_a_gateway_that_starts_before_its_services_serves_once_they_come(
    tmp_path: Path, ledger_dsn: str, namespace: str
) -> None:
    port, monitor_port = services.free_ports(2)
    server = Nats(tmp_path, port, monitor_port, "a-token", "2m", services.STORE_BYTES_MAX)
    address = services.NatsAddress(server.url, "a-token")
    settings = make_settings(tmp_path, address, ledger_dsn, namespace)
    async with serving(settings) as gateway:
        assert (await gateway.client.get("/healthz")).status_code == 200
        assert (await gateway.client.post(ECHO, json=TEXT)).status_code == 503
        async with running(server):

            async def is_accepted() -> bool:
                return (await gateway.client.post(ECHO, json=TEXT)).status_code == 202

            await until(is_accepted)


async def test_a_full_queue_is_429_and_says_when_to_come_back(settings: GatewaySettings) -> None:
    async with serving(_changed(settings, queue_tickets_max=2)) as gateway:
        statuses: list[int] = []
        while 429 not in statuses and len(statuses) < 50:
            answer = await gateway.client.post(ECHO, json=TEXT)
            statuses.append(answer.status_code)
        assert statuses.count(202) == 2
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["code"] == "overloaded"


async def test_owners_do_not_see_each_others_predictions(gateway: RunningGateway) -> None:
    answer = await gateway.client.post(ECHO, content=b"x", headers=_OCTETS)
    url = answer.headers["location"]
    async with httpx.AsyncClient(headers={"Authorization": "Token bob-token-22"}) as bob:
        assert (await bob.get(url)).status_code == 404
        assert (await bob.get(f"{url}?wait=1")).status_code == 404
        assert (await bob.get(f"{url}/input/INPUT0")).status_code == 404
        assert (await bob.get(f"{gateway.url}/v1/predictions")).json()["results"] == []
    assert (await gateway.client.get(url)).status_code == 200


async def test_links_use_the_public_url_where_one_is_set(settings: GatewaySettings) -> None:
    async with serving(_changed(settings, public_url="https://inference.example")) as gateway:
        await declared(gateway)
        answer = await gateway.client.post(ECHO, json=TEXT)
        assert answer.headers["location"].startswith("https://inference.example/v1/predictions/")


_OCTETS = {"content-type": "application/octet-stream"}


def _changed(settings: GatewaySettings, **changes: Any) -> GatewaySettings:
    given = settings.model_dump()
    return GatewaySettings(**{**given, **changes})
