"""All predictions, newest first, page by page: those in the queue and those in the ledger.

The queue is read first. What ends between the two reads is then seen twice, and the ledger's
version wins; the other way round it would be missed.

Each source is paged in its own order: the queue by stream sequence, the ledger by id. Both are
orders of acceptance, and agree but for gateways whose clocks differ.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from broker import Broker, Queued
from contract.errors import InvalidInput
from contract.ids import PredictionId, parse_prediction_id
from contract.prediction import Prediction
from gateway.follow import Seen
from ledger import Ledger

PAGE_MAX = 100
TRAIL_MAX = 32  # pages that `previous` can lead back
READS_MAX = 10  # of the queue, for one page; others' tickets may fill it


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a page begins: everything on it is older than these."""

    before_id: PredictionId | None = None
    before_sequence: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


Trail = tuple[Position, ...]  # of the pages up to this one, so that `previous` knows the way


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Seen]
    next: str | None  # cursors
    previous: str | None


class Listing:
    """Reads pages of predictions."""

    def __init__(self, ledger: Ledger, broker: Broker) -> None:
        self._ledger = ledger
        self._broker = broker

    async def page(self, cursor: str | None, *, rows_max: int, owner: str | None) -> Page:
        """Read one page.

        Args:
            cursor: from another page's `next` or `previous`; None for the newest.
            owner: whose predictions; None for everybody's.

        Raises:
            InvalidInput: not a cursor of ours.
            QueueUnavailable, LedgerUnavailable: a page with holes would look like a loss.
        """
        trail = read_cursor(cursor)
        here = trail[-1]
        scan = await self._scan_queue(here.before_sequence, rows_max, owner)
        ended = await self._ledger.page(before=here.before_id, rows_max=rows_max, owner=owner)
        rows, after = merge(scan, ended, here, rows_max=rows_max)
        is_last = scan.is_complete and len(rows) < rows_max
        return Page(
            rows=await self._as_they_ended(rows),
            next=None if is_last else write_cursor((*trail, after)[-TRAIL_MAX:]),
            previous=write_cursor(trail[:-1]) if len(trail) > 1 else None,
        )

    async def _as_they_ended(self, rows: list[Seen]) -> list[Seen]:
        """Show those that have ended as such.

        The ledger's page says so of most. Not of one that took long to be published: its sequence
        is newer than its id, and brings it to a page where ids are newer than its own.
        """
        unfinished = [seen.ticket.id for seen in rows if seen.outcome is None]
        if not unfinished:
            return rows
        ended = await self._ledger.get_many(unfinished)
        late = {each.id: Seen(each.ticket, each.outcome) for each in ended.values()}
        return [late.get(seen.ticket.id, seen) for seen in rows]

    async def _scan_queue(self, before: int | None, rows_max: int, owner: str | None) -> "Scan":
        tickets: list[Queued] = []
        last: Queued | None = None
        for _ in range(READS_MAX):
            read = await self._broker.waiting(before_sequence=before, tickets_max=rows_max)
            if not read:
                return Scan(tickets, before, None)
            last = read[-1]
            before = last.sequence
            tickets += [queued for queued in read if owner in (None, queued.ticket.owner)]
            if len(tickets) >= rows_max:
                break
        assert last is not None
        return Scan(tickets, before, last.ticket.id)


@dataclass(frozen=True, slots=True)
class Scan:
    """What was read of the queue."""

    tickets: list[Queued]
    before_sequence: int | None  # where the next read begins
    horizon: PredictionId | None  # the oldest id that was read; None when nothing is left

    @property
    def is_complete(self) -> bool:
        return self.horizon is None


def merge(
    scan: Scan, ended: Sequence[Prediction], here: Position, *, rows_max: int
) -> tuple[list[Seen], Position]:
    """Merge two lists, each newest first; return the page and where the next one begins.

    Nothing older than the scan's horizon is shown: tickets that were not read may be newer.
    """
    shown = {prediction.id for prediction in ended}
    waiting = [queued for queued in scan.tickets if queued.ticket.id not in shown]
    recorded = [each for each in ended if scan.horizon is None or each.id >= scan.horizon]
    rows: list[Seen] = []
    taken = 0  # of `waiting`
    for _ in range(min(rows_max, len(waiting) + len(recorded))):
        row = recorded[len(rows) - taken] if len(rows) - taken < len(recorded) else None
        if taken < len(waiting) and (row is None or waiting[taken].ticket.id > row.id):
            queued = waiting[taken]
            taken += 1
            rows.append(Seen(queued.ticket, None, queued.running, queued.position))
        else:
            assert row is not None
            rows.append(Seen(row.ticket, row.outcome))
    if taken == len(waiting):
        before_sequence = scan.before_sequence
    else:
        before_sequence = waiting[taken - 1].sequence if taken else here.before_sequence
    oldest = min((seen.ticket.id for seen in rows), default=here.before_id)
    return rows, Position(oldest, before_sequence)


def write_cursor(trail: Trail) -> str:
    return base64.urlsafe_b64encode(_ENCODER.encode(trail)).rstrip(b"=").decode()


def read_cursor(cursor: str | None) -> Trail:
    """Raises InvalidInput when it is not a cursor of ours."""
    if not cursor:
        return (Position(),)
    try:
        data = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        trail = _DECODER.decode(data)
        for position in trail:
            if position.before_id is not None:
                parse_prediction_id(position.before_id)
    except (ValueError, binascii.Error):
        trail = ()
    if not 0 < len(trail) <= TRAIL_MAX:
        raise InvalidInput(
            "this is no cursor; take it from `next` or `previous` of a page as it is",
            field="query.cursor",
            rule="cursor",
        )
    return trail


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Trail)
