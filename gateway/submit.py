"""Accepting a prediction: everything between a request that was read and a ticket that is stored.

The order: settle the model and version, have the task check the input, make the id, put large
files into the blobs, publish. Only the last step accepts; a failure before it leaves at most a
blob nobody refers to.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import msgspec
from prometheus_client import Counter

from blobs import Blobs
from broker import Broker
from contract.catalog import Catalog, Model
from contract.errors import AcceptanceUnknown, InvalidInput
from contract.ids import new_prediction_id
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import JSON, File, Priority, Ticket
from gateway.recent import Recent
from tasks.base import Task
from telemetry import metrics

# As JSON writes one. `int` and `float` read more: spaces, 1_0, other scripts' digits.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

LONE_FILE = ""  # the name of a file that came without one: it goes to the task's main field
CHECKED_IN_THREAD_BYTES = 256 * 1024  # from here on a check could hold up everybody else


class Asked(msgspec.Struct, frozen=True):
    """What the body of a submit asks for, in whatever dialect.

    `input` holds JSON values, or plain text where `is_text`: queries and forms have no types.
    """

    reference: str | None  # the model, where the body names it
    input: dict[str, JSON]
    files: dict[str, File]
    priority: Priority | None = None
    cancel_after_ms: int | None = None
    is_text: bool = False
    body_bytes: int = 0  # how much was read for it


@dataclass(frozen=True, slots=True)
class Terms:
    """What was asked for beside the body. Where the body says something else, that counts."""

    owner: str
    priority: Priority = Priority.NORMAL
    cancel_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What a task reads."""

    input: dict[str, JSON]
    files: dict[str, File]


class Submitter:
    """Accepts predictions into the queue.

    Args:
        tasks: by name, every task of the catalog.
        now_ms: Unix time in milliseconds.
        random: as many unpredictable bytes as it is asked for.
    """

    def __init__(
        self,
        catalog: Catalog,
        tasks: Mapping[str, Task],
        broker: Broker,
        blobs: Blobs,
        recent: Recent,
        *,
        now_ms: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self._broker = broker
        self._blobs = blobs
        self._recent = recent
        self._now_ms = now_ms
        self._random = random

    def resolve(self, name: str, version: int | None) -> tuple[Model, int]:
        """Find a model and settle its version; None means the latest. Raises UnknownModel."""
        return self._catalog.resolve(name, version)

    async def prepare(self, asked: Asked, model: Model, version: int, terms: Terms) -> Ticket:
        """Check the input and make its ticket, with all its files inline.

        Raises:
            InvalidInput: or a child of it, naming field and rule.
        """
        task = self._tasks[model.task]
        given = given_to(task, model, asked)
        if asked.body_bytes > CHECKED_IN_THREAD_BYTES:
            await asyncio.to_thread(task.check, model, given)
        else:
            task.check(model, given)
        now_ms = self._now_ms()
        return Ticket(
            id=new_prediction_id(now_ms, self._random(10)),
            model=model.name,
            version=version,
            input=given.input,
            files=given.files,
            priority=asked.priority or terms.priority,
            owner=terms.owner,
            deadline_ms=deadline(now_ms, asked.cancel_after_ms or terms.cancel_after_ms),
        )

    def repeat(self, failed: Ticket, files: dict[str, File], terms: Terms) -> Ticket:
        """Make the ticket of a retry: the same once more, by the same model, under a new id.

        Args:
            files: those of `failed`, with their contents.

        Raises:
            UnknownModel: the model, or this version of it, is not on offer any more.
        """
        self._catalog.resolve(failed.model, failed.version)
        now_ms = self._now_ms()
        return msgspec.structs.replace(
            failed,
            id=new_prediction_id(now_ms, self._random(10)),
            files=files,
            deadline_ms=deadline(now_ms, terms.cancel_after_ms),
            retry_of=failed.id,
        )

    async def accept(self, ticket: Ticket) -> Ticket:
        """Store the ticket: from here on the prediction is accepted.

        Returns the ticket without file contents; they may be large, and the caller may wait long.

        Raises:
            TooLarge, Overloaded, BlobsUnavailable, QueueUnavailable: not accepted.
            AcceptanceUnknown: accepted or not.
            AlreadyAccepted: by somebody else, under an id that is not of our making.
        """
        stored = await self._with_large_files_in_blobs(ticket)
        bare = ticket.without_contents()
        sequence = None
        self._recent.expect(bare)
        try:
            sequence = await self._broker.publish(stored)
        except AcceptanceUnknown as error:
            raise AcceptanceUnknown(
                f"the queue did not confirm the prediction in time: ask for {ticket.id}, which may"
                " have been accepted; with an Idempotency-Key the same can simply be sent again"
            ) from error
        finally:
            self._recent.settle(ticket.id, sequence)
        _accepted(ticket.model, ticket.priority).inc()
        return bare

    async def _with_large_files_in_blobs(self, ticket: Ticket) -> Ticket:
        if not ticket.files:
            return ticket
        room = INLINE_BYTES_MAX
        files = dict(ticket.files)
        for name, file in sorted(ticket.files.items(), key=lambda item: item[1].size):
            room -= file.size
            if room < 0:
                assert file.content is not None, "a new ticket has its files inline"
                await self._blobs.put(ticket.id, file.content, file.sha256)
                files[name] = msgspec.structs.replace(file, content=None)
        return ticket if room >= 0 else msgspec.structs.replace(ticket, files=files)


@cache
def _accepted(model: str, priority: Priority) -> Counter:
    return metrics.ACCEPTED.labels(model, priority.value)


def deadline(now_ms: int, after_ms: int | None) -> int | None:
    return None if after_ms is None else now_ms + after_ms


def given_to(task: Task, model: Model, asked: Asked) -> Given:
    """Give a lone file its field, and text the type that the model's schema says."""
    if not asked.is_text:
        return Given(asked.input, asked.files)
    schema = task.input_schema(model).get("properties", {})
    files = asked.files
    if len(files) == 1 and (name := next(iter(files))) not in schema:
        field = task.main_file or (next(iter(schema)) if len(schema) == 1 else None)
        if field is None:
            raise InvalidInput(
                f"{model.name} has several inputs: name the one that this file is for",
                field=f"input.{name}" if name else "body",
                rule="main_file",
            )
        files = {field: files[name]}
    if twice := files.keys() & asked.input.keys():
        name = min(twice)
        raise InvalidInput(
            f"{name} is given both as a file and as text",
            field=f"input.{name}",
            rule="unique_names",
        )
    values = {
        name: typed(text, schema.get(name, {}).get("type")) for name, text in asked.input.items()
    }
    return Given(values, files)


def typed(text: JSON, kind: JSON) -> JSON:
    """Read text as the schema's type; text that is none stays text, and the task refuses it."""
    try:
        match kind:
            case "integer" if _NUMBER.fullmatch(text):
                return int(text)
            case "number" if _NUMBER.fullmatch(text):
                return float(text)
            case "boolean":
                return {"true": True, "false": False}.get(text, text)
    except ValueError:  # an integer with a fraction, or thousands of digits
        return text
    return text
