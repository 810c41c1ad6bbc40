"""The systems that are compared: each a family of processes of its own, several up at once.

    python -m benchmarks.systems STATE SYNC_INTERVAL

runs the product until SIGTERM, and prints a line of JSON when it is ready; `benchmarks.peer` and
`benchmarks.raw` do the same. So the CPU time of one is not mixed with that of another which idles.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.results import ROOT
from standalone.installation import Options
from standalone.state import Running
from standalone.up import until_stopped, up

START_S_MAX = 120.0
STOP_S_MAX = 30.0


class Unavailable(Exception):
    """A system cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class System:
    """One that runs and answers."""

    name: str
    process: asyncio.subprocess.Process
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Of the process whose family it is."""
        return self.process.pid

    @property
    def port(self) -> int:
        """Of its REST API."""
        return int(self.facts["port"])

    @property
    def triton(self) -> str:
        """host:port of Triton's gRPC service."""
        return str(self.facts["triton"])

    async def ask(self, line: str) -> str:
        """Write a line to its standard input; what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        return (await self.process.stdout.readline()).decode()


@asynccontextmanager
async def system(name: str, module: str, *arguments: str) -> AsyncIterator[System]:
    """Run `python -m module` for the length of the block.

    Raises:
        Unavailable: it ended instead of saying that it is ready.
    """
    # If this process is killed, the kernel tells it to stop.
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig=TERM", "--", sys.executable, "-m", module, *arguments, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(START_S_MAX):
            line = await process.stdout.readline()
        if not line:
            last = (await said).decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable("".join(last) or f"{module} ended without a word")
        yield System(name, process, json.loads(line))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()
        said.cancel()


async def ready(running: Running) -> int:
    facts = {"port": urlsplit(running.api_url).port, "triton": running.triton_grpc_address}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    return await until_stopped(running)


def main(state: str, sync_interval: str) -> int:
    options = Options(
        state=Path(state),
        repository=ROOT / "model_repository",
        triton_environment=ROOT / ".venv-triton",
        sync_interval=sync_interval,
    )
    return uvloop.run(up(options, tell=lambda event: print(event, file=sys.stderr), at_work=ready))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
