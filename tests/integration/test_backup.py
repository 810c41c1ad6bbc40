"""Everything is destroyed, and a backup brings it back."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from archive import Parts, back_up, connected, manifest, restore
from archive.refusals import (
    CannotWrite,
    FolderTaken,
    MadeByNewer,
    NeverStarted,
    NotEmptyYet,
    NotWhole,
)
from blobs import Blobs
from contract.claims import Claim
from contract.ids import PredictionId
from contract.prediction import File, Prediction, Priority, Ticket
from ledger import Snapshot
from tests import services
from tests.ended import failed, new_id, succeeded
from tests.tickets import Arrivals, a_ticket

MODELS = ("identity", "efficientnet_lite0")
LARGE = os.urandom(3_000_000)
LARGE_NAME = hashlib.sha256(LARGE).hexdigest()
MONDAY = datetime(2026, 8, 3, tzinfo=UTC)

Install = Callable[[], "asyncio.Future[Parts]"]


def silent(what: str, done: int, total: int | None) -> None:
    """Report nothing."""


@pytest.fixture
async def install(
    postgres_dsn: str,
    migrated_template: str,
    nats_server: services.NatsAddress,
    tmp_path: Path,
) -> AsyncIterator[Install]:
    """Makes installations, each with stores of its own and nothing in them."""
    async with AsyncExitStack() as made:
        admin = await asyncpg.connect(postgres_dsn)
        made.push_async_callback(admin.close)

        async def one() -> Parts:
            name = f"backup_{uuid4().hex}"
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
            made.push_async_callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
            return await made.enter_async_context(
                connected(
                    postgres_dsn=f"{postgres_dsn.rpartition('/')[0]}/{name}",
                    nats_url=nats_server.url,
                    nats_token=nats_server.token,
                    blobs_url=(tmp_path / name).as_uri(),
                    namespace=name,
                )
            )

        yield lambda: asyncio.ensure_future(one())


class Everything:
    """An installation with something of each kind in it."""

    def __init__(self) -> None:
        file = File("image/jpeg", len(LARGE), LARGE_NAME)
        monday_ms = int(MONDAY.timestamp() * 1000)
        self.ended = [
            succeeded(
                new_id(monday_ms), output=b'{"text":"\\u0000\\n\\\\"}', deadline_ms=monday_ms
            ),
            succeeded(files={"image": file}),
            failed(new_id(3), message="two\nlines", retry_of=new_id()),
        ]
        self.waiting = [a_ticket(size=size) for size in (10, 1_000_000)]
        self.waiting.append(Ticket(new_id(), MODELS[1], 1, {}, {"image": file}, Priority.LOW))
        self.claims = {f"{number:064x}": Claim(new_id(), "ab", "alice") for number in range(4)}
        self.begun = new_id()

    async def fill(self, parts: Parts) -> None:
        await parts.broker.declare(MODELS)
        await parts.ledger.ensure_partitions(MONDAY)
        await parts.ledger.expire(MONDAY - timedelta(weeks=1))
        await parts.ledger.record(self.ended)
        await parts.ledger.begin([self.begun])
        for prediction_id in (self.ended[1].id, self.waiting[-1].id):
            await parts.blobs.put(prediction_id, LARGE, LARGE_NAME)
        for key, claim in self.claims.items():
            await parts.broker.claim(key, claim)
        for ticket in self.waiting:
            await parts.broker.publish(ticket)

    async def is_in(self, parts: Parts) -> bool:
        ended = {each.id: each for each in self.ended}
        assert await parts.ledger.get_many(ended) == ended
        assert await parts.ledger.horizon() == MONDAY - timedelta(weeks=1)
        assert await parts.ledger.begin([self.begun]) == {self.begun: 2}
        assert await parts.ledger.restoring() is None
        for prediction_id in (self.ended[1].id, self.waiting[-1].id):
            assert await parts.blobs.get(prediction_id, LARGE_NAME) == LARGE
        other = Claim(new_id(), "ab", "alice")
        claims = {key: await parts.broker.claim(key, other) for key in self.claims}
        assert claims == self.claims
        assert await waiting_in(parts) == self.waiting
        return True


async def waiting_in(parts: Parts) -> list[Ticket]:
    return [Ticket.from_bytes(each.data) async for each in parts.broker.transfer.tickets()]


@pytest.fixture
async def backup(install: Install, tmp_path: Path) -> tuple[Path, Everything]:
    """A backup, and what is in it."""
    everything, parts = Everything(), await install()
    await everything.fill(parts)
    await back_up(parts, tmp_path / "backup", silent)
    return tmp_path / "backup", everything


async def test_a_backup_brings_everything_back(
    backup: tuple[Path, Everything], install: Install
) -> None:
    folder, everything = backup
    restored = await install()

    await restore(restored, folder, silent)

    assert await everything.is_in(restored)
    await restored.broker.declare(MODELS)  # what the gateway does, with limits of its own
    arrivals = await Arrivals(
        restored.broker.intake(Priority.NORMAL, MODELS[0], room=8, bytes_max=2**24)
    ).start()
    assert [(await arrivals.next()).ticket for _ in range(2)] == everything.waiting[:2]
    await arrivals.intake.stop()


async def test_a_backup_of_what_was_restored_is_the_same_to_the_byte(
    backup: tuple[Path, Everything], install: Install, tmp_path: Path
) -> None:
    folder, _ = backup
    restored = await install()
    await restore(restored, folder, silent)

    again = await back_up(restored, tmp_path / "again", silent)

    first = manifest.read(folder)
    assert again.files.items() - first.files.items() == set()
    assert again.weeks == first.weeks
    assert {each.stat().st_mode & 0o077 for each in [folder, *folder.iterdir()]} == {0}


async def test_an_installation_that_never_worked_is_backed_up_too(
    install: Install, tmp_path: Path
) -> None:
    parts = await install()
    with pytest.raises(NeverStarted, match="start it once"):  # it has not even a queue
        await back_up(parts, tmp_path / "backup", silent)
    await parts.broker.declare(MODELS)

    await back_up(parts, tmp_path / "backup", silent)

    restored = await install()
    await restore(restored, tmp_path / "backup", silent)
    assert await waiting_in(restored) == []
    assert await restored.ledger.oldest() is None


async def test_a_backup_taken_under_load_has_all_that_was_accepted_before_it_began(
    install: Install, tmp_path: Path
) -> None:
    """Tickets come, end and leave while it is taken: none slips through between the parts."""
    parts = await install()
    await parts.broker.declare(MODELS)
    accepted: list[PredictionId] = []
    claims: dict[str, Claim] = {}

    async def accept() -> None:
        while True:
            ticket = a_ticket(size=2000)
            key = ticket.id.rjust(64, "0")
            claims[key] = await parts.broker.claim(key, Claim(ticket.id, "ab"))
            await parts.broker.publish(ticket)
            accepted.append(ticket.id)

    async def end() -> None:
        while True:
            delivery = await arrivals.next(deadline_s=60)
            outcome = succeeded(delivery.ticket.id).outcome
            await parts.ledger.record([Prediction(delivery.ticket, outcome)])
            await delivery.ack()
            arrivals.intake.release(delivery)

    arrivals = await Arrivals(
        parts.broker.intake(Priority.NORMAL, MODELS[0], room=64, bytes_max=2**24)
    ).start()
    working = [asyncio.create_task(each) for each in (accept(), accept(), accept(), end(), end())]
    while len(accepted) < 300:
        await asyncio.sleep(0.01)
    before, claims_before = list(accepted), dict(claims)

    await back_up(parts, tmp_path / "backup", silent)

    assert len(accepted) > len(before), "it worked meanwhile"
    assert not any(each.done() for each in working)
    for each in working:
        each.cancel()
    await asyncio.wait(working)
    await arrivals.intake.stop()
    restored = await install()
    await restore(restored, tmp_path / "backup", silent)
    waiting = {ticket.id for ticket in await waiting_in(restored)}
    ended = await restored.ledger.ended(before)
    assert set(before) <= waiting | ended
    assert not waiting & await restored.ledger.ended(waiting), "what has ended is not run again"
    known = {each.subject async for each in restored.broker.transfer.claims()}
    assert set(claims_before) <= known
    # A ticket is never restored without the claim that was made for it.
    assert {each.rjust(64, "0") for each in waiting} <= known


async def test_what_is_accepted_and_ends_while_a_backup_is_taken_keeps_its_key(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = await install()
    await parts.broker.declare(MODELS)
    ended = succeeded(new_id())
    key, claim = "0" * 64, Claim(ended.id, "ab", "alice")
    snapshot = parts.ledger.snapshot

    @asynccontextmanager
    async def just_in_time() -> AsyncIterator[Snapshot]:
        """All of it between the backup's look into the queue and that into the ledger."""
        assert await parts.broker.claim(key, claim) == claim
        await parts.broker.publish(ended.ticket)
        await parts.ledger.record([ended])
        await parts.broker.withdraw(ended.id)
        async with snapshot() as seen:
            yield seen

    monkeypatch.setattr(parts.ledger, "snapshot", just_in_time)

    await back_up(parts, tmp_path / "backup", silent)

    restored = await install()
    await restore(restored, tmp_path / "backup", silent)
    assert await restored.ledger.get(ended.id) == ended
    assert await restored.broker.claim(key, Claim(new_id(), "ab", "alice")) == claim


FILES = [
    "queue.records",
    "claims.records",
    "predictions.copy",
    "begun.copy",
    "blobs.000001.records",
]


def truncated(content: bytes) -> bytes:
    return content[:-9]


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def lengthened(content: bytes) -> bytes:
    return content + content


async def test_a_backup_that_is_not_what_was_written_is_refused_by_name(
    backup: tuple[Path, Everything], install: Install
) -> None:
    folder, _ = backup
    parts = await install()
    for name in (*FILES, manifest.NAME):
        content = (folder / name).read_bytes()
        for damage in (truncated, altered, lengthened):
            (folder / name).write_bytes(damage(content))
            with pytest.raises(NotWhole, match=name):
                await restore(parts, folder, silent)
        (folder / name).unlink()
        with pytest.raises(NotWhole, match=name):
            await restore(parts, folder, silent)
        (folder / name).write_bytes(content)

    assert not await parts.broker.transfer.is_declared()
    assert await parts.ledger.restoring() is None
    await restore(parts, folder, silent)


@pytest.mark.parametrize(("field", "value"), [("format", 2), ("schema", 99)])
async def test_a_backup_of_a_newer_release_is_refused(
    backup: tuple[Path, Everything], install: Install, field: str, value: int
) -> None:
    folder, _ = backup
    newer = msgspec.structs.replace(manifest.read(folder), product="9.9.9", **{field: value})
    (folder / manifest.NAME).unlink()
    await manifest.write(folder, newer)

    with pytest.raises(MadeByNewer, match=r"9\.9\.9"):
        await restore(await install(), folder, silent)


async def test_what_is_no_backup_is_refused(install: Install, tmp_path: Path) -> None:
    parts = await install()
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(NotWhole, match=folder.name):
            await restore(parts, folder, silent)


class CutOffError(Exception):
    """What happens to a process in the middle of something."""


def cut_off_at(phase: str) -> Callable[[str, int, int | None], None]:
    def report(what: str, done: int, total: int | None) -> None:
        if what == phase and (done or total is None):
            raise CutOffError

    return report


@pytest.mark.parametrize("phase", ["queue", "claims", "predictions", "blobs", "verifying"])
async def test_a_backup_that_is_cut_off_is_never_taken_for_one(
    install: Install, tmp_path: Path, phase: str
) -> None:
    everything, parts = Everything(), await install()
    await everything.fill(parts)
    folder = tmp_path / "backup"
    # As a killed one leaves it, which cleans nothing up.
    (tmp_path / "backup.unfinished").mkdir()
    (tmp_path / "backup.unfinished" / "queue.records").write_bytes(b"half")

    with pytest.raises(CutOffError):
        await back_up(parts, folder, cut_off_at(phase))
    assert not folder.exists()
    with pytest.raises(NotWhole):
        await restore(await install(), tmp_path / "backup.unfinished", silent)

    await back_up(parts, folder, silent)
    restored = await install()
    await restore(restored, folder, silent)
    assert await everything.is_in(restored)


@pytest.mark.parametrize("phase", ["ledger", "predictions", "begun", "blobs", "claims", "queue"])
async def test_a_restore_that_is_cut_off_goes_on_when_it_is_done_again(
    backup: tuple[Path, Everything], install: Install, phase: str
) -> None:
    folder, everything = backup
    restored = await install()

    with pytest.raises(CutOffError):
        await restore(restored, folder, cut_off_at(phase))
    with pytest.raises(CutOffError):
        await restore(restored, folder, cut_off_at(phase))
    await restore(restored, folder, silent)

    assert await everything.is_in(restored)
    with pytest.raises(NotEmptyYet):  # now it is somebody's
        await restore(restored, folder, silent)


async def test_nothing_is_restored_over_anything(
    backup: tuple[Path, Everything], install: Install, tmp_path: Path
) -> None:
    folder, _ = backup
    with_row, with_ticket, with_claim, half = [await install() for _ in range(4)]
    await with_row.ledger.record([succeeded()])
    for parts in (with_ticket, with_claim):
        await parts.broker.declare(MODELS)
    await with_ticket.broker.publish(a_ticket())
    await with_claim.broker.claim("ab", Claim(new_id(), "ab"))
    await half.broker.declare(MODELS)
    await back_up(half, tmp_path / "other", silent)
    with pytest.raises(CutOffError):
        await restore(half, folder, cut_off_at("queue"))

    for parts in (with_row, with_ticket, with_claim):
        with pytest.raises(NotEmptyYet, match="empty installation"):
            await restore(parts, folder, silent)
    with pytest.raises(NotEmptyYet, match="another backup"):
        await restore(half, tmp_path / "other", silent)


async def test_a_backup_is_never_written_over_anything(
    backup: tuple[Path, Everything], install: Install, tmp_path: Path
) -> None:
    folder, _ = backup
    before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}

    with pytest.raises(FolderTaken, match="there already"):
        await back_up(await install(), folder, silent)

    assert {each.name: each.stat().st_mtime_ns for each in folder.iterdir()} == before


async def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    install: Install, tmp_path: Path
) -> None:
    everything, parts = Everything(), await install()
    await everything.fill(parts)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limit[1]))
    try:
        with pytest.raises(CannotWrite, match=r"blobs\.000001\.records"):
            await back_up(parts, tmp_path / "backup", silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [each.name for each in tmp_path.iterdir() if "backup." in each.name] == []


async def test_a_damaged_input_is_told_and_the_rest_is_backed_up(
    install: Install, tmp_path: Path
) -> None:
    everything, parts = Everything(), await install()
    await everything.fill(parts)
    damaged = hashlib.sha256(b"damaged").hexdigest()
    await parts.blobs.put(new_id(), b"not what its name says", damaged)

    made = await back_up(parts, tmp_path / "backup", silent)

    assert made.blobs_missing == 1
    restored = await install()
    await restore(restored, tmp_path / "backup", silent)
    assert await everything.is_in(restored)


async def test_many_blobs_go_into_several_files(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.backup.BLOB_FILE_BYTES_MAX", 1000)
    parts = await install()
    await parts.broker.declare(MODELS)
    contents = [os.urandom(400) for _ in range(10)]
    prediction_id = new_id()
    for content in contents:
        await parts.blobs.put(prediction_id, content, hashlib.sha256(content).hexdigest())

    made = await back_up(parts, tmp_path / "backup", silent)

    assert len(made.blob_files()) >= 3
    restored = await install()
    await restore(restored, tmp_path / "backup", silent)
    assert await all_of(restored.blobs) == await all_of(parts.blobs)


async def all_of(blobs: Blobs) -> set[tuple[str, str]]:
    return {
        (week.isoformat(), name)
        for week in await blobs.weeks()
        for name in [each async for each in blobs.names(week)]
    }
