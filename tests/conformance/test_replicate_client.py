"""The official Replicate client for Python, 1.0.7, against a real gateway.

It reads more strictly than Replicate's other clients, so what it takes, they take. Only what we
offer so far is tried; a played dispatcher answers what the identity model would.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.pagination import paginate

from tests.gateways import PlayedDispatcher, RunningGateway, until_waiting
from tests.tickets import until

MODEL = "triton/identity"
VERSION = "triton.identity.1"
TEXT = {"INPUT0": "hello"}
ECHOED = {"OUTPUT0": ["hello"]}


@pytest.fixture(autouse=True)
async def running(dispatcher: PlayedDispatcher) -> AsyncIterator[PlayedDispatcher]:
    async with dispatcher.running():
        yield dispatcher


@asynccontextmanager
async def speaking(base_url: str, token: str, **headers: str) -> AsyncIterator[Client]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client = Client(api_token=token, base_url=base_url, headers=named)
    # It makes these two on first use, twice if two threads use it, and offers no way to close them.
    with client._client:
        async with client._async_client:
            yield client


@pytest.fixture(params=["", "/v1", "/v1/"])
async def client(gateway: RunningGateway, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """Every base URL that people write works the same."""
    async with speaking(gateway.url + request.param, "alice-token-1") as client:
        yield client


async def called(call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """The client's synchronous half, in a thread: the gateway lives in this one."""
    return await asyncio.to_thread(call, *given, **options)


@pytest.mark.parametrize(
    "reference", [MODEL, f"{MODEL}:{VERSION}", f"{MODEL}@1"], ids=["model", "version", "number"]
)
async def test_run_returns_the_output(client: Client, reference: str) -> None:
    assert await called(client.run, reference, input=TEXT) == ECHOED


async def test_run_returns_the_output_although_its_wait_expired(
    client: Client, gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    """The trap: `run` takes any status but `starting` for the end, and returns None."""
    running.may_record.clear()
    run = asyncio.create_task(called(client.run, MODEL, input=TEXT, wait=1))
    await until_waiting(gateway, 1)

    async def is_running() -> bool:
        page = await called(client.predictions.list)
        return any(each.status == "processing" for each in page.results)

    await until(is_running)
    await until_waiting(gateway, 0)  # its wait of one second is over
    assert not run.done()
    running.may_record.set()
    assert await run == ECHOED


async def test_run_without_waiting_polls(client: Client) -> None:
    assert await called(client.run, MODEL, input=TEXT, wait=False) == ECHOED


async def test_run_raises_the_models_error(client: Client) -> None:
    with pytest.raises(ModelError, match="the model rejected it"):
        await called(client.run, MODEL, input={"INPUT0": "fail"})


async def test_create_get_reload_and_wait(client: Client) -> None:
    created = await called(client.predictions.create, version=VERSION, input=TEXT)
    assert created.status == "starting"
    await called(created.wait)
    assert (created.status, created.output) == ("succeeded", ECHOED)
    found = await called(client.predictions.get, created.id)
    assert (found.model, found.version, found.input) == (MODEL, VERSION, TEXT)
    assert found.metrics["predict_time"] >= 0
    await called(found.reload)
    assert found.completed_at is not None


async def test_create_by_model(client: Client) -> None:
    created = await called(client.models.predictions.create, MODEL, input=TEXT, wait=True)
    assert created.output == ECHOED


async def test_list_and_paginate(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.rest.predictions.PAGE_MAX", 2)  # pages of two
    ids = [
        (await called(client.predictions.create, version=VERSION, input=TEXT)).id for _ in range(5)
    ]
    pages = await called(lambda: list(paginate(client.predictions.list)))
    assert [len(page.results) for page in pages] == [2, 2, 1]
    assert [each.id for page in pages for each in page.results] == ids[::-1]


async def test_cancel_in_both_halves(client: Client, running: PlayedDispatcher) -> None:
    running.may_record.clear()
    created = await called(client.predictions.create, version=VERSION, input=TEXT)
    await called(created.cancel)
    assert (created.status, created.output, created.error) == ("canceled", None, None)
    assert created.completed_at is not None
    again = await called(client.predictions.cancel, created.id)
    assert again.status == "canceled"
    other = await client.predictions.async_create(version=VERSION, input=TEXT)
    assert (await client.predictions.async_cancel(other.id)).status == "canceled"
    await other.async_wait()
    assert other.status == "canceled"


async def test_cancel_of_what_has_ended_changes_nothing(client: Client) -> None:
    created = await called(client.predictions.create, version=VERSION, input=TEXT, wait=20)
    assert (await called(client.predictions.cancel, created.id)).output == ECHOED


async def test_run_of_what_is_canceled_meanwhile_returns(
    client: Client, gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    run = asyncio.create_task(called(client.run, MODEL, input=TEXT))
    await until_waiting(gateway, 1)
    (created,) = (await called(client.predictions.list)).results
    await called(created.cancel)
    assert await run is None


async def test_headers_of_the_clients_own_make_a_submit_idempotent(
    gateway: RunningGateway,
) -> None:
    async with speaking(gateway.url, "alice-token-1", Idempotency_Key="order-1") as client:
        first = await called(client.predictions.create, version=VERSION, input=TEXT)
        again = await called(client.predictions.create, version=VERSION, input=TEXT, wait=20)
        assert (again.id, again.status, again.output) == (first.id, "succeeded", ECHOED)
        with pytest.raises(ReplicateError) as refused:
            await called(client.predictions.create, version=VERSION, input={"INPUT0": "other"})
        assert refused.value.status == 409


async def test_a_deadline_by_header_ends_what_is_too_late_with_an_error(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    async with speaking(gateway.url, "alice-token-1", Cancel_After="1s") as client:
        with pytest.raises(ModelError, match="deadline"):
            await called(client.run, MODEL, input=TEXT)


async def test_models_and_versions(client: Client) -> None:
    page = await called(client.models.list)
    assert MODEL in [f"{model.owner}/{model.name}" for model in page.results]
    model = await called(client.models.get, MODEL)
    assert model.latest_version is not None
    assert model.latest_version.id == VERSION
    versions = await called(model.versions.list)
    assert [version.id for version in versions.results] == [VERSION]
    version = await called(model.versions.get, VERSION)
    assert "Output" in version.openapi_schema["components"]["schemas"]


async def test_the_asynchronous_half(client: Client) -> None:
    assert await client.async_run(MODEL, input=TEXT) == ECHOED
    created = await client.predictions.async_create(version=VERSION, input=TEXT)
    await created.async_wait()
    assert created.output == ECHOED
    assert (await client.predictions.async_get(created.id)).status == "succeeded"
    assert len((await client.predictions.async_list()).results) == 2
    assert (await client.models.async_get(MODEL)).name == "identity"


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.predictions.get("0" * 26), 404),
        (lambda client: client.predictions.cancel("0" * 26), 404),
        (lambda client: client.models.get("triton/nothing"), 404),
        (lambda client: client.run("triton/nothing", input={}), 404),
        (lambda client: client.run(MODEL, input={"INPUT1": "x"}), 422),
        (lambda client: client.predictions.create(version="1", input=TEXT), 422),
    ],
    ids=["prediction", "cancel", "model", "run", "input", "bare version number"],
)
async def test_refusals_are_read_as_problems(
    client: Client, call: Callable[[Client], Any], status: int
) -> None:
    with pytest.raises(ReplicateError) as refused:
        await called(call, client)
    assert refused.value.status == status
    assert refused.value.detail


async def test_a_wrong_token_is_refused(gateway: RunningGateway) -> None:
    async with speaking(gateway.url, "wrong-token") as stranger:
        with pytest.raises(ReplicateError) as refused:
            await called(stranger.predictions.list)
    assert refused.value.status == 401
