"""Deadlines through a real server: what has not ended by then has failed, and is not run."""

import asyncio
import time
from typing import Any

import pytest

from broker import Broker
from contract.ids import parse_prediction_id
from gateway.settings import GatewaySettings
from tests.gateways import (
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

Json = dict[str, Any]


async def submitted(gateway: RunningGateway, after: str) -> str:
    """The URL of a new prediction with a deadline."""
    answer = await gateway.client.post(ECHO, json=TEXT, headers={"Cancel-After": after})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


async def read(gateway: RunningGateway, url: str) -> Json:
    answer = await gateway.client.get(url)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def queued(broker: Broker, url: str) -> bool:
    return await broker.find(parse_prediction_id(url.rpartition("/")[2])) is not None


@pytest.mark.parametrize(
    ("headers", "body", "after_s"),
    [
        ({"Cancel-After": "90s"}, {}, 90),
        ({"Cancel-After": "1m30s"}, {}, 90),
        ({"Cancel-After": "2h"}, {}, 7200),
        ({"Cancel-After": "30d"}, {}, 30 * 86400),
        ({"Cancel-After": "45"}, {}, 45),
        ({}, {"cancel_after": "1m"}, 60),
        ({}, {"cancel_after": 2.5}, 2.5),
        ({"Cancel-After": "90s"}, {"cancel_after": 60}, 60),
    ],
)
async def test_a_deadline_comes_by_header_or_body_and_counts_from_acceptance(
    gateway: RunningGateway,
    gateway_broker: Broker,
    headers: dict[str, str],
    body: Json,
    after_s: float,
) -> None:
    answer = await gateway.client.post(ECHO, json={**TEXT, **body}, headers=headers)
    found = await gateway_broker.find(parse_prediction_id(answer.json()["id"]))
    assert found is not None
    assert found.ticket.deadline_ms == found.ticket.created_at_ms + round(after_s * 1000)
    assert answer.json()["deadline"] > answer.json()["created_at"]


async def test_a_prediction_found_past_its_deadline_has_failed_and_leaves_the_queue(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    url = await submitted(gateway, "1s")

    async def has_ended() -> bool:
        return bool((await read(gateway, url))["status"] != "starting")

    await until(has_ended)
    overdue = await read(gateway, url)
    assert (overdue["status"], overdue["error_code"]) == ("failed", "deadline_exceeded")
    assert overdue["deadline"] in overdue["error"]
    assert overdue["completed_at"] >= overdue["deadline"]
    assert not await queued(gateway_broker, url)


@pytest.mark.parametrize("wait_at", ["post", "get"])
async def test_a_wait_ends_at_the_deadline_with_the_outcome(
    gateway: RunningGateway, wait_at: str
) -> None:
    began_at = time.monotonic()
    headers = {"Cancel-After": "1s", "Prefer": "wait=50"}
    if wait_at == "post":
        answer = await gateway.client.post(ECHO, json=TEXT, headers=headers)
        assert answer.status_code == 201
    else:
        url = await submitted(gateway, "1s")
        answer = await gateway.client.get(f"{url}?wait=50")
    assert (answer.json()["status"], answer.json()["error_code"]) == (
        "failed",
        "deadline_exceeded",
    )
    assert time.monotonic() - began_at < 20


async def test_a_prediction_that_runs_past_its_deadline_fails_and_keeps_that_outcome(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    answer = await gateway.client.post(
        ECHO, json=TEXT, headers={"Cancel-After": "1s", "Prefer": "wait=50"}
    )
    assert answer.json()["error_code"] == "deadline_exceeded"
    running.may_record.set()
    async with asyncio.timeout(10):
        await running.recorded.wait()
    assert await read(gateway, answer.headers["location"]) == answer.json()


async def test_cancels_at_the_deadline_give_everybody_one_outcome(
    gateway: RunningGateway, settings: GatewaySettings
) -> None:
    async with serving(settings) as other:
        urls = [await submitted(gateway, "3s") for _ in range(10)]
        paths = [url.removeprefix(gateway.url) for url in urls]
        waits = [asyncio.create_task(other.client.get(f"{path}?wait=20")) for path in paths]
        await until_waiting(other, len(urls))

        async def cancel_until_ended(path: str) -> str:
            while (seen := (await gateway.client.get(path)).json())["status"] == "starting":
                await asyncio.sleep(0.01)
            assert (await gateway.client.post(f"{path}/cancel")).json() == seen
            return str(seen["status"])

        ended = await asyncio.gather(*(cancel_until_ended(path) for path in paths))
        waited = [(await wait).json()["status"] for wait in waits]
        assert waited == ended == ["failed"] * len(urls)


async def test_while_the_ledger_is_away_an_overdue_prediction_still_waits(
    settings: GatewaySettings,
) -> None:
    given = GatewaySettings(**{**settings.model_dump(), "postgres_dsn": NOBODY_LISTENS})
    async with serving(given) as gateway:
        await declared(gateway)
        answer = await gateway.client.post(
            ECHO, json=TEXT, headers={"Cancel-After": "1s", "Prefer": "wait=50"}
        )
        assert (answer.status_code, answer.json()["status"]) == (202, "starting")
        assert (await read(gateway, answer.headers["location"]))["status"] == "starting"


@pytest.mark.parametrize(
    ("headers", "body", "field", "rule"),
    [
        ({"Cancel-After": "soon"}, {}, "header.cancel-after", "duration"),
        ({"Cancel-After": ""}, {}, "header.cancel-after", "duration"),
        ({"Cancel-After": "30s1m"}, {}, "header.cancel-after", "duration"),
        ({"Cancel-After": "-5"}, {}, "header.cancel-after", "duration"),
        ({"Cancel-After": "0"}, {}, "header.cancel-after", "range"),
        ({"Cancel-After": "0.9s"}, {}, "header.cancel-after", "range"),
        ({"Cancel-After": "30d1s"}, {}, "header.cancel-after", "range"),
        ({}, {"cancel_after": 0.5}, "cancel_after", "range"),
        ({}, {"cancel_after": 1e300}, "cancel_after", "range"),
        ({}, {"cancel_after": True}, "cancel_after", "duration"),
        ({}, {"cancel_after": ["1s"]}, "cancel_after", "duration"),
    ],
)
async def test_a_deadline_that_is_none_is_refused_naming_field_and_rule(
    gateway: RunningGateway,
    gateway_broker: Broker,
    headers: dict[str, str],
    body: Json,
    field: str,
    rule: str,
) -> None:
    answer = await gateway.client.post(ECHO, json={**TEXT, **body}, headers=headers)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["rule"]) == (field, rule)
    assert (await gateway_broker.depth()).tickets == 0
