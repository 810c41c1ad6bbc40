"""Reading and waiting through a real server, while a dispatcher ends predictions."""

import asyncio
import hashlib
import time
from typing import cast

import httpx
import pytest

from blobs import Blobs
from broker import Broker, Queued
from contract.ids import PredictionId, parse_prediction_id
from contract.limits import INLINE_BYTES_MAX
from gateway.follow import Follower
from gateway.recent import Recent
from gateway.settings import GatewaySettings
from gateway.withdraw import Withdrawer
from ledger import Ledger
from tests.gateways import (
    ALICE,
    ECHO,
    NOBODY_LISTENS,
    TEXT,
    PlayedDispatcher,
    RunningGateway,
    declared,
    serving,
    until_waiting,
)
from tests.tickets import until


async def status_of(gateway: RunningGateway, url: str) -> str:
    answer = await gateway.client.get(url)
    assert answer.status_code == 200, answer.text
    status: str = answer.json()["status"]
    return status


async def test_a_wait_is_answered_with_the_outcome(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=20"})
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["output"] == {"OUTPUT0": ["hello"]}
    again = await gateway.client.get(answer.headers["location"])
    assert again.json() == answer.json()


async def test_a_failed_prediction_is_answered_like_any_other(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    body = {"input": {"INPUT0": "fail"}}
    answer = await gateway.client.post(ECHO, json=body, headers={"Prefer": "wait"})
    assert answer.status_code == 201
    assert (answer.json()["status"], answer.json()["output"]) == ("failed", None)
    assert answer.json()["error"] == "the model rejected it"
    assert answer.headers["preference-applied"] == "wait=55"


async def test_a_get_can_wait_too_by_query_or_header(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    url = (await gateway.client.post(ECHO, json=TEXT)).headers["location"]
    waiting = [
        asyncio.create_task(gateway.client.get(f"{url}?wait=20")),
        asyncio.create_task(gateway.client.get(url, headers={"Prefer": "wait=20"})),
    ]
    await until_waiting(gateway, 2)
    running.may_record.set()
    for answer in await asyncio.gather(*waiting):
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_a_wait_that_expires_says_starting_although_it_runs(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    """Every client takes any other status for the end of the prediction."""
    running.may_record.clear()
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=0.1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    url = answer.headers["location"]

    async def is_processing() -> bool:
        return await status_of(gateway, url) == "processing"

    await until(is_processing)
    assert (await gateway.client.get(f"{url}?wait=0.1")).json()["status"] == "starting"


async def test_a_wait_is_answered_although_the_announcement_was_lost(
    gateway: RunningGateway, running: PlayedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.follow.RECHECK_S", 0.1)
    monkeypatch.setattr("gateway.follow.TICK_S", 0.05)
    running.announces = False
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")


async def test_an_outcome_too_large_to_be_announced_is_answered_at_once(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    text = "x" * 200_000
    began_at = time.monotonic()
    answer = await gateway.client.post(
        ECHO, json={"input": {"INPUT0": text}}, headers={"Prefer": "wait=50"}
    )
    assert answer.json()["output"] == {"OUTPUT0": [text]}
    assert time.monotonic() - began_at < 5  # the re-check of lost announcements comes later


async def test_no_reader_ever_gets_a_false_404_while_predictions_end(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    """Each moves from the queue to the ledger while several readers ask for it all the time."""
    running.announces = False
    urls: list[str] = []
    done = asyncio.Event()
    asked = 0

    async def read() -> None:
        nonlocal asked
        while not done.is_set():
            for url in urls[-8:]:
                asked += 1
                await status_of(gateway, url)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for _ in range(150):
        answer = await gateway.client.post(ECHO, json=TEXT)
        urls.append(answer.headers["location"])
    for url in urls:
        assert (await gateway.client.get(f"{url}?wait=20")).json()["status"] == "succeeded"
    done.set()
    await asyncio.gather(*readers)
    assert asked > 150


class EndingBroker:
    """The queue, at the moment when a prediction leaves it: after we asked the ledger."""

    def __init__(self, broker: Broker, dispatcher: PlayedDispatcher) -> None:
        self._broker = broker
        self._dispatcher = dispatcher

    async def find(self, prediction_id: PredictionId) -> Queued | None:
        self._dispatcher.may_record.set()

        async def has_left() -> bool:
            return await self._broker.find(prediction_id) is None

        await until(has_left)
        return await self._broker.find(prediction_id)


async def test_a_prediction_that_ends_between_ledger_and_queue_is_found_in_the_ledger(
    gateway: RunningGateway, running: PlayedDispatcher, ledger: Ledger
) -> None:
    running.may_record.clear()
    answer = await gateway.client.post(ECHO, json=TEXT)
    broker = cast("Broker", EndingBroker(running.broker, running))
    withdrawer = cast("Withdrawer", None)  # nothing is withdrawn
    follower = Follower(ledger, broker, withdrawer, Recent(), waiters_max=1)
    seen = await follower.find(answer.json()["id"])
    assert seen.outcome is not None


async def test_a_recorded_prediction_has_ended_although_its_ticket_is_still_there(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_ack.clear()
    url = (await gateway.client.post(ECHO, json=TEXT)).headers["location"]
    async with asyncio.timeout(10):
        await running.recorded.wait()
    assert await status_of(gateway, url) == "succeeded"
    page = (await gateway.client.get("/v1/predictions")).json()
    assert [each["status"] for each in page["results"]] == ["succeeded"]


async def test_what_may_have_ended_is_not_called_running_while_postgres_is_away(
    settings: GatewaySettings, running: PlayedDispatcher
) -> None:
    """Who heard of its end must not be told the contrary: its ticket is there for a moment more."""
    running.may_ack.clear()
    without_ledger = {**settings.model_dump(), "postgres_dsn": NOBODY_LISTENS}
    settings = GatewaySettings(**without_ledger)
    async with serving(settings) as gateway, serving(settings) as another:
        await declared(gateway)
        answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=20"})
        assert answer.json()["status"] == "succeeded"
        # The one that told of it knows it for a while; no other one says anything.
        path = answer.headers["location"].removeprefix(gateway.url)
        assert (await gateway.client.get(path)).json()["status"] == "succeeded"
        for query in ("", "?wait=0.1"):
            again = await another.client.get(path + query)
            assert (again.status_code, again.json()["code"]) == (503, "ledger_unavailable")


async def test_the_files_of_an_ended_prediction_come_from_the_blobs_or_are_gone(
    gateway: RunningGateway, running: PlayedDispatcher, settings: GatewaySettings
) -> None:
    headers = {"content-type": "application/octet-stream", "Prefer": "wait=20"}
    large = b"x" * (INLINE_BYTES_MAX + 1)
    ended = await gateway.client.post(ECHO, content=large, headers=headers)
    assert ended.status_code == 201
    assert (await gateway.client.get(ended.json()["input"]["INPUT0"])).content == large
    small = await gateway.client.post(ECHO, content=b"small", headers=headers)
    url = small.json()["input"]["INPUT0"]
    assert (await gateway.client.get(url)).status_code == 404  # this dispatcher keeps none
    sha256 = hashlib.sha256(b"small").hexdigest()
    prediction_id = parse_prediction_id(small.json()["id"])
    await Blobs.open(settings.blobs_url).put(prediction_id, b"small", sha256)
    assert (await gateway.client.get(url)).content == b"small"


async def test_ended_predictions_can_be_read_while_nats_is_down(
    gateway: RunningGateway, running: PlayedDispatcher, settings: GatewaySettings
) -> None:
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=20"})
    path = answer.headers["location"].removeprefix(gateway.url)
    nowhere = settings.model_copy(update={"nats_url": "nats://127.0.0.1:1"})
    async with serving(nowhere) as cut_off:
        read = await cut_off.client.get(path)
        assert (read.status_code, read.json()["status"]) == (200, "succeeded")
        unknown = await cut_off.client.get("/v1/predictions/" + "0" * 26)
        assert unknown.status_code == 503  # it may wait in the queue: nobody can tell


async def test_a_stopping_gateway_lets_go_of_those_who_wait(settings: GatewaySettings) -> None:
    async with httpx.AsyncClient(headers=ALICE, timeout=70) as client:
        async with serving(settings) as gateway:
            await declared(gateway)
            post = client.post(gateway.url + ECHO, json=TEXT, headers={"Prefer": "wait=50"})
            held = asyncio.create_task(post)
            await until_waiting(gateway, 1)
        answer = await held
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")


async def test_more_waiters_than_allowed_are_sent_away_before_anything_is_accepted(
    settings: GatewaySettings,
) -> None:
    async with serving(settings.model_copy(update={"waiters_max": 1})) as gateway:
        await declared(gateway)
        wait = {"Prefer": "wait=50"}
        held = asyncio.create_task(gateway.client.post(ECHO, json=TEXT, headers=wait))
        await until_waiting(gateway, 1)
        refused = await gateway.client.post(ECHO, json=TEXT, headers=wait)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        page = (await gateway.client.get("/v1/predictions")).json()
        assert len(page["results"]) == 1
        assert (await gateway.client.post(ECHO, json=TEXT)).status_code == 202
        held.cancel()


async def test_a_caller_who_left_makes_room_for_another(
    settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rest.answers.STILL_THERE_S", 0.05)
    async with serving(settings.model_copy(update={"waiters_max": 1})) as gateway:
        await declared(gateway)
        async with httpx.AsyncClient(headers=ALICE) as leaving:
            post = leaving.post(gateway.url + ECHO, json=TEXT, headers={"Prefer": "wait=50"})
            held = asyncio.create_task(post)
            await until_waiting(gateway, 1)
            held.cancel()
        await until_waiting(gateway, 0)


async def test_a_long_wait_is_not_taken_for_slow_headers(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.HEAD_WAIT_S", 0.1)
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Prefer": "wait=0.5"})
    assert answer.status_code == 202
