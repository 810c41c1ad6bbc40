"""What both directions work on."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from blobs import Blobs
from broker import Broker
from contract.errors import QueueUnavailable
from contract.queue import DEFAULT_NAMESPACE, QueueNames
from ledger import Ledger

# Called with what is being done, how much of it is done, and how much there is (None: not known).
Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """The three that keep something, connected."""

    ledger: Ledger
    broker: Broker
    blobs: Blobs


@asynccontextmanager
async def connected(
    *,
    postgres_dsn: str,
    nats_url: str,
    nats_token: str | None,
    blobs_url: str,
    namespace: str = DEFAULT_NAMESPACE,
) -> AsyncIterator[Parts]:
    """Connect to the parts for one block.

    Raises:
        ValueError: a URL is none. BlobsUnavailable, QueueUnavailable: away now.
    """
    async with AsyncExitStack() as opened:
        blobs = Blobs.open(blobs_url)
        ledger = await Ledger.connect(postgres_dsn)
        opened.push_async_callback(ledger.close)
        names = QueueNames(namespace)
        broker = await Broker.connect(nats_url, names=names, token=nats_token, client_name="backup")
        opened.push_async_callback(broker.close)
        if not broker.is_connected:
            raise QueueUnavailable("NATS does not answer, or refuses our token")
        yield Parts(ledger, broker, blobs)
