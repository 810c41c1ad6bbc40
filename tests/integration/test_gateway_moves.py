"""Cancel and retry through a real server, at every place where a prediction may be."""

import asyncio
import hashlib
import time
from typing import Any

import asyncpg
import httpx
import pytest

from blobs import Blobs
from broker import Broker
from contract.errors import QueueUnavailable
from contract.ids import new_prediction_id, parse_prediction_id
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import Failure, Outcome, Prediction, Status, Ticket
from gateway.follow import Seen
from gateway.rest.answers import Answers
from gateway.settings import GatewaySettings
from ledger import Ledger
from tests.gateways import (
    ALICE,
    BOB,
    ECHO,
    NOBODY_LISTENS,
    TEXT,
    PlayedDispatcher,
    RunningGateway,
    declared,
    make_settings,
    serving,
    until_waiting,
)
from tests.services import NatsAddress
from tests.tickets import until

FAILING = {"input": {"INPUT0": "fail"}}
OCTETS = {"content-type": "application/octet-stream"}
WAIT = {"Prefer": "wait=20"}

Json = dict[str, Any]


async def submitted(gateway: RunningGateway, body: Json = TEXT, **headers: str) -> str:
    """The URL of a new prediction."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await gateway.client.post(ECHO, json=body, headers=named)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


async def moved(gateway: RunningGateway, url: str, move: str, **given: Any) -> Json:
    answer = await gateway.client.post(f"{url}/{move}", **given)
    assert answer.status_code in (200, 201, 202), answer.text
    body: Json = answer.json()
    return body


async def read(gateway: RunningGateway, url: str) -> Json:
    answer = await gateway.client.get(url)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def until_processing(gateway: RunningGateway, url: str) -> None:
    async def is_so() -> bool:
        return bool((await read(gateway, url))["status"] == "processing")

    await until(is_so)


async def queued(broker: Broker, url: str) -> bool:
    return await broker.find(parse_prediction_id(url.rpartition("/")[2])) is not None


async def test_a_waiting_prediction_is_canceled_and_leaves_the_queue(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    kept, url = await submitted(gateway), await submitted(gateway)
    assert (await read(gateway, url))["urls"]["cancel"] == f"{url}/cancel"
    canceled = await moved(gateway, url, "cancel")
    assert (canceled["status"], canceled["output"], canceled["error"]) == ("canceled", None, None)
    assert canceled["metrics"]["attempts"] == 0
    assert canceled["completed_at"]
    assert canceled["started_at"] is None, "it was never run"
    assert canceled["urls"] == {"get": url}
    assert await read(gateway, url) == canceled
    assert not await queued(gateway_broker, url)
    assert await queued(gateway_broker, kept)
    page = (await gateway.client.get("/v1/predictions")).json()
    assert [each["status"] for each in page["results"]] == ["canceled", "starting"]


async def test_a_running_prediction_is_canceled_and_its_late_outcome_changes_nothing(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    url = await submitted(gateway)
    await until_processing(gateway, url)
    canceled = await moved(gateway, url, "cancel")
    running.may_record.set()
    async with asyncio.timeout(10):
        await running.recorded.wait()
    assert canceled["status"] == "canceled"
    assert await read(gateway, url) == canceled


async def test_cancel_of_one_that_has_ended_answers_with_its_outcome(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    ended = (await gateway.client.post(ECHO, json=TEXT, headers=WAIT)).json()
    assert await moved(gateway, ended["urls"]["get"], "cancel") == ended
    running.may_ack.clear()  # recorded, and its ticket still there
    ended = (await gateway.client.post(ECHO, json=TEXT, headers=WAIT)).json()
    assert await moved(gateway, ended["urls"]["get"], "cancel") == ended


async def test_cancels_and_the_end_at_the_same_time_give_everybody_one_outcome(
    gateway: RunningGateway, settings: GatewaySettings, running: PlayedDispatcher
) -> None:
    async with serving(settings) as other:
        for _ in range(20):
            running.may_record.clear()
            url = await submitted(gateway)
            path = url.removeprefix(gateway.url)
            running.may_record.set()
            answers = await asyncio.gather(
                gateway.client.post(f"{path}/cancel"),
                other.client.post(f"{path}/cancel"),
                gateway.client.post(f"{path}/cancel"),
                other.client.get(f"{path}?wait=20"),
            )
            statuses = {answer.json()["status"] for answer in answers}
            assert len(statuses) == 1
            assert statuses <= {"canceled", "succeeded"}
            assert (await read(gateway, url))["status"] in statuses


async def test_whoever_waits_hears_of_the_cancel_at_any_gateway(
    gateway: RunningGateway, settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.follow.RECHECK_S", 600.0)  # only the announcement can tell
    async with serving(settings) as other:
        url = await submitted(gateway)
        path = url.removeprefix(gateway.url)
        waiting = asyncio.create_task(other.client.get(f"{path}?wait=50"))
        await until_waiting(other, 1)
        await moved(gateway, url, "cancel")
        async with asyncio.timeout(15):
            assert (await waiting).json()["status"] == "canceled"


async def test_only_the_owner_can_cancel_or_retry_and_an_unknown_one_nobody(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    failed = (await gateway.client.post(ECHO, json=FAILING, headers=WAIT)).json()["urls"]["get"]
    running.may_record.clear()
    waiting = await submitted(gateway)
    unknown = f"{gateway.url}/v1/predictions/{'0' * 26}"
    nonsense = f"{gateway.url}/v1/predictions/nonsense"
    async with httpx.AsyncClient(headers=BOB) as bob:
        for url in (failed, waiting, unknown, nonsense):
            for move in ("cancel", "retry"):
                answer = await bob.post(f"{url}/{move}")
                assert (answer.status_code, answer.json()["code"]) == (404, "unknown_prediction")
    assert (await read(gateway, waiting))["status"] in ("starting", "processing")


async def test_nothing_is_canceled_while_the_ledger_is_away(
    settings: GatewaySettings,
) -> None:
    given = GatewaySettings(**{**settings.model_dump(), "postgres_dsn": NOBODY_LISTENS})
    async with serving(given) as gateway:
        await declared(gateway)
        url = await submitted(gateway)
        answer = await gateway.client.post(f"{url}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        assert answer.headers["retry-after"].isdigit()
        assert (await read(gateway, url))["status"] == "starting"


async def test_a_prediction_is_canceled_although_its_ticket_cannot_be_taken_back(
    gateway: RunningGateway, running: PlayedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the gateway dies right after the insert: the dispatcher runs it in vain."""
    running.may_record.clear()
    url = await submitted(gateway)

    async def fails(*_: object) -> None:
        raise QueueUnavailable("NATS is away")

    monkeypatch.setattr("broker.withdrawals.Withdrawals.withdraw", fails)
    assert (await moved(gateway, url, "cancel"))["status"] == "canceled"
    running.may_record.set()

    async def has_left() -> bool:
        return not await queued(running.broker, url)

    await until(has_left)
    assert (await read(gateway, url))["status"] == "canceled"


async def test_a_failed_prediction_is_retried_as_a_new_one_that_names_it(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    headers = {"X-Priority": "high", "Cancel-After": "1h", **WAIT}
    failed = (await gateway.client.post(ECHO, json=FAILING, headers=headers)).json()
    assert failed["status"] == "failed"
    url = failed["urls"]["get"]
    running.may_record.clear()
    retried = await gateway.client.post(f"{url}/retry")
    assert retried.status_code == 202
    again = retried.json()
    assert again["id"] != failed["id"]
    assert again["retry_of"] == failed["id"]
    assert (again["input"], again["priority"]) == (failed["input"], "high")
    assert "deadline" not in again, "the old one's is over"
    running.may_record.set()
    ended = (await gateway.client.get(f"{retried.headers['location']}?wait=20")).json()
    assert (ended["status"], ended["retry_of"]) == ("failed", failed["id"])
    assert await read(gateway, url) == failed
    with_deadline = await moved(gateway, url, "retry", headers={"Cancel-After": "1h", **WAIT})
    assert with_deadline["status"] == "failed"
    assert with_deadline["deadline"] > with_deadline["created_at"]


@pytest.mark.parametrize("size", [1000, INLINE_BYTES_MAX + 1])
async def test_a_retry_has_the_files_of_the_first(
    gateway: RunningGateway,
    gateway_broker: Broker,
    settings: GatewaySettings,
    ledger: Ledger,
    size: int,
) -> None:
    content = b"x" * size
    answer = await gateway.client.post(ECHO, content=content, headers=OCTETS)
    prediction_id = parse_prediction_id(answer.json()["id"])
    await fail(gateway_broker, ledger, answer.json()["id"], "inference_failed")
    blobs = Blobs.open(settings.blobs_url)
    await blobs.put(prediction_id, content, hashlib.sha256(content).hexdigest())
    again = await moved(gateway, answer.headers["location"], "retry")
    assert (await gateway.client.get(again["input"]["INPUT0"])).content == content


async def test_files_to_retry_count_among_the_bodies_that_are_held(
    gateway: RunningGateway, gateway_broker: Broker, settings: GatewaySettings, ledger: Ledger
) -> None:
    content = b"x" * 1500
    answer = await gateway.client.post(ECHO, content=content, headers=OCTETS)
    prediction_id = parse_prediction_id(answer.json()["id"])
    await fail(gateway_broker, ledger, prediction_id, "inference_failed")
    blobs = Blobs.open(settings.blobs_url)
    await blobs.put(prediction_id, content, hashlib.sha256(content).hexdigest())
    retry = f"/v1/predictions/{prediction_id}/retry"

    update = {"body_bytes_max": 2000, "bodies_bytes_max": 3000}
    async with serving(settings.model_copy(update=update)) as small:
        assert (await small.client.post(retry)).status_code == 202
        upload = await begun_upload(small, 2000)
        async with asyncio.timeout(10):
            while (answer := await small.client.post(retry)).status_code != 429:
                assert answer.status_code == 202, answer.text
        upload.close()
        async with asyncio.timeout(10):
            while (await small.client.post(retry)).status_code != 202:
                await asyncio.sleep(0.01)


async def begun_upload(gateway: RunningGateway, size: int) -> asyncio.StreamWriter:
    """A submit of which no more than the first byte comes."""
    url = httpx.URL(gateway.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    headers = {"host": "localhost", **ALICE, **OCTETS, "content-length": str(size)}
    lines = [f"POST {ECHO} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", "x"]).encode())
    await writer.drain()
    return writer


async def test_no_file_is_kept_in_memory_while_a_caller_waits(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_with: list[Ticket] = []
    held = Answers.held

    async def noted(answers: Answers, seen: Seen, *given: Any) -> Seen:
        waited_with.append(seen.ticket)
        return await held(answers, seen, *given)

    monkeypatch.setattr(Answers, "held", noted)
    headers = {"Idempotency-Key": "a file", "Prefer": "wait=0.01", **OCTETS}
    for status in (202, 202):  # the first one, and its repetition
        answer = await gateway.client.post(ECHO, content=b"content", headers=headers)
        assert answer.status_code == status
    url = answer.headers["location"]
    assert (await gateway.client.get(f"{url}?wait=0.01")).status_code == 200
    contents = [file.content for ticket in waited_with for file in ticket.files.values()]
    assert contents == [None, None, None]


async def test_what_an_overdue_prediction_asked_for_can_be_retried(
    gateway: RunningGateway,
) -> None:
    headers = {"Cancel-After": "1s", "Prefer": "wait=50", **OCTETS}
    overdue = await gateway.client.post(ECHO, content=b"content", headers=headers)
    assert overdue.json()["error_code"] == "deadline_exceeded"
    again = await moved(gateway, overdue.headers["location"], "retry")
    assert (await gateway.client.get(again["input"]["INPUT0"])).content == b"content"


async def test_an_input_that_is_not_to_be_kept_is_not_kept_by_a_gateway_either(
    settings: GatewaySettings,
) -> None:
    async with serving(settings.model_copy(update={"keep_inputs": "none"})) as gateway:
        await declared(gateway)
        headers = {"Cancel-After": "1s", "Prefer": "wait=50", **OCTETS}
        overdue = await gateway.client.post(ECHO, content=b"content", headers=headers)
        assert (await gateway.client.get(overdue.json()["input"]["INPUT0"])).status_code == 404
        assert_not_retryable(await gateway.client.post(overdue.headers["location"] + "/retry"))


async def test_only_what_has_failed_is_retried(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    succeeded = (await gateway.client.post(ECHO, json=TEXT, headers=WAIT)).json()["urls"]["get"]
    assert_not_retryable(await gateway.client.post(f"{succeeded}/retry"))
    running.may_record.clear()
    url = await submitted(gateway)
    assert_not_retryable(await gateway.client.post(f"{url}/retry"))
    await moved(gateway, url, "cancel")
    assert_not_retryable(await gateway.client.post(f"{url}/retry"))


@pytest.mark.parametrize("code", ["input_missing", "unreadable_ticket", "unrecordable"])
async def test_what_failed_without_its_input_is_not_retried(
    gateway: RunningGateway, gateway_broker: Broker, ledger: Ledger, code: str
) -> None:
    url = await submitted(gateway)
    await fail(gateway_broker, ledger, url.rpartition("/")[2], code)
    assert_not_retryable(await gateway.client.post(f"{url}/retry"))


async def test_a_retry_of_a_model_that_is_gone_is_refused(
    gateway: RunningGateway,
    gateway_broker: Broker,
    ledger: Ledger,
    settings: GatewaySettings,
) -> None:
    url = await submitted(gateway)
    await fail(gateway_broker, ledger, url.rpartition("/")[2], "inference_failed")
    fewer = settings.model_copy(update={"models": ("efficientnet_lite0",)})
    async with serving(fewer) as other:
        answer = await other.client.post(url.removeprefix(gateway.url) + "/retry")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")


async def test_a_retry_takes_no_body_and_a_cancel_minds_none(
    gateway: RunningGateway, gateway_broker: Broker, ledger: Ledger
) -> None:
    url = await submitted(gateway)
    await fail(gateway_broker, ledger, url.rpartition("/")[2], "inference_failed")
    for body in ({"priority": "low"}, [1], "text"):
        answer = await gateway.client.post(f"{url}/retry", json=body)
        assert answer.status_code == 422, body
    assert (await gateway.client.post(f"{url}/retry", json={})).status_code == 202
    assert (await gateway.client.post(f"{url}/cancel", json={"any": "thing"})).status_code == 200


async def test_what_the_retention_removed_is_gone_and_not_unknown(
    gateway: RunningGateway, ledger_dsn: str
) -> None:
    connection = await asyncpg.connect(ledger_dsn)
    await connection.execute("INSERT INTO horizon (accepted_before) VALUES ('2026-01-01')")
    await connection.close()
    old = new_prediction_id(1_750_000_000_000, bytes(10))  # in 2025
    not_ours = "0" * 26
    for move in ("", "/cancel", "/retry"):
        for prediction_id, status, code in (
            (old, 410, "expired"),
            (not_ours, 404, "unknown_prediction"),
        ):
            url = f"/v1/predictions/{prediction_id}{move}"
            answer = await gateway.client.request("POST" if move else "GET", url)
            assert (answer.status_code, answer.json()["code"]) == (status, code), url


async def test_moves_of_what_has_ended_work_while_nats_is_down(
    tmp_path: Any, nats_server: NatsAddress, ledger_dsn: str, namespace: str
) -> None:
    settings = make_settings(tmp_path, nats_server, ledger_dsn, namespace)
    async with serving(settings) as gateway:
        await declared(gateway)
        url = await submitted(gateway)
        await moved(gateway, url, "cancel")
        waiting = await submitted(gateway)
    nowhere = settings.model_copy(update={"nats_url": "nats://127.0.0.1:1"})
    async with serving(nowhere) as cut_off:
        path = "/v1" + url.rpartition("/v1")[2]
        assert (await cut_off.client.post(f"{path}/cancel")).json()["status"] == "canceled"
        unknown = await cut_off.client.post("/v1" + waiting.rpartition("/v1")[2] + "/cancel")
        assert unknown.status_code == 503  # whether it is there, nobody can tell
        assert unknown.headers["retry-after"].isdigit()


async def fail(broker: Broker, ledger: Ledger, prediction_id: str, code: str) -> None:
    """End a waiting prediction as a dispatcher would that keeps no files."""
    found = await broker.find(parse_prediction_id(prediction_id))
    assert found is not None
    now = time.time_ns() // 1_000_000
    failure = Failure(code, "it failed")
    outcome = Outcome(found.ticket.id, Status.FAILED, now, now, attempts=1, error=failure)
    await ledger.record([Prediction(found.ticket, outcome)])
    await broker.withdraw(found.ticket.id)


def assert_not_retryable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (409, "not_retryable"), answer.text
    assert answer.headers["x-should-retry"] == "false"
