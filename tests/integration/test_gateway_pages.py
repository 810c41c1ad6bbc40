"""Everything that is read through a real server beside one prediction: lists, models, health."""

import os
import time
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from contract.announcements import DispatcherStatus
from contract.ids import new_prediction_id
from gateway.settings import GatewaySettings
from tests.gateways import ECHO, MODELS, TEXT, PlayedDispatcher, RunningGateway, declared, serving
from tests.tickets import until

WAIT = {"Prefer": "wait=20"}


async def walk(gateway: RunningGateway, path: str) -> list[dict[str, Any]]:
    """Follow `next` to the end."""
    rows: list[dict[str, Any]] = []
    url: str | None = path
    while url is not None:
        page = (await gateway.client.get(url)).json()
        rows += page["results"]
        url = page["next"]
        assert url is None or url.startswith(gateway.url)
        assert len(rows) < 1000
    return rows


async def test_pages_show_waiting_and_ended_ones_together_newest_first(
    gateway: RunningGateway, dispatcher: PlayedDispatcher
) -> None:
    async with dispatcher.running():
        ended = [
            (await gateway.client.post(ECHO, json=TEXT, headers=WAIT)).json() for _ in range(5)
        ]
    waiting = [(await gateway.client.post(ECHO, json=TEXT)).json() for _ in range(4)]
    rows = await walk(gateway, "/v1/predictions?limit=2")
    assert [row["id"] for row in rows] == [each["id"] for each in reversed(ended + waiting)]
    assert [row["status"] for row in rows] == ["starting"] * 4 + ["succeeded"] * 5
    (whole,) = [(await gateway.client.get("/v1/predictions")).json()]
    assert whole["results"] == rows
    assert (whole["next"], whole["previous"]) == (None, None)


async def test_what_is_recorded_and_still_in_the_queue_is_listed_once_as_ended(
    gateway: RunningGateway, dispatcher: PlayedDispatcher
) -> None:
    dispatcher.may_ack.clear()
    async with dispatcher.running():
        ids = [
            (await gateway.client.post(ECHO, json=TEXT, headers=WAIT)).json()["id"]
            for _ in range(5)
        ]
        rows = await walk(gateway, "/v1/predictions?limit=2")
    assert [row["id"] for row in rows] == ids[::-1]
    assert {row["status"] for row in rows} == {"succeeded"}


async def test_one_that_took_long_to_be_published_is_listed_as_it_ended(
    gateway: RunningGateway, dispatcher: PlayedDispatcher
) -> None:
    an_hour_ago = time.time_ns() // 1_000_000 - 3_600_000
    late = new_prediction_id(an_hour_ago, os.urandom(10))
    dispatcher.may_ack.clear()
    async with dispatcher.running():
        for _ in range(3):
            await gateway.client.post(ECHO, json=TEXT, headers=WAIT)
        put = {"version": "triton/identity", **TEXT}
        answer = await gateway.client.put(f"/v1/predictions/{late}", json=put, headers=WAIT)
        assert answer.status_code == 201
        # On the first page or the second: that depends on how much of the queue was read at once.
        rows: list[dict[str, Any]] = []
        url = "/v1/predictions?limit=2"
        while url and late not in [row["id"] for row in rows]:
            page = (await gateway.client.get(url)).json()
            rows, url = rows + page["results"], page["next"]
    assert late in [row["id"] for row in rows]
    assert {row["status"] for row in rows} == {"succeeded"}


async def test_previous_leads_back_to_the_page_before(gateway: RunningGateway) -> None:
    for _ in range(5):
        await gateway.client.post(ECHO, json=TEXT)
    first = (await gateway.client.get("/v1/predictions?limit=2")).json()
    second = (await gateway.client.get(first["next"])).json()
    third = (await gateway.client.get(second["next"])).json()
    back = (await gateway.client.get(third["previous"])).json()
    assert back["results"] == second["results"]
    start = (await gateway.client.get(back["previous"])).json()
    assert start["results"] == first["results"]
    assert start["previous"] is None


async def test_a_list_has_the_callers_own_predictions_only(gateway: RunningGateway) -> None:
    mine: list[str] = []
    async with httpx.AsyncClient(headers={"Authorization": "Bearer bob-token-22"}) as bob:
        for number in range(12):
            post = bob.post if number % 3 else gateway.client.post
            answer = await post(gateway.url + ECHO, json=TEXT)
            if post == gateway.client.post:
                mine.append(answer.json()["id"])
    rows = await walk(gateway, "/v1/predictions?limit=2")
    assert [row["id"] for row in rows] == mine[::-1]


async def test_models_say_what_they_take_and_give(gateway: RunningGateway) -> None:
    models = await walk(gateway, "/v1/models")
    assert {model["name"] for model in models} == set(MODELS)
    for model in models:
        answer = await gateway.client.get(f"/v1/models/triton/{model['name']}")
        assert answer.json() == model
        schemas = model["latest_version"]["openapi_schema"]["components"]["schemas"]
        assert schemas["Input"]["properties"]
        assert schemas["Output"]
        versions = await walk(gateway, f"/v1/models/triton/{model['name']}/versions")
        assert versions == [model["latest_version"]]
        for spelling in (versions[0]["id"], "1"):
            one = await gateway.client.get(f"{model['url']}/versions/{spelling}")
            assert one.json() == versions[0]
        pinned = await gateway.client.get(f"{model['url']}@1")
        assert pinned.json()["latest_version"] == versions[0]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/triton/nothing",
        "/v1/models/somebody/identity",
        "/v1/models/triton/identity@2",
        "/v1/models/triton/identity/versions/2",
        "/v1/models/triton/identity/versions/triton.efficientnet_lite0.1",
        "/v1/models/triton/identity/versions/nonsense!",
        "/v1/models/triton/identity/versions/" + "9" * 30,
    ],
)
async def test_what_is_not_on_offer_is_not_found(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")


async def test_only_models_on_offer_are_shown_in_their_order(settings: GatewaySettings) -> None:
    async with serving(settings.model_copy(update={"models": MODELS[::-1]})) as gateway:
        assert [model["name"] for model in await walk(gateway, "/v1/models")] == list(MODELS[::-1])
    async with serving(settings.model_copy(update={"models": ("identity",)})) as gateway:
        assert [model["name"] for model in await walk(gateway, "/v1/models")] == ["identity"]


async def missing(gateway: RunningGateway) -> dict[str, str]:
    answer = await gateway.client.get("/readyz")
    body: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if body["ready"] else 503)
    assert body["ready"] == (not body["missing"])
    found: dict[str, str] = body["missing"]
    return found


async def test_readiness_names_each_part_that_is_missing(
    gateway: RunningGateway, dispatcher: PlayedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.health.FRESH_S", 0.0)
    assert set(await missing(gateway)) == {"dispatcher"}
    broker = dispatcher.broker

    async def after(status: DispatcherStatus, expected: dict[str, str]) -> None:
        await broker.tell_status(status)

        async def is_so() -> bool:
            return await missing(gateway) == expected

        await until(is_so)

    some = {"efficientnet_lite0": "its stub died", "identity": ""}
    await after(DispatcherStatus("one", some), {"model:efficientnet_lite0": "its stub died"})
    await after(DispatcherStatus("two", {"efficientnet_lite0": ""}), {})
    only = {"identity": ""}
    await after(DispatcherStatus("two", only), {"model:efficientnet_lite0": "its stub died"})
    await after(DispatcherStatus("two", dict.fromkeys(MODELS, "")), {})


async def test_a_dispatcher_that_fell_silent_is_missing(
    gateway: RunningGateway, dispatcher: PlayedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.health.FRESH_S", 0.0)
    monkeypatch.setattr("gateway.health.HEARD_S_MAX", 0.3)

    async def is_ready() -> bool:
        await dispatcher.tell_ready()
        return not await missing(gateway)

    async def is_missing() -> bool:
        return "dispatcher" in await missing(gateway)

    await until(is_ready)
    await until(is_missing)


async def test_readiness_names_postgres_and_nats_when_they_are_down(
    settings: GatewaySettings,
) -> None:
    nowhere = {
        "postgres_dsn": "postgresql://nobody:nothing@127.0.0.1:1/nowhere",
        "nats_url": "nats://127.0.0.1:1",
    }
    given = GatewaySettings(**{**settings.model_dump(), **nowhere})
    async with serving(given) as gateway:
        found = await missing(gateway)
        assert {"queue", "ledger"} <= set(found)
        assert "nothing" not in str(found)  # the password
        assert (await gateway.client.get("/healthz")).status_code == 200


async def test_the_openapi_document_is_valid(gateway: RunningGateway) -> None:
    validate((await gateway.client.get("/openapi.json")).json())


async def test_every_example_in_the_openapi_document_works(gateway: RunningGateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    tried = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        examples = content.get("application/json", {}).get("examples", {})
        for name, example in examples.items():
            url = path.format(owner="triton", name=name)
            answer = await gateway.client.post(url, json=example["value"])
            assert answer.status_code == 202, answer.text
            tried += 1
    assert tried == 2 * len(MODELS)


async def test_every_documented_path_exists(
    gateway: RunningGateway,
) -> None:
    paths = (await gateway.client.get("/openapi.json")).json()["paths"]
    names = {"owner": "triton", "name": "identity", "id": "x", "field": "x"}
    for path, operations in paths.items():
        for method in operations.keys() & {"get", "post", "put"}:
            answer = await gateway.client.request(method, path.format(**names))
            assert answer.status_code != 405, path
            assert answer.json().get("code") != "not_found", path


async def test_the_interactive_documentation_needs_no_other_host(gateway: RunningGateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, follow_redirects=True) as browser:
        page = (await browser.get("/")).text
        assert "https://" not in page
        assert '"validatorUrl": null' in page  # or Swagger UI asks its maker's server
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"/docs/assets/{asset}" in page
            assert (await browser.get(f"/docs/assets/{asset}")).status_code == 200
        assert (await browser.get("/docs/assets/../../etc/passwd")).status_code >= 400


async def test_the_base_of_the_api_says_what_is_there(gateway: RunningGateway) -> None:
    found = (await gateway.client.get("/v1")).json()
    for url in found["urls"].values():
        assert (await gateway.client.get(url)).status_code == 200


async def test_metrics_count_by_route_and_never_by_what_a_caller_typed(
    gateway: RunningGateway,
) -> None:
    await gateway.client.get("/v1/predictions/typed-by-a-caller")
    await gateway.client.get("/typed-by-a-caller")
    await gateway.client.post(ECHO, json=TEXT)
    text = (await gateway.client.get("/metrics")).text
    assert "typed-by-a-caller" not in text
    assert 'method="GET",route="/v1/predictions/{id}",status="404"' in text
    assert 'method="GET",route="none",status="404"' in text
    assert 'tritonq_predictions_accepted_total{model="identity",priority="normal"}' in text


async def test_two_gateways_share_one_queue_and_one_ledger(
    gateway: RunningGateway, settings: GatewaySettings, dispatcher: PlayedDispatcher
) -> None:
    async with serving(settings) as other, dispatcher.running():
        await declared(other)
        accepted = (await gateway.client.post(ECHO, json=TEXT)).json()
        answer = await other.client.get(f"/v1/predictions/{accepted['id']}?wait=20")
        assert answer.json()["status"] == "succeeded"


async def test_a_problems_type_leads_to_its_explanation(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/v1/models/triton/nothing")
    explained = await gateway.client.get(answer.json()["type"])
    assert explained.text.startswith("unknown_model")
    assert (await gateway.client.get("/problems/nonsense")).status_code == 404


async def test_a_bug_is_a_problem_without_details_and_the_server_goes_on(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("an internal detail")

    monkeypatch.setattr("gateway.rest.models.Models._model", fail)
    answer = await gateway.client.get("/v1/models")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["x-should-retry"] == "false"
    assert "internal detail" not in answer.text
    assert (await gateway.client.get("/v1")).status_code == 200
