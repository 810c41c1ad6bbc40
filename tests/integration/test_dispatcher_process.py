"""`python -m dispatcher` as an operator meets it: settings, order of starting, health, metrics."""

import asyncio
import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from contract.prediction import Status
from ledger import Ledger
from standalone import server
from standalone.postgres import Postgres
from standalone.triton import Triton
from tests import services
from tests.dispatching import House, dispatcher_process, text_ticket

pytestmark = pytest.mark.triton


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


async def test_it_serves_its_health_and_its_metrics(house: House) -> None:
    (port,) = services.free_ports(1)
    async with dispatcher_process(house, metrics_port=port) as process:
        await house.outcomes(await house.accept([text_ticket(), text_ticket()]))
        await house.emptied()
        health = json.loads(await asyncio.to_thread(read, f"http://127.0.0.1:{port}/healthz"))
        metrics = await asyncio.to_thread(read, f"http://127.0.0.1:{port}/metrics")
        process.terminate()
        assert await process.wait() == 0
    models = dict.fromkeys(house.models, "")
    assert health == {"dispatcher": "p1", "models": models, "queue": ""}
    assert 'tritonq_predictions_ended_total{model="identity",status="succeeded"} 2.0' in metrics
    assert 'tritonq_model_available{model="identity"} 1.0' in metrics


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("attempts_max", "0", "DISPATCHER_ATTEMPTS_MAX"),
        ("postgres_dsn", "", "postgresql"),
        ("postgres_dsn", "mysql://u:hunter2@h/d", "postgresql"),
        ("blobs_url", "ftp://somewhere", "blob URL"),
        ("models", "no_such_model", "no_such_model"),
        ("model_repository", "/nowhere", "/nowhere"),
    ],
)
async def test_a_wrong_setting_ends_it_at_once_with_the_reason(
    house: House, setting: str, value: str, named: str
) -> None:
    async with dispatcher_process(house, wait_until_well=False, **{setting: value}) as process:
        assert await process.wait() == 2
        log = await process.log()
    assert named in log
    assert "Traceback" not in log
    assert "hunter2" not in log


async def test_a_metrics_port_that_is_taken_ends_it_with_the_reason(
    house: House, triton_server: Triton
) -> None:
    port = triton_server.http_port
    async with dispatcher_process(house, wait_until_well=False, metrics_port=port) as process:
        assert await process.wait() == 2
        assert str(port) in await process.log()


async def test_it_may_be_started_before_everything_it_needs(house: House, tmp_path: Path) -> None:
    triton = services.triton(tmp_path / "triton", models=("identity",))
    (port,) = services.free_ports(1)
    postgres = Postgres(tmp_path / "postgres", port, uuid4().hex, ())
    ledger = await Ledger.connect(postgres.dsn)
    early = replace(house, dsn=postgres.dsn, triton_address=triton.grpc_address, ledger=ledger)
    (ticket_id,) = await house.accept([text_ticket()])
    async with dispatcher_process(early, wait_until_well=False) as process:
        await process.statuses.until(lambda it: bool(it.ledger))
        async with server.running(postgres):
            await process.statuses.until(lambda it: not it.ledger)
            async with server.running(triton):
                (outcome,) = await early.outcomes([ticket_id])
                process.terminate()
                assert await process.wait() == 0
        await ledger.close()
    assert outcome.status is Status.SUCCEEDED


async def test_it_stops_at_once_while_it_waits_to_begin(house: House) -> None:
    nowhere = "postgresql://tritonq@127.0.0.1:1/tritonq"
    waiting = replace(house, dsn=nowhere, triton_address="127.0.0.1:1")
    async with dispatcher_process(waiting, wait_until_well=False) as process:
        await process.statuses.until(lambda it: bool(it.ledger))
        process.terminate()
        assert await process.wait() == 0
