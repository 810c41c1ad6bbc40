"""What an installation keeps, without what works on it: Postgres, NATS and the blobs.

Of an installation that is up, where they listen; of one that is stopped, the two servers are
started alone and stopped again.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from standalone.leftover import end_session, remember_session
from standalone.nats import Nats
from standalone.ports import choose
from standalone.postgres import Postgres
from standalone.server import CannotStart, running
from standalone.state import State, find_running, owned


@dataclass(frozen=True, slots=True)
class Stores:
    """Where everything is kept, and how to get in."""

    postgres_dsn: str = field(repr=False)
    nats_url: str
    nats_token: str = field(repr=False)
    blobs_url: str


@asynccontextmanager
async def stores(path: Path, *, new: bool) -> AsyncIterator[Stores]:
    """Reach the stores of the installation with the state folder `path`, for one block.

    Args:
        new: make an installation where there is none; it can then be started as any other.

    Raises:
        CannotStart: there is no installation, it is just starting or stopping, or a server does
            not start.
    """
    path = path.absolute()
    if not new and not (path / "postgres" / "data").exists():
        raise CannotStart(f"there is no installation in {path}; name its folder with --state")
    if find_running(path) is not None:
        yield _of_running(State(path))
        return
    with owned(path) as state:
        ports = choose({})
        postgres = Postgres(
            state.folder("postgres"), ports.postgres, state.secret("postgres_password")
        )
        nats = Nats(
            state.folder("nats"), ports.nats, ports.nats_monitor, state.secret("nats_token")
        )
        for service in ("gateway", "dispatcher"):  # left by a killed `tritonq up`
            record = state.path / service / f"{service}.pid"
            await asyncio.to_thread(end_session, remember_session(record))
        async with running(postgres), running(nats):
            yield Stores(postgres.dsn, nats.url, nats.token, _blobs_url(state))


def _of_running(state: State) -> Stores:
    """Read where the servers of a running installation listen, as its own processes do."""
    try:
        dsn = state.secret_file("postgres_dsn").read_text().strip()
        token = state.secret_file("nats_token").read_text().strip()
        listen = json.loads((state.path / "nats" / "nats.conf").read_text())["listen"]
    except (OSError, ValueError, KeyError) as error:
        raise CannotStart(f"cannot read where {state.path} runs: {error}") from error
    return Stores(dsn, f"nats://{listen}", token, _blobs_url(state))


def _blobs_url(state: State) -> str:
    return state.folder("blobs").as_uri()
