"""Two gateways and three dispatchers on three nats-servers: whichever dies, nothing is lost."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from contract.queue import QueueNames
from standalone.triton import Triton
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.http import ask
from tests.chaos.several import DISPATCHERS, GATEWAYS, Attack, Report, Several, Spread

pytestmark = [pytest.mark.chaos, pytest.mark.triton, pytest.mark.timeout(300)]

NAMES = QueueNames()
STREAM = NAMES.stream
FREEZE_S = 10.0
CUT_S = 25.0  # longer than a leader that is cut off goes on believing in itself
SEED = int(os.environ.get("SEED", "1").partition(",")[0])  # of several, the first
STALL_S_MAX = 20.0  # an election takes 4 to 9 s, and there may be a second one


@pytest.fixture(scope="module")
async def dsn(postgres_dsn: str, migrated_template: str) -> AsyncIterator[str]:
    name = f"cluster_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        yield f"{postgres_dsn.rpartition('/')[0]}/{name}"
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def several(
    dsn: str, triton_server: Triton, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Several]:
    folder = tmp_path_factory.mktemp("several")
    async with cluster(folder) as three:
        made = Several(three, dsn, folder, triton_server.grpc_address)
        async with made.running():
            assert await made.ready(60.0) == {}
            yield made


Play = Callable[..., Awaitable[Report]]


@pytest.fixture
def play(several: Several, request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    async def attacked(strike: Callable[[Spread], Awaitable[None]], **options: bool) -> Report:
        name = request.node.name
        await several.cluster.in_sync(STREAM)
        report = await Attack(several, name, SEED, tmp_path).play(strike, **options)
        print(f"\n{name}: {report}")  # noqa: T201  # the stall is what is to be stated
        assert not report.violations, "\n".join(map(str, report.violations))
        assert report.stall_s < STALL_S_MAX
        return report

    return attacked


async def test_the_leader_of_the_queue_is_killed(several: Several, play: Play) -> None:
    three = several.cluster
    leader = await three.leader(STREAM)

    async def strike(_: Spread) -> None:
        await three.kill(leader)
        await asyncio.sleep(1)  # of load without any leader
        await three.leader(STREAM)
        await three.start(leader)
        await three.in_sync(STREAM)

    await play(strike)


async def test_a_follower_is_killed(several: Several, play: Play) -> None:
    three = several.cluster
    follower = await a_follower(three)

    async def strike(_: Spread) -> None:
        await three.kill(follower)
        await asyncio.sleep(2)
        await three.start(follower)
        await three.in_sync(STREAM)

    await play(strike)


async def test_the_leader_hangs_and_comes_to_itself(several: Several, play: Play) -> None:
    three = several.cluster
    leader = await three.leader(STREAM)

    async def strike(_: Spread) -> None:
        three.freeze(leader)
        await asyncio.sleep(FREEZE_S)
        three.resume(leader)
        await three.in_sync(STREAM)

    await play(strike)


async def test_the_leader_is_cut_off_from_the_others_and_found_again(
    several: Several, play: Play
) -> None:
    three = several.cluster
    leader = await three.leader(STREAM)

    async def strike(_: Spread) -> None:
        three.cut_off(leader)
        await asyncio.sleep(CUT_S)
        three.heal()
        await three.in_sync(STREAM)

    report = await play(strike, moves=False)
    # Both sides hand out the same tickets for a while: several run one, and one records it.
    assert sum(report.recorded.values()) == report.rows


async def test_all_servers_are_upgraded_one_after_the_other(several: Several, play: Play) -> None:
    three = several.cluster

    async def strike(_: Spread) -> None:
        for name in three.nodes:
            await three.leave(name)
            await three.start(name)
            await three.together()
            await three.in_sync(STREAM)

    await play(strike)


async def test_a_gateway_and_a_dispatcher_are_killed_and_the_others_share_their_work(
    several: Several, play: Play
) -> None:
    async def strike(load: Spread) -> None:
        gone, left = GATEWAYS
        await several.kill(gone)
        await several.kill(DISPATCHERS[0])
        load.ports = [several.ports[left]]  # as a balancer does
        await asyncio.sleep(3)
        await asyncio.gather(several.start(gone), several.start(DISPATCHERS[0]))
        load.ports = [several.ports[name] for name in GATEWAYS]

    report = await play(strike)
    assert report.stall_s < 5.0
    for name in DISPATCHERS[1:]:
        assert report.recorded[name] > report.rows / 10, "work is spread over those who are left"


async def test_whoever_waits_at_one_gateway_hears_of_what_was_submitted_at_another(
    several: Several,
) -> None:
    first, second = (several.ports[name] for name in GATEWAYS)
    body = b'{"input": {"INPUT0": "hello"}}'
    for number in range(20):
        submitted = await ask(
            first, "POST", "/v1/models/triton/identity/predictions", body=body,
            headers={"Content-Type": "application/json"}, within_s=10,
        )  # fmt: skip
        assert submitted.status in (201, 202)
        location = submitted.headers["location"].partition("/v1/")[2]
        answer = await ask(second, "GET", f"/v1/{location}?wait=30", within_s=35)
        assert b'"succeeded"' in answer.body, number


async def a_follower(three: Cluster) -> str:
    leader = await three.leader(STREAM)
    return next(name for name in three.nodes if name != leader)
