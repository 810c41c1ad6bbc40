"""Reading what this gateway has accepted a moment ago: fewer reads, and the same promises."""

import asyncio
from pathlib import Path

import httpx
import pytest
from nats.aio.msg import Msg

from broker import Broker
from contract.ids import PredictionId, parse_prediction_id
from contract.prediction import Outcome, Prediction, Status
from contract.queue import QueueNames
from gateway.settings import GatewaySettings
from ledger import Ledger
from tests.gateways import (
    BOB,
    ECHO,
    NOBODY_LISTENS,
    TEXT,
    PlayedDispatcher,
    RunningGateway,
    connect,
    declared,
    serving,
    until_waiting,
)
from tests.outages import Restartable
from tests.tickets import until


@pytest.fixture
def without_ledger(settings: GatewaySettings) -> GatewaySettings:
    return GatewaySettings(**{**settings.model_dump(), "postgres_dsn": NOBODY_LISTENS})


@pytest.fixture
async def questions(gateway_broker: Broker, settings: GatewaySettings) -> list[str]:
    """What anybody asks of this queue, as it is asked: the words behind $JS.API."""
    asked: list[str] = []
    stream = QueueNames(settings.namespace).stream

    async def note(message: Msg) -> None:
        if stream in message.subject:
            asked.append(message.subject.removeprefix("$JS.API.").partition(f".{stream}")[0])

    await gateway_broker._connection.stand("$JS.API.>", note)
    await gateway_broker.flush()
    return asked


async def submitted(gateway: RunningGateway) -> tuple[str, PredictionId]:
    """The path and the id of a new prediction."""
    answer = await gateway.client.post(ECHO, json=TEXT)
    assert answer.status_code == 202, answer.text
    return f"/v1/predictions/{answer.json()['id']}", parse_prediction_id(answer.json()["id"])


async def canceled_in_silence(broker: Broker, ledger: Ledger, prediction_id: PredictionId) -> None:
    """What another gateway does to cancel it, but for the announcement."""
    queued = await broker.find(prediction_id)
    assert queued is not None
    outcome = Outcome(prediction_id, Status.CANCELED, 1, 1, 0)
    assert await ledger.record([Prediction(queued.ticket.without_contents(), outcome)])
    await broker.withdraw(prediction_id)


async def status(gateway: RunningGateway, path: str) -> str:
    answer = await gateway.client.get(path)
    return str(answer.json().get("status"))


async def test_who_waits_right_after_submitting_is_answered_without_any_read(
    without_ledger: GatewaySettings, running: PlayedDispatcher, questions: list[str]
) -> None:
    running.may_record.clear()
    async with serving(without_ledger) as gateway:
        await declared(gateway)
        path, _ = await submitted(gateway)
        held = asyncio.create_task(gateway.client.get(f"{path}?wait=20"))
        await until_waiting(gateway, 1)
        running.may_record.set()
        answer = await held
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
        assert await status(gateway, path) == "succeeded"  # what was told is told again
    assert not {"DIRECT.GET", "STREAM.MSG.GET", "CONSUMER.INFO"} & set(questions)


async def test_a_get_right_after_submitting_reads_no_ticket_and_says_where_it_stands(
    gateway: RunningGateway, questions: list[str]
) -> None:
    first, _ = await submitted(gateway)
    second, _ = await submitted(gateway)
    answers = [(await gateway.client.get(path)).json() for path in (first, second)]
    assert [each["queue"] for each in answers] == [
        {"state": "waiting", "position": 1},
        {"state": "waiting", "position": 2},
    ]

    async def were_asked() -> bool:
        return questions.count("CONSUMER.INFO") >= 2

    await until(were_asked)
    assert "DIRECT.GET" not in questions


async def test_a_wait_that_expires_says_where_it_stands(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    path, _ = await submitted(gateway)

    async def runs() -> bool:
        return await status(gateway, path) == "processing"

    await until(runs)
    answer = (await gateway.client.get(f"{path}?wait=0.1")).json()
    assert (answer["status"], answer["queue"]) == ("starting", {"state": "running"})


async def test_what_another_gateway_has_canceled_is_canceled_here(
    gateway: RunningGateway, settings: GatewaySettings
) -> None:
    async with serving(settings) as another:
        path, _ = await submitted(gateway)
        held = asyncio.create_task(gateway.client.get(f"{path}?wait=20"))
        await until_waiting(gateway, 1)
        assert (await another.client.post(f"{path}/cancel")).json()["status"] == "canceled"
        assert (await held).json()["status"] == "canceled"
        assert await status(gateway, path) == "canceled"


async def test_what_has_ended_in_silence_is_found_by_a_get_and_by_the_recheck_of_who_waits(
    gateway: RunningGateway,
    gateway_broker: Broker,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.follow.RECHECK_S", 0.1)
    monkeypatch.setattr("gateway.follow.TICK_S", 0.05)
    for query in ("", "?wait=50"):
        path, prediction_id = await submitted(gateway)
        await canceled_in_silence(gateway_broker, ledger, prediction_id)
        async with asyncio.timeout(15):
            assert await status(gateway, path + query) == "canceled"


async def test_what_has_ended_in_silence_is_not_called_waiting_while_postgres_is_away(
    without_ledger: GatewaySettings, gateway_broker: Broker, ledger: Ledger
) -> None:
    """Its ticket has left the queue, and whoever canceled it was told so."""
    async with serving(without_ledger) as gateway:
        await declared(gateway)
        path, prediction_id = await submitted(gateway)
        assert await status(gateway, path) == "starting"  # it cannot have ended: it is queued
        await canceled_in_silence(gateway_broker, ledger, prediction_id)
        for query in ("", "?wait=0.1"):
            answer = await gateway.client.get(path + query)
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")


async def test_what_runs_is_not_called_running_while_postgres_is_away_and_nothing_is_heard(
    without_ledger: GatewaySettings, running: PlayedDispatcher
) -> None:
    running.may_ack.clear()
    running.announces = False
    async with serving(without_ledger) as gateway:
        await declared(gateway)
        path, _ = await submitted(gateway)
        async with asyncio.timeout(10):
            await running.recorded.wait()
        for query in ("", "?wait=0.1"):
            answer = await gateway.client.get(path + query)
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")


async def test_somebody_elses_is_unknown_although_it_is_remembered(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    path, _ = await submitted(gateway)

    async def of_bob() -> list[int]:
        return [
            (await gateway.client.get(path + query, headers=BOB)).status_code
            for query in ("", "?wait=5")
        ]

    assert await of_bob() == [404, 404]
    running.may_record.set()
    assert await status(gateway, f"{path}?wait=20") == "succeeded"
    assert await of_bob() == [404, 404]


async def test_a_queue_that_was_emptied_is_believed_after_a_minute(
    gateway: RunningGateway, gateway_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.recent.KEPT_S", 0.0)
    path, prediction_id = await submitted(gateway)
    await gateway_broker.withdraw(prediction_id)  # and nothing is recorded, as in a restore
    assert (await gateway.client.get(path)).status_code == 404


async def test_who_waits_after_a_lost_connection_is_answered_from_the_ledger(
    tmp_path: Path,
    settings: GatewaySettings,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was announced meanwhile was missed, and no re-check comes."""
    monkeypatch.setattr("gateway.follow.RECHECK_S", 1000.0)
    nats = Restartable(tmp_path)
    await nats.start()
    own = {**settings.model_dump(), "nats_url": nats.server.url, "nats_token": "token"}
    async with serving(GatewaySettings(**own)) as gateway:
        await declared(gateway)
        path, prediction_id = await submitted(gateway)
        broker = await connect(gateway.settings)
        queued = await broker.find(prediction_id)
        assert queued is not None
        await broker.close()
        await nats.kill()
        outcome = Outcome(prediction_id, Status.SUCCEEDED, 1, 2, 1, b'"out"')
        assert await ledger.record([Prediction(queued.ticket, outcome)])
        assert await status(gateway, f"{path}?wait=20") == "succeeded"  # also while NATS is away
        await nats.start()

        async def is_ready() -> bool:
            return (await gateway.client.post(ECHO, json=TEXT)).status_code == 202

        await until(is_ready)
        async with asyncio.timeout(30):  # the end of the wait would show it too
            assert await status(gateway, f"{path}?wait=55") == "succeeded"
    await nats.stop()


@pytest.mark.parametrize("query", ["", "?wait=20"])
async def test_one_that_is_found_past_its_deadline_has_failed_and_its_file_is_kept(
    gateway: RunningGateway, query: str
) -> None:
    headers = {"content-type": "application/octet-stream", "Cancel-After": "1s"}
    answer = await gateway.client.post(ECHO, content=b"kept", headers=headers)
    path = f"/v1/predictions/{answer.json()['id']}"

    async def has_ended() -> bool:
        return await status(gateway, path + query) != "starting"

    await until(has_ended)
    ended = (await gateway.client.get(path)).json()
    assert (ended["status"], ended["error_code"]) == ("failed", "deadline_exceeded")
    file: httpx.Response = await gateway.client.get(ended["input"]["INPUT0"])
    assert file.content == b"kept"
