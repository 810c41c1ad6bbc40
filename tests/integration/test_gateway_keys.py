"""The same request many times is one prediction: idempotency keys and PUT, through real servers."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import asyncpg
import httpx
import pytest

from broker import Broker
from broker.publisher import Publisher
from contract.claims import Claim
from contract.errors import AcceptanceUnknown
from contract.ids import PredictionId, from_uuid, new_prediction_id, parse_prediction_id, to_uuid
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import Ticket
from gateway.claims import Key, fingerprint_of
from gateway.settings import GatewaySettings
from ledger import Ledger
from tests.gateways import (
    BOB,
    ECHO,
    NOBODY_LISTENS,
    PlayedDispatcher,
    RunningGateway,
    declared,
    serving,
)
from tests.tickets import fresh_id, until

VERSION = "triton.identity.1"
TEXT: dict[str, Any] = {"input": {"INPUT0": "hello"}}
OTHER: dict[str, Any] = {"input": {"INPUT0": "something else"}}
BODY: dict[str, Any] = {"version": VERSION, **TEXT}
OCTETS = {"content-type": "application/octet-stream"}
DAY_MS = 24 * 3600 * 1000

Send = Callable[[RunningGateway], Coroutine[None, None, httpx.Response]]


@pytest.fixture
async def second(settings: GatewaySettings) -> AsyncIterator[RunningGateway]:
    """Another gateway of the same installation."""
    async with serving(settings) as second:
        yield second


def by_key(key: str = "order-1", **headers: str) -> Send:
    named = {"Idempotency-Key": key, **{n.replace("_", "-"): v for n, v in headers.items()}}
    return lambda gateway: gateway.client.post(ECHO, json=TEXT, headers=named)


def by_id(prediction_id: str, **headers: str) -> Send:
    path = f"/v1/predictions/{prediction_id}"
    return lambda gateway: gateway.client.put(path, json=BODY, headers=headers)


@pytest.fixture(params=["key", "id"])
def send(request: pytest.FixtureRequest) -> Send:
    """Every promise here is one of both ways to say that two requests are one."""
    return by_key() if request.param == "key" else by_id(fresh_id())


def assert_accepted(answer: httpx.Response, *, replayed: bool) -> str:
    assert answer.status_code in (201, 202), answer.text
    assert (answer.headers.get("idempotent-replayed") == "true") is replayed
    assert answer.headers["location"] == answer.json()["urls"]["get"]
    prediction_id: str = answer.json()["id"]
    return prediction_id


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def tickets(broker: Broker) -> int:
    return (await broker.depth()).tickets


async def claimed(broker: Broker, key: str, age_ms: int = 0) -> PredictionId:
    """What a gateway leaves behind that died after the claim of `by_key`, before the ticket."""
    now_ms = time.time_ns() // 1_000_000
    ticket = Ticket(
        new_prediction_id(now_ms - age_ms, os.urandom(10)), "identity", 1, TEXT["input"]
    )
    fingerprint = await fingerprint_of(ticket, None, body_bytes=0)
    await broker.claim(Key.of_owner("alice", key).hash, Claim(ticket.id, fingerprint, "alice"))
    return ticket.id


async def test_the_same_request_again_is_the_same_prediction_at_every_gateway(
    gateway: RunningGateway, second: RunningGateway, gateway_broker: Broker, send: Send
) -> None:
    first = assert_accepted(await send(gateway), replayed=False)
    for each in (gateway, second):
        assert assert_accepted(await send(each), replayed=True) == first
    assert await tickets(gateway_broker) == 1


async def test_the_same_request_is_answered_with_the_outcome_once_there_is_one(
    gateway: RunningGateway, running: PlayedDispatcher, send: Send
) -> None:
    url = (await send(gateway)).headers["location"]
    ended = (await gateway.client.get(f"{url}?wait=20")).json()
    published = (await running.broker.depth()).last_sequence
    again = await send(gateway)
    assert_accepted(again, replayed=True)
    assert (again.status_code, again.json()) == (201, ended)
    assert (await running.broker.depth()).last_sequence == published, "only looked for"


async def test_fifty_copies_at_once_are_one_prediction_with_one_outcome(
    gateway: RunningGateway,
    second: RunningGateway,
    running: PlayedDispatcher,
    ledger: Ledger,
    send: Send,
) -> None:
    copies = [send(second if number % 2 else gateway) for number in range(50)]
    answers = await asyncio.gather(*copies)
    (prediction_id,) = {answer.json()["id"] for answer in answers}
    assert {answer.status_code for answer in answers} <= {201, 202}
    path = f"/v1/predictions/{prediction_id}?wait=20"
    assert (await gateway.client.get(path)).json()["status"] == "succeeded"
    assert len(await ledger.page(before=None, rows_max=10)) == 1

    async def is_empty() -> bool:
        return await tickets(running.broker) == 0

    await until(is_empty)


async def test_fifty_copies_that_wait_all_get_the_outcome(
    gateway: RunningGateway, second: RunningGateway, running: PlayedDispatcher
) -> None:
    for send in (by_key(Prefer="wait=20"), by_id(fresh_id(), Prefer="wait=20")):
        copies = [send(second if number % 2 else gateway) for number in range(50)]
        answers = await asyncio.gather(*copies)
        assert {answer.json()["status"] for answer in answers} == {"succeeded"}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert {answer.status_code for answer in answers} == {201}


async def test_a_wait_for_a_replay_that_expires_says_starting_although_it_runs(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    running.may_record.clear()
    url = (await by_key()(gateway)).headers["location"]

    async def is_processing() -> bool:
        return bool((await gateway.client.get(url)).json()["status"] == "processing")

    await until(is_processing)
    waited = await by_key(Prefer="wait=0.1")(gateway)
    assert (waited.status_code, waited.json()["status"]) == (202, "starting")
    assert (await by_key()(gateway)).json()["status"] == "processing"


async def test_what_a_gateway_left_between_its_two_writes_is_finished_by_the_next_request(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    prediction_id = await claimed(gateway_broker, "order-1")
    assert await gateway_broker.find(prediction_id) is None
    send = by_key()
    assert assert_accepted(await send(gateway), replayed=False) == prediction_id
    assert assert_accepted(await send(gateway), replayed=True) == prediction_id
    assert await tickets(gateway_broker) == 1


async def test_fifty_copies_finish_together_what_a_dead_gateway_left(
    gateway: RunningGateway,
    second: RunningGateway,
    gateway_broker: Broker,
    running: PlayedDispatcher,
) -> None:
    prediction_id = await claimed(gateway_broker, "order-1")
    send = by_key(Prefer="wait=20")
    copies = [send(second if number % 2 else gateway) for number in range(50)]
    answers = await asyncio.gather(*copies)
    assert {answer.json()["id"] for answer in answers} == {prediction_id}
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}


async def test_a_gateway_that_was_slow_between_its_two_writes_adds_nothing_and_tells_the_outcome(
    gateway: RunningGateway,
    running: PlayedDispatcher,
    monkeypatch: pytest.MonkeyPatch,
    send: Send,
) -> None:
    """Meanwhile another finished for it, and the prediction has ended."""
    publish = Publisher.publish
    is_held, may_go = asyncio.Event(), asyncio.Event()

    async def hold_the_first(self: Publisher, ticket: Ticket) -> None:
        if not is_held.is_set():
            is_held.set()
            await may_go.wait()
        await publish(self, ticket)

    monkeypatch.setattr(Publisher, "publish", hold_the_first)
    slow = asyncio.create_task(send(gateway))
    async with asyncio.timeout(10):
        await is_held.wait()
    fast = await send(gateway)
    assert_accepted(fast, replayed=False)
    url = fast.headers["location"]
    ended = (await gateway.client.get(f"{url}?wait=20")).json()
    running.may_record.clear()  # what the slow one publishes is not run meanwhile

    async def has_left() -> bool:
        return await tickets(running.broker) == 0

    await until(has_left)
    may_go.set()
    late = await slow
    assert (late.status_code, late.json()) == (201, ended)
    assert_accepted(late, replayed=True)
    await until(has_left)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (OTHER, {}),
        ({**TEXT, "priority": "high"}, {}),
        (TEXT, {"X-Priority": "low"}),
        (TEXT, {"Cancel-After": "1h"}),
    ],
)
async def test_another_request_with_the_same_key_or_id_is_refused(
    gateway: RunningGateway, gateway_broker: Broker, body: dict[str, Any], headers: dict[str, str]
) -> None:
    prediction_id = fresh_id()
    path = f"/v1/predictions/{prediction_id}"
    await by_key()(gateway)
    await by_id(prediction_id)(gateway)
    put = await gateway.client.put(path, json={"version": VERSION, **body}, headers=headers)
    with_key = {"Idempotency-Key": "order-1"} | headers
    post = await gateway.client.post(ECHO, json=body, headers=with_key)
    for answer, told in ((put, "this id was used"), (post, "this idempotency key was used")):
        assert_refused(answer, 409, "key_reused")
        assert answer.json()["detail"].startswith(told)
        assert answer.headers["x-should-retry"] == "false"
    assert await tickets(gateway_broker) == 2


async def test_another_model_or_file_with_the_same_key_is_refused(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    key = {"Idempotency-Key": "order-1"}
    post = gateway.client.post
    first = await post(ECHO, content=b"a file", headers=OCTETS | key)
    assert_accepted(first, replayed=False)
    assert_refused(await post(ECHO, content=b"another", headers=OCTETS | key), 409, "key_reused")
    assert_refused(
        await post(
            f"{ECHO.replace('identity', 'identity@1')}", content=b"a file", headers=OCTETS | key
        ),
        409,
        "key_reused",
    )
    assert_accepted(await post(ECHO, content=b"a file", headers=OCTETS | key), replayed=True)


async def test_the_order_of_fields_does_not_make_another_request(gateway: RunningGateway) -> None:
    key = {"Idempotency-Key": "order-1"} | {"content-type": "application/json"}
    one = b'{"input": {"INPUT0": "x"}, "priority": "low"}'
    other = b'{"priority": "low",   "input": {"INPUT0": "x"}}'
    assert_accepted(await gateway.client.post(ECHO, content=one, headers=key), replayed=False)
    assert_accepted(await gateway.client.post(ECHO, content=other, headers=key), replayed=True)


async def test_quotes_around_a_key_are_no_part_of_it(gateway: RunningGateway) -> None:
    first = assert_accepted(await by_key("order-1")(gateway), replayed=False)
    assert assert_accepted(await by_key('"order-1"')(gateway), replayed=True) == first


async def test_the_keys_of_two_owners_do_not_meet_and_their_ids_do(
    gateway: RunningGateway,
) -> None:
    prediction_id = fresh_id()
    key = {"Idempotency-Key": "order-1"}
    alices = assert_accepted(await by_key()(gateway), replayed=False)
    assert_accepted(await by_id(prediction_id)(gateway), replayed=False)
    async with httpx.AsyncClient(base_url=gateway.url, headers=BOB) as bob:
        bobs = await bob.post(ECHO, json=TEXT, headers=key)
        assert assert_accepted(bobs, replayed=False) != alices
        taken = await bob.put(f"/v1/predictions/{prediction_id}", json=BODY)
        assert_refused(taken, 409, "key_reused")
        assert (await bob.get(f"/v1/predictions/{prediction_id}")).status_code == 404


async def test_a_put_on_the_id_of_a_plain_submit_is_refused_waiting_or_ended(
    gateway: RunningGateway, dispatcher: PlayedDispatcher, gateway_broker: Broker
) -> None:
    prediction_id = (await gateway.client.post(ECHO, json=TEXT)).json()["id"]
    assert_refused(await by_id(prediction_id)(gateway), 409, "already_accepted")
    async with dispatcher.running():
        await gateway.client.get(f"/v1/predictions/{prediction_id}?wait=20")
        assert_refused(await by_id(prediction_id)(gateway), 409, "already_accepted")
    assert await tickets(gateway_broker) == 0
    key = Key.of_id(parse_prediction_id(prediction_id))
    assert await gateway_broker.find_claim(key.hash) is None, "nothing is left behind"


async def test_a_retry_with_a_key_is_made_once(
    gateway: RunningGateway, running: PlayedDispatcher
) -> None:
    failing = {"input": {"INPUT0": "fail"}}
    failed = await gateway.client.post(ECHO, json=failing, headers={"Prefer": "wait=20"})
    key = {"Idempotency-Key": "again"}
    url = failed.headers["location"] + "/retry"
    first = assert_accepted(await gateway.client.post(url, headers=key), replayed=False)
    assert assert_accepted(await gateway.client.post(url, headers=key), replayed=True) == first
    assert_refused(
        await gateway.client.post(ECHO, json=failing, headers=key), 409, "key_reused"
    )  # it repeats nothing


async def test_a_deadline_counts_from_the_claim_whoever_publishes(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    now_ms = time.time_ns() // 1_000_000
    ticket = Ticket(
        new_prediction_id(now_ms - 60_000, os.urandom(10)), "identity", 1, TEXT["input"]
    )
    ticket = Ticket(
        ticket.id, "identity", 1, TEXT["input"], deadline_ms=ticket.created_at_ms + 7_200_000
    )
    fingerprint = await fingerprint_of(ticket, None, body_bytes=0)
    key = Key.of_owner("alice", "order-1")
    await gateway_broker.claim(key.hash, Claim(ticket.id, fingerprint, "alice"))
    assert_accepted(await by_key(Cancel_After="2h")(gateway), replayed=False)
    found = await gateway_broker.find(ticket.id)
    assert found is not None
    assert found.ticket.deadline_ms == ticket.deadline_ms


async def test_large_files_of_a_replay_are_not_stored_again(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = OCTETS | {"Idempotency-Key": "order-1"}
    content = b"x" * (INLINE_BYTES_MAX + 1)
    first = await gateway.client.post(ECHO, content=content, headers=headers)
    assert_accepted(first, replayed=False)

    async def fail(*_: object) -> None:
        raise AssertionError("nothing is to be stored")

    monkeypatch.setattr("blobs.Blobs.put", fail)
    again = await gateway.client.post(ECHO, content=content, headers=headers)
    assert_accepted(again, replayed=True)
    assert (await gateway.client.get(again.json()["input"]["INPUT0"])).content == content


@pytest.mark.parametrize(
    ("key", "rule"),
    [("", "key"), ('""', "key"), ("k" * 256, "key"), ("sch\xf6n", "key"), ("a\tb", "key")],
)
async def test_a_key_that_is_none_is_refused(
    gateway: RunningGateway, gateway_broker: Broker, key: str, rule: str
) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = await gateway.client.post(ECHO, json=TEXT, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["rule"]) == ("header.idempotency-key", rule)
    assert await tickets(gateway_broker) == 0


async def test_two_keys_at_once_are_refused(gateway: RunningGateway) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await gateway.client.post(ECHO, json=TEXT, headers=twice)
    assert answer.status_code == 422
    both = await gateway.client.put(
        f"/v1/predictions/{fresh_id()}", json=BODY, headers={"Idempotency-Key": "a"}
    )
    assert both.json()["errors"][0]["rule"] == "named_once"


def uuid4_like() -> str:
    raw = bytearray(to_uuid(fresh_id()).bytes)
    raw[6] = 0x40
    return from_uuid(type(to_uuid(fresh_id()))(bytes=bytes(raw)))


@pytest.mark.parametrize(
    ("prediction_id", "rule"),
    [
        (lambda: "nonsense", "prediction_id"),
        (lambda: fresh_id().upper(), "prediction_id"),
        (lambda: fresh_id()[:-1] + "v", "prediction_id"),
        (uuid4_like, "uuid7"),
        (lambda: aged(-6 * 60 * 1000), "age"),
        (lambda: aged(DAY_MS + 60_000), "age"),
    ],
    ids=["no id", "capitals", "another spelling", "another version", "ahead", "old"],
)
async def test_an_id_that_cannot_be_a_new_one_is_refused(
    gateway: RunningGateway, gateway_broker: Broker, prediction_id: Callable[[], str], rule: str
) -> None:
    answer = await by_id(prediction_id())(gateway)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert (error["field"], error["rule"]) == ("path.id", rule)
    assert await tickets(gateway_broker) == 0


def aged(age_ms: int) -> PredictionId:
    return new_prediction_id(time.time_ns() // 1_000_000 - age_ms, os.urandom(10))


async def test_a_put_names_its_model_in_the_body(gateway: RunningGateway) -> None:
    path = f"/v1/predictions/{fresh_id()}"
    answer = await gateway.client.put(path, json=TEXT)
    assert answer.json()["errors"][0]["field"] == "version"
    by_query = f"{path}?version={VERSION}"
    raw = await gateway.client.put(by_query, content=b"x", headers=OCTETS)
    assert_accepted(raw, replayed=False)


async def test_with_a_key_submitting_goes_on_while_postgres_is_down(
    settings: GatewaySettings,
) -> None:
    given = GatewaySettings(**{**settings.model_dump(), "postgres_dsn": NOBODY_LISTENS})
    async with serving(given) as gateway:
        await declared(gateway)
        first = assert_accepted(await by_key()(gateway), replayed=False)
        assert assert_accepted(await by_key()(gateway), replayed=True) == first
        # Whether this id has ended, nobody can tell.
        assert_refused(await by_id(fresh_id())(gateway), 503, "ledger_unavailable")


async def test_while_nats_is_down_a_key_is_asked_for_again(
    settings: GatewaySettings, send: Send
) -> None:
    nowhere = settings.model_copy(update={"nats_url": "nats://127.0.0.1:1"})
    async with serving(nowhere) as gateway:
        answer = await send(gateway)
        assert_refused(answer, 503, "queue_unavailable")
        assert answer.headers["retry-after"].isdigit()
        assert "x-should-retry" not in answer.headers


async def test_a_submit_with_a_key_that_was_not_confirmed_may_be_sent_again(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, send: Send
) -> None:
    publish = Publisher.publish

    async def lose_the_answer(self: Publisher, ticket: Ticket) -> None:
        await publish(self, ticket)
        raise AcceptanceUnknown("the answer is lost")

    monkeypatch.setattr(Publisher, "publish", lose_the_answer)
    answer = await send(gateway)
    assert_refused(answer, 503, "queue_unavailable")
    assert "x-should-retry" not in answer.headers
    assert_accepted(await send(gateway), replayed=True)


async def test_more_keys_than_are_kept_are_429_and_the_known_ones_still_answered(
    settings: GatewaySettings,
) -> None:
    async with serving(settings.model_copy(update={"claims_max": 1})) as gateway:

        async def is_accepted() -> bool:
            return (await by_key()(gateway)).status_code == 202

        await until(is_accepted)
        refused = await by_key("order-2")(gateway)
        assert_refused(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert_accepted(await by_key()(gateway), replayed=True)
        assert (await gateway.client.post(ECHO, json=TEXT)).status_code == 202


async def test_a_key_of_what_the_retention_removed_is_answered_as_gone(
    gateway: RunningGateway, gateway_broker: Broker, ledger_dsn: str
) -> None:
    await claimed(gateway_broker, "order-1", age_ms=40 * DAY_MS)
    connection = await asyncpg.connect(ledger_dsn)
    await connection.execute(
        "INSERT INTO horizon (accepted_before) VALUES (now() - interval '30 days')"
    )
    await connection.close()
    assert_refused(await by_key()(gateway), 410, "expired")
    assert await tickets(gateway_broker) == 0


async def test_what_was_claimed_long_ago_and_never_accepted_stays_so(
    gateway: RunningGateway, gateway_broker: Broker
) -> None:
    await claimed(gateway_broker, "order-1", age_ms=8 * DAY_MS)
    assert_refused(await by_key()(gateway), 410, "expired")
    assert await tickets(gateway_broker) == 0
