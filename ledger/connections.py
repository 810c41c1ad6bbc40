"""Connections to Postgres: bounded, made when first needed, replaced when broken.

Every statement runs inside `Connections.borrow`, which is also where asyncpg's errors become ours.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from contract.errors import LedgerUnavailable

log = logging.getLogger(__name__)

Connection = PoolConnectionProxy  # what a statement runs on

CONNECT_S_MAX = 5.0
STATEMENT_S_MAX = 10.0  # ours take milliseconds; one that takes this long is stuck
BORROW_S_MAX = 10.0  # waiting for a connection, or for a broken one to let go
CLOSE_S_MAX = 5.0

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/?#\[\]]*)(:[0-9]{1,5})?")

# What may pass by itself. Some of it needs an operator (credentials, a full disk), but no code.
_PASSING = (
    OSError,  # refused, reset, unreachable; TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,  # the database is not there yet
    asyncpg.UndefinedTableError,  # its schema is not there yet
    asyncpg.ReadOnlySQLTransactionError,  # a standby that has not been promoted yet
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.ObjectNotInPrerequisiteStateError,  # a lock not granted in time
    asyncpg.OperatorInterventionError,  # restarting, terminated by an administrator, canceled
    asyncpg.PostgresSystemError,  # an I/O error of the server's
    # asyncpg raises this where a connection dies while the pool gets it ready for the next user.
    asyncpg.InternalClientError,
)


class Connections:
    """At most `connections_max` connections. Nothing is connected before the first use."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, connections_max: int) -> "Connections":
        """Prepare to connect.

        Behind pgbouncer in transaction mode, prepared statements need its `max_prepared_statements`
        (1.21 or newer).

        Raises:
            ValueError: not a DSN of Postgres. The message does not repeat it: it holds a password.
        """
        if not _is_dsn(dsn):
            raise ValueError(
                "a Postgres DSN reads postgresql://user:password@host:port/database, with %XX for"
                " the special characters of a password"
            )
        pool = await asyncpg.create_pool(
            dsn,
            min_size=0,  # so that Postgres may be down now
            max_size=connections_max,
            timeout=CONNECT_S_MAX,
            command_timeout=STATEMENT_S_MAX,
            reset=_keep,
            server_settings={"application_name": "tritonq"},
        )
        return cls(pool)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """Lend a connection for the statements inside the block.

        Raises:
            LedgerUnavailable: Postgres does not answer, or cannot do this now. Whether the last
                statement took effect is unknown; ours may all be repeated.
        """
        try:
            async with self._pool.acquire(timeout=BORROW_S_MAX) as connection:
                try:
                    yield connection
                except asyncpg.InterfaceError as error:
                    # asyncpg says it of our mistakes as well as of a connection that is gone.
                    if not _is_gone(connection):
                        raise
                    raise LedgerUnavailable("the connection to the ledger was lost") from error
        except _PASSING as error:
            raise LedgerUnavailable(_what_is_wrong(error)) from error
        except asyncpg.ClientConfigurationError:
            # Without the cause: it quotes the DSN, which is first looked into when it is used.
            raise LedgerUnavailable("an option in the ledger's DSN makes no sense") from None
        except asyncpg.CheckViolationError as error:
            # One of the table's constraints has a name, and breaking it is a bug. A partition's
            # bounds have none: a new partition has just taken over this part of the default one.
            if error.constraint_name is not None:
                raise
            # Without the cause: it quotes the row.
            raise LedgerUnavailable("the ledger is adding a partition") from None

    async def close(self) -> None:
        """Wait for the statements that run, but not for long: interrupted, asyncpg ends them."""
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._pool.close()
        except _PASSING:
            log.warning("ledger.close_forced")


def _is_dsn(dsn: str) -> bool:
    """Whether asyncpg can read it: where it cannot, it quotes what may be half of a password."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return False
    hosts = parts.netloc.rpartition("@")[2].split(",")
    return (
        parts.scheme in ("postgresql", "postgres")
        and not parts.fragment
        and "@" not in parts.path + parts.query  # of a password with a / or a ? in it
        and all(map(_HOST_AND_PORT.fullmatch, hosts))
    )


async def _keep(_: object) -> None:
    """Hand a connection on as it is: no statement of ours leaves anything behind in its session.

    asyncpg's own reset is one more round trip for each statement.
    """


def _is_gone(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has let go of it already
        return True


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, asyncpg.UndefinedTableError):
        return "the ledger has no schema yet"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "the ledger refuses our credentials"
    if isinstance(error, asyncpg.InsufficientResourcesError):
        return "the ledger is out of connections, disk or memory"
    return "the ledger does not answer"
