"""Both clients against a real HTTP server that speaks the dialect."""

import asyncio
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.played_gateway import Gateway, problem
from tritonq import (
    AcceptanceUnknown,
    AsyncClient,
    Client,
    Expired,
    InvalidInput,
    KeyReused,
    NotFound,
    NotRetryable,
    PredictionFailed,
    ServiceUnavailable,
    Unauthorized,
)

JPEG = b"\xff\xd8\xff and so on"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url, "secret", patience_s=1.0) as client:
        yield client


def test_a_file_travels_as_the_raw_body_and_its_fields_beside_it(
    gateway: Gateway, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(JPEG)

    for given in (path, str(path), JPEG, io.BytesIO(JPEG)):
        client.submit("echo", given, fields={"top_k": 3, "softmax": True, "lang": "en"})

    assert gateway.submits == [JPEG] * 4
    queries = [request.query for request in gateway.requests]
    assert queries == [{"top_k": "3", "softmax": "true", "lang": "en"}] * 4
    assert {request.headers["content-type"] for request in gateway.requests} == {"image/jpeg"}


def test_a_mapping_travels_as_json_with_files_as_data_uris(
    gateway: Gateway, client: Client
) -> None:
    client.submit("echo", {"image": JPEG, "text": "cat.jpg"}, fields={"top_k": 3})

    (content,) = gateway.submits
    given = json.loads(content)["input"]
    assert given.pop("image").startswith("data:image/jpeg;base64,")
    assert given == {"text": "cat.jpg", "top_k": 3}


def test_the_token_is_a_bearer_and_is_not_shown(gateway: Gateway, client: Client) -> None:
    client.models()

    assert gateway.requests[0].headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(client) + repr(vars(client))


def test_run_waits_for_the_end(gateway: Gateway, client: Client) -> None:
    gateway.may_end.clear()
    threading.Timer(0.1, gateway.may_end.set).start()

    assert client.run("echo", JPEG).output == {"bytes": len(JPEG)}


def test_a_failed_prediction_is_an_error_of_run_and_a_value_of_get(
    gateway: Gateway, client: Client
) -> None:
    gateway.outcome_of = lambda _: {"status": "failed", "error": "no image", "error_code": "x"}

    with pytest.raises(PredictionFailed, match="no image") as caught:
        client.run("echo", JPEG)

    fetched = client.get(caught.value.prediction.id)
    assert (fetched.status, fetched.error, fetched.error_code) == ("failed", "no image", "x")


def test_map_keeps_the_order_and_goes_on_after_a_failure(gateway: Gateway, client: Client) -> None:
    def outcome_of(content: bytes) -> dict[str, object]:
        if content == b"5":
            return {"status": "failed", "error": "five"}
        return {"status": "succeeded", "output": content.decode()}

    gateway.outcome_of = outcome_of
    inputs = [str(number).encode() for number in range(40)]

    items = list(client.map("echo", inputs, concurrency=4))

    assert [item.given for item in items] == inputs
    assert isinstance(items[5].error, PredictionFailed)
    with pytest.raises(PredictionFailed):
        _ = items[5].output
    assert [item.output for item in items if item.error is None] == [
        str(number) for number in range(40) if number != 5
    ]
    assert len(gateway.submits) == 40


def test_map_can_be_left_while_predictions_are_still_running(
    gateway: Gateway, client: Client
) -> None:
    gateway.may_end.set()
    items = client.map("echo", (b"x" for _ in range(1000)), concurrency=2)
    next(items)
    gateway.may_end.clear()

    items.close()

    assert len(gateway.submits) < 1000


def test_predictions_come_from_all_pages_and_no_other_host(
    gateway: Gateway, client: Client
) -> None:
    for number in range(5):
        client.submit("echo", str(number).encode())

    assert [one.id for one in client.predictions()] == ["p4", "p3", "p2", "p1", "p0"]


def test_models_are_listed(client: Client) -> None:
    assert [model.full_name for model in client.models()] == ["triton/echo"]


def test_refusals_are_errors_with_field_and_rule(gateway: Gateway, client: Client) -> None:
    field = {"field": "input.image", "rule": "decodable_image", "message": "no"}
    gateway.answers += [
        problem(422, "invalid_input", errors=[field]),
        problem(401, "unauthorized"),
    ]

    with pytest.raises(InvalidInput, match=r"input\.image"):
        client.submit("echo", JPEG)
    with pytest.raises(Unauthorized):
        client.submit("echo", JPEG)
    with pytest.raises(NotFound):
        client.get("p99")


def test_a_file_that_cannot_be_read_is_refused_before_anything_is_sent(
    gateway: Gateway, client: Client, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        client.submit("echo", tmp_path / "missing.jpg")
    with pytest.raises(InvalidInput, match="binary"):
        client.submit("echo", io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not JSON"):
        client.submit("echo", {"x": float("nan")})

    assert gateway.requests == []


def test_a_closed_port_is_service_unavailable_after_some_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with (
        Client(f"http://127.0.0.1:{port}", patience_s=0.2) as client,
        pytest.raises(ServiceUnavailable, match="does not answer"),
    ):
        client.submit("echo", JPEG)


def test_a_submit_whose_connection_breaks_is_not_sent_again() -> None:
    """The server reads the request and hangs up: nobody knows whether it was accepted."""
    connections = 0

    def serve(listener: socket.socket) -> None:
        nonlocal connections
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections += 1
            connection.recv(65536)
            connection.close()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(url, patience_s=5.0) as client, pytest.raises(AcceptanceUnknown):
        client.submit("echo", JPEG)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()

    assert connections == 1


def test_a_proxy_of_the_environment_is_not_used_for_loopback(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    with Client(gateway.url, patience_s=0.0) as client:
        assert client.models()


async def test_the_asynchronous_client_does_the_same(gateway: Gateway) -> None:
    async with AsyncClient(gateway.url, patience_s=1.0) as client:
        prediction = await client.run("echo", JPEG)
        assert prediction.output == {"bytes": len(JPEG)}
        assert (await client.get(prediction.id)).has_succeeded
        items = [item.output async for item in client.map("echo", [b"1", b"22"], concurrency=2)]
        assert items == [{"bytes": 1}, {"bytes": 2}]
        assert [one.id async for one in client.predictions()] == ["p2", "p1", "p0"]
        assert [model.name for model in await client.models()] == ["echo"]


async def test_cancelling_an_asynchronous_wait_leaves_the_client_usable(gateway: Gateway) -> None:
    gateway.may_end.clear()
    async with AsyncClient(gateway.url, patience_s=1.0) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.run("echo", JPEG)
        gateway.may_end.set()
        assert (await client.get("p0", wait_s=5.0)).has_succeeded


def test_a_key_stands_for_one_prediction_from_however_many_threads(
    gateway: Gateway, client: Client
) -> None:
    with ThreadPoolExecutor(50) as threads:
        submits = [
            threads.submit(client.submit, "echo", JPEG, idempotency_key="k") for _ in range(50)
        ]
        assert {submit.result().id for submit in submits} == {"p0"}
    with pytest.raises(KeyReused):
        client.submit("echo", b"other", idempotency_key="k")


def test_cancel_and_retry(gateway: Gateway, client: Client) -> None:
    gateway.may_end.clear()
    waiting = client.submit("echo", JPEG)
    assert client.cancel(waiting.id).status == "canceled"
    assert client.cancel(waiting.id).status == "canceled"
    with pytest.raises(NotRetryable):
        client.retry(waiting.id)
    with pytest.raises(NotFound):
        client.cancel("p99")

    gateway.predictions[waiting.id]["outcome"] = {"status": "failed", "error": "no"}
    first, second = client.retry(waiting.id), client.retry(waiting.id)
    assert first.retry_of == second.retry_of == waiting.id
    assert first.id != second.id, "each call is a retry of its own"
    again = [client.retry(waiting.id, idempotency_key="once").id for _ in range(2)]
    assert again[0] == again[1]


def test_what_the_retention_removed_is_told_apart_from_the_unknown(
    gateway: Gateway, client: Client
) -> None:
    gateway.answers.append(problem(410, "expired"))

    with pytest.raises(Expired):
        client.get("p1")


def test_a_map_that_is_killed_and_run_again_under_keys_of_its_own_submits_nothing_twice(
    gateway: Gateway, client: Client
) -> None:
    inputs = [str(number).encode() for number in range(20)]

    items = client.map("echo", inputs, concurrency=2, key_of=bytes.decode)
    next(items)
    items.close()
    assert 0 < gateway.accepted < 20
    ids = {item.prediction.id for item in client.map("echo", inputs, key_of=bytes.decode)}  # type: ignore[union-attr]

    assert gateway.accepted == len(ids) == 20


def test_an_item_whose_wait_broke_still_has_its_prediction(
    gateway: Gateway, client: Client
) -> None:
    gateway.has_accepted = lambda _: gateway.answers.append(problem(401, "unauthorized"))

    (item,) = client.map("echo", [JPEG])

    assert isinstance(item.error, Unauthorized)
    assert item.error.prediction_id == "p0"
    assert item.prediction is not None
    assert item.prediction.id == "p0"


async def test_the_asynchronous_client_cancels_and_retries_too(gateway: Gateway) -> None:
    gateway.may_end.clear()
    async with AsyncClient(gateway.url, patience_s=1.0) as client:
        waiting = await client.submit("echo", JPEG, idempotency_key="k", cancel_after="90s")
        assert waiting.deadline is not None
        assert (await client.cancel(waiting.id)).status == "canceled"
        gateway.predictions[waiting.id]["outcome"] = {"status": "failed", "error": "no"}
        assert (await client.retry(waiting.id)).retry_of == waiting.id
