"""Three real nats-servers on loopback that form a cluster, to be killed, frozen and cut off.

By default they sync each message to disk before they acknowledge it. A cut goes through TCP
proxies on the routes, not through network namespaces: it takes no root, works the same everywhere,
and what is held back arrives late, as it does on a network that was down for a while.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import msgspec
from nats.aio.client import Client
from nats.errors import NoRespondersError

from standalone.nats import Nats
from standalone.server import LOOPBACK, Process, start
from tests.chaos.http import NoAnswer, ask
from tests.chaos.proxy import Proxy
from tests.services import free_ports
from tests.tickets import until

TOKEN = "token-of-the-cluster"
SIZE = 3
STORE_BYTES_MAX = 1 << 40  # streams reserve what they may grow to
NOWHERE = f"{LOOPBACK}:1"  # what servers tell each other of themselves: nobody can go round a proxy
TOGETHER_S_MAX = 30.0


@dataclass(frozen=True)
class Node(Nats):
    """One server of a cluster; `routes` are the ports at which it finds the others."""

    name: str = ""
    cluster_port: int = 0
    routes: tuple[int, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        return (*super().ports, self.cluster_port)

    def config_text(self) -> str:
        cluster = {
            "name": "cluster",
            "listen": f"{LOOPBACK}:{self.cluster_port}",
            "advertise": NOWHERE,
            "routes": [f"nats://{LOOPBACK}:{port}" for port in self.routes],
        }
        # A lame duck sends its clients away over so long; the least there is.
        leaving = {"lame_duck_duration": "30s", "lame_duck_grace_period": "1s"}
        config = {**json.loads(super().config_text()), "cluster": cluster, **leaving}
        return json.dumps(config, indent=2)


class Cluster:
    """The servers of a cluster, by name: `n1`, `n2`, `n3`."""

    def __init__(self, nodes: list[Node], proxies: dict[tuple[str, str], Proxy]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self._proxies = proxies  # by who calls and who is called
        self._processes: dict[str, Process] = {}

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    @property
    def url(self) -> str:
        """Of all servers, as the product takes them."""
        return ",".join(node.url for node in self.nodes.values())

    async def start(self, name: str) -> None:
        self._processes[name] = await start(self.nodes[name])

    async def start_all(self) -> None:
        await asyncio.gather(*(self.start(name) for name in self.nodes))
        await self.together()

    async def stop_all(self) -> None:
        for name in self._processes:
            self.resume(name)
        await asyncio.gather(*(process.stop() for process in self._processes.values()))
        self._processes.clear()

    async def kill(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGKILL)
        await self._processes.pop(name).stop()

    async def leave(self, name: str) -> None:
        """Have a server leave as for an upgrade: its leaders move, its clients, then it ends."""
        process = self._processes.pop(name)
        os.kill(process.pid, signal.SIGUSR2)
        await process.wait()
        await process.stop()

    def freeze(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self._processes[name].pid, signal.SIGCONT)

    def cut_off(self, name: str) -> None:
        """Let nothing pass between this server and the others. Clients still reach it."""
        for (caller, called), proxy in self._proxies.items():
            if name in (caller, called):
                proxy.silence()

    def heal(self) -> None:
        for proxy in self._proxies.values():
            proxy.restore()

    async def mend(self) -> None:
        """Undo whatever was done to the servers."""
        self.heal()
        for name in self._processes:
            self.resume(name)
        await asyncio.gather(*(self.start(name) for name in self.nodes.keys() - self._processes))
        await self.together()

    async def together(self) -> None:
        """Wait until the servers that run have a leader, which sees them and serves all clients."""
        async with asyncio.timeout(TOGETHER_S_MAX):
            for name in self._processes:
                while len(await _peers_seen(self.nodes[name], self.nodes)) < len(self._processes):
                    await asyncio.sleep(0.05)
                client = await self._client(name)
                while not await _serves(client):
                    await asyncio.sleep(0.05)
                await client.close()

    async def leader(self, stream: str, *, asked: str = "") -> str:
        """The name of the server that leads `stream`, in the eyes of whoever knows."""
        client = await self._client(asked or next(iter(self._processes)))
        try:
            found = ""

            async def is_known() -> bool:
                nonlocal found
                found = (await _info(client, stream)).cluster.leader
                return bool(found)

            await until(is_known)
            return found
        finally:
            await client.close()

    async def in_sync(self, stream: str) -> None:
        """Wait until all replicas of `stream` hold what its leader holds."""
        client = await self._client(next(iter(self._processes)))
        try:
            async with asyncio.timeout(TOGETHER_S_MAX):
                while True:
                    replicas = (await _info(client, stream)).cluster.replicas
                    if len(replicas) == SIZE - 1 and all(each.current for each in replicas):
                        return
                    await asyncio.sleep(0.05)
        finally:
            await client.close()

    async def _client(self, name: str) -> Client:
        client = Client()
        await client.connect(self.nodes[name].url, token=TOKEN, dont_randomize=True)
        return client


class _Replica(msgspec.Struct, frozen=True):
    name: str
    current: bool = False
    offline: bool = False


class _Peers(msgspec.Struct, frozen=True):
    leader: str = ""
    replicas: list[_Replica] = []


class _Info(msgspec.Struct, frozen=True):
    cluster: _Peers = _Peers()


class _Monitored(msgspec.Struct, frozen=True):
    meta_cluster: _Peers = _Peers()


async def _info(client: Client, stream: str) -> _Info:
    try:
        answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=1)
    except (TimeoutError, NoRespondersError):
        return _Info()
    return msgspec.json.decode(answer.data, type=_Info)


async def _peers_seen(node: Node, nodes: dict[str, Node]) -> set[str]:
    """The servers that run in the eyes of the leader that `node` knows."""
    leader = (await _monitored(node)).leader
    if leader not in nodes:
        return set()
    peers = (await _monitored(nodes[leader])).replicas
    return {leader, *(peer.name for peer in peers if peer.current and not peer.offline)}


async def _monitored(node: Node) -> _Peers:
    try:
        answer = await ask(node.monitor_port, "GET", "/jsz", within_s=2.0)
    except NoAnswer:
        return _Peers()
    return msgspec.json.decode(answer.body, type=_Monitored).meta_cluster


async def _serves(client: Client) -> bool:
    """Whether JetStream's leader is reached: servers have several connections to each other."""
    try:
        answer = await client.request("$JS.API.INFO", timeout=0.5)
    except (TimeoutError, NoRespondersError):
        return False
    return b'"error"' not in answer.data


@asynccontextmanager
async def cluster(
    folder: Path, *, sync_interval: str = "always", may_be_cut: bool = True
) -> AsyncIterator[Cluster]:
    """Run a cluster; nothing of it is left afterwards."""
    names = [f"n{number}" for number in range(1, SIZE + 1)]
    ports = dict(zip(names, zip(*[iter(free_ports(3 * SIZE))] * 3, strict=True), strict=True))
    async with AsyncExitStack() as opened:
        proxies: dict[tuple[str, str], Proxy] = {}
        for caller, called in permutations(names if may_be_cut else (), 2):
            proxy = Proxy(f"{caller}-{called}", ports[called][2])
            proxies[caller, called] = await opened.enter_async_context(proxy.running())
        nodes = []
        for name, (port, monitor_port, cluster_port) in ports.items():
            routes = tuple(
                proxies[name, other].port if may_be_cut else ports[other][2]
                for other in names
                if other != name
            )
            nodes.append(
                Node(
                    folder / name, port, monitor_port, TOKEN, sync_interval, STORE_BYTES_MAX,
                    name, cluster_port, routes,
                )
            )  # fmt: skip
        made = Cluster(nodes, proxies)
        opened.push_async_callback(made.stop_all)
        await made.start_all()
        yield made
