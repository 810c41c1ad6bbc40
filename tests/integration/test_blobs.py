"""Blobs in a local folder."""

import asyncio
import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore

from blobs import BlobMissing, Blobs, NewBlob, disk
from contract.errors import BlobsUnavailable
from contract.ids import PredictionId, accepted_at_ms, week_of
from tests.ended import new_id

ID = new_id()
WEEK = week_of(ID)
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
WEEK_MS = 7 * 24 * 3600 * 1000


def named(content: bytes) -> tuple[bytes, str]:
    return content, hashlib.sha256(content).hexdigest()


def path_of(folder: Path, sha256: str) -> Path:
    return folder / f"{WEEK:%Y_%m_%d}" / sha256[:2] / sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "the blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    return Blobs.open(folder.as_uri())


@pytest.mark.parametrize("size", [0, 1, 100_000, 6_000_000])
async def test_what_was_put_comes_back(blobs: Blobs, size: int) -> None:
    content, sha256 = named(os.urandom(size))
    assert not await blobs.exists(ID, sha256)

    await blobs.put(ID, content, sha256)

    assert await blobs.exists(ID, sha256)
    assert await blobs.get(ID, sha256) == content


async def test_a_blob_that_never_was_is_missing(blobs: Blobs) -> None:
    with pytest.raises(BlobMissing):
        await blobs.get(ID, "0" * 64)


def test_the_folder_is_for_its_owner_alone(blobs: Blobs, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BlobsUnavailable, match="folder"):
        Blobs.open((tmp_path / "file" / "blobs").as_uri())


async def test_another_process_sees_the_blob_at_once(blobs: Blobs, folder: Path) -> None:
    content, sha256 = named(b"shared")
    other = Blobs.open(folder.as_uri())

    await blobs.put(ID, content, sha256)

    assert await other.get(ID, sha256) == content


async def test_many_at_once_may_put_the_same_blob(blobs: Blobs, folder: Path) -> None:
    content, sha256 = named(os.urandom(300_000))

    async def put_and_get() -> bytes:
        await blobs.put(ID, content, sha256)
        return await blobs.get(ID, sha256)

    assert set(await asyncio.gather(*[put_and_get() for _ in range(32)])) == {content}
    assert [each.name for each in path_of(folder, sha256).parent.iterdir()] == [sha256]


async def test_a_damaged_blob_is_missing_until_it_is_put_again(
    blobs: Blobs, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, sha256 = named(b"precious")
    await blobs.put(ID, content, sha256)
    path_of(folder, sha256).write_bytes(b"")  # what a power failure makes of an unsynced file

    with pytest.raises(BlobMissing, match="damaged"):
        await blobs.get(ID, sha256)
    assert "blobs.damaged" in caplog.messages

    await blobs.put(ID, content, sha256)
    assert await blobs.get(ID, sha256) == content


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was made durable by itself, in this order; the disk does as if it knew no other way."""
    synced: list[Path] = []
    really_sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("blobs.disk._SYNCED_WHOLE", {})
    return synced


async def test_a_blob_and_the_way_to_it_are_on_the_disk_when_put_returns(
    synced: list[Path], folder: Path
) -> None:
    blobs = Blobs.open(folder.as_uri())
    content, sha256 = named(b"accepted")
    path = path_of(folder, sha256)

    await blobs.put(ID, content, sha256)
    assert synced == [path, path.parent, path.parent.parent, folder]

    await blobs.put(ID, content, sha256)  # whoever put it first may not have got as far as the sync
    assert synced[4:] == [path, path.parent]


async def put_together(blobs: Blobs, *several: tuple[bytes, str]) -> int:
    """Put blobs in as few calls as it takes; returns their number."""
    puts = blobs.puts([NewBlob(ID, *each) for each in several])
    for put in puts:
        await put()
    return len(puts)


@pytest.fixture
def whole_syncs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """For each sync of the whole file system the blobs that were in place by then."""
    seen: list[list[str]] = []
    really_sync = disk._sync_all

    def sync_all(descriptor: int) -> None:
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append(sorted(path.name for path in folder.glob("*/*/*")))
        really_sync(descriptor)

    monkeypatch.setattr(disk, "_sync_all", sync_all)
    monkeypatch.setattr(disk, "_unwritten_bytes", lambda: 0)
    return seen


async def test_blobs_put_together_share_one_sync_that_comes_after_all_of_them(
    whole_syncs: list[list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SYNCED_WHOLE", {disk._kind_of(folder.parent): "this one"})
    blobs = Blobs.open(folder.as_uri())
    several = [named(b"%d" % number) for number in range(20)]

    assert await put_together(blobs, *several) == 1

    assert whole_syncs == [sorted(sha256 for _, sha256 in several)]
    for content, sha256 in several:
        assert await blobs.get(ID, sha256) == content


async def test_nobody_waits_for_what_others_have_left_unwritten(
    synced: list[Path], whole_syncs: list[list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SYNCED_WHOLE", {disk._kind_of(folder.parent): "this one"})
    monkeypatch.setattr(disk, "_unwritten_bytes", lambda: disk.UNWRITTEN_BYTES_MAX + 1)
    blobs = Blobs.open(folder.as_uri())
    several = [named(b"%d" % number) for number in range(3)]

    await put_together(blobs, *several)

    assert whole_syncs == []
    assert {path_of(folder, sha256) for _, sha256 in several} < set(synced)


async def test_what_cannot_be_made_durable_is_not_stored_as_far_as_we_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SYNCED_WHOLE", {disk._kind_of(folder.parent): "this one"})
    monkeypatch.setattr(disk, "_unwritten_bytes", lambda: 0)
    blobs = Blobs.open(folder.as_uri())
    monkeypatch.setattr(disk._LIBC, "syncfs", lambda _: -1)

    with pytest.raises(BlobsUnavailable):
        await blobs.put(ID, *named(b"lost"))


def test_only_file_systems_known_to_keep_the_promise_are_synced_as_a_whole() -> None:
    assert disk._kind_of(Path("/proc")) not in disk._SYNCED_WHOLE
    assert disk._kind_of(Path("/no such folder")) not in disk._SYNCED_WHOLE


def test_it_is_seen_how_much_is_unwritten(tmp_path: Path) -> None:
    (tmp_path / "dirt").write_bytes(bytes(1_000_000))
    assert 0 < disk._unwritten_bytes() <= MEMORY_BYTES


async def test_a_good_blob_is_never_replaced(blobs: Blobs, folder: Path) -> None:
    """The new one would be torn after a power failure, where it came before the sync."""
    content, sha256 = named(os.urandom(50_000))
    await blobs.put(ID, content, sha256)
    first = path_of(folder, sha256).stat().st_ino

    await asyncio.gather(*[blobs.put(ID, content, sha256) for _ in range(8)])

    assert path_of(folder, sha256).stat().st_ino == first
    assert [each.name for each in path_of(folder, sha256).parent.iterdir()] == [sha256]


async def test_who_finds_a_good_blob_right_after_writing_its_own_leaves_it(
    blobs: Blobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, sha256 = named(os.urandom(50_000))
    other, write = Blobs.open(folder.as_uri()), disk._write
    inodes: list[int] = []

    def written_by_two(path: Path, written: bytes) -> None:
        monkeypatch.setattr(disk, "_write", write)
        asyncio.run(other.put(ID, content, sha256))
        inodes.append(path_of(folder, sha256).stat().st_ino)
        write(path, written)

    monkeypatch.setattr(disk, "_write", written_by_two)
    await blobs.put(ID, content, sha256)

    assert [path_of(folder, sha256).stat().st_ino] == inodes
    assert [each.name for each in path_of(folder, sha256).parent.iterdir()] == [sha256]


async def test_a_folder_without_links_takes_blobs(
    blobs: Blobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    content, sha256 = named(b"on a stick")

    await blobs.put(ID, content, sha256)

    assert await blobs.get(ID, sha256) == content
    assert [each.name for each in path_of(folder, sha256).parent.iterdir()] == [sha256]


async def test_a_disk_that_takes_no_more_leaves_no_half_blob(
    blobs: Blobs, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, sha256 = named(os.urandom(200_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(BlobsUnavailable):
            await blobs.put(ID, content, sha256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "blobs.failed" in caplog.messages
    assert not await blobs.exists(ID, sha256)
    await blobs.put(ID, content, sha256)
    assert await blobs.get(ID, sha256) == content


PUT_FOR_EVER = """
import asyncio, hashlib, os, sys
from blobs import Blobs
from contract.ids import PredictionId

async def main():
    blobs = Blobs.open(sys.argv[1])
    while True:
        content = os.urandom(2_000_000)
        await blobs.put(PredictionId(sys.argv[2]), content, hashlib.sha256(content).hexdigest())
        print("put", flush=True)

asyncio.run(main())
"""


def names_left_by_killed_processes(folder: Path) -> list[str]:
    for puts_before_kill in (1, 2, 3):
        with subprocess.Popen(
            [sys.executable, "-c", PUT_FOR_EVER, folder.as_uri(), ID],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            for _ in range(puts_before_kill):
                process.stdout.readline()
            process.kill()

    # A temporary file of the killed process has a `#` in its name, and is never looked for.
    return [path.name for path in folder.glob("*/*/*") if "#" not in path.name]


async def test_a_process_killed_while_it_puts_leaves_no_half_blob(
    blobs: Blobs, folder: Path
) -> None:
    names = await asyncio.to_thread(names_left_by_killed_processes, folder)
    assert len(names) >= 6
    for name in names:
        assert len(await blobs.get(ID, name)) == 2_000_000


def in_week(number: int) -> PredictionId:
    """An id accepted so many weeks after ID."""
    return new_id(accepted_at_ms(ID) + number * WEEK_MS)


async def test_weeks_are_listed_and_what_is_no_week_is_not(blobs: Blobs, folder: Path) -> None:
    assert await blobs.weeks() == []
    content, sha256 = named(b"input")
    for number in (1, -1, 0):
        await blobs.put(in_week(number), content, sha256)
    for other in ("lost+found", "2026_13_01", "ab"):
        (folder / other).mkdir()

    weeks = [WEEK + timedelta(weeks=number) for number in (-1, 0, 1)]
    assert await blobs.weeks() == weeks


async def test_a_removed_week_takes_its_blobs_and_no_others(blobs: Blobs, folder: Path) -> None:
    content, sha256 = named(b"the same bytes in two weeks")
    other = named(b"more of the first")
    await blobs.put(in_week(0), content, sha256)
    await blobs.put(in_week(0), *other)
    await blobs.put(in_week(1), content, sha256)
    # What a killed process leaves goes with its week.
    (path_of(folder, sha256).parent / f"{sha256}#1").write_bytes(b"half")

    assert await blobs.remove_week(WEEK) == 2

    assert not await blobs.exists(in_week(0), sha256)
    assert await blobs.get(in_week(1), sha256) == content
    assert await blobs.weeks() == [WEEK + timedelta(weeks=1)]
    assert await blobs.remove_week(WEEK) == 0


async def test_two_may_remove_a_week_at_once_and_each_blob_is_counted_once(blobs: Blobs) -> None:
    for number in range(100):
        await blobs.put(ID, *named(b"%d" % number))

    removed = await asyncio.gather(*[blobs.remove_week(WEEK) for _ in range(4)])

    assert sum(removed) == 100
    assert await blobs.weeks() == []


async def test_a_store_that_refuses_to_delete_what_is_gone_is_asked_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GCS and Azure do, where two dispatchers remove a week; obstore's own folder does, too."""
    folder.mkdir(exist_ok=True)
    remote = Blobs(LocalStore(folder), None)
    for number in range(3):
        await remote.put(ID, *named(b"%d" % number))
    delete = obstore.delete_async

    async def somebody_was_faster(store: LocalStore, paths: list[str]) -> None:
        await delete(store, paths[:1])
        await delete(store, paths)

    with monkeypatch.context() as patched:
        patched.setattr("blobs.blobs.obstore.delete_async", somebody_was_faster)
        with pytest.raises(BlobsUnavailable):
            await remote.remove_week(WEEK)

    await remote.remove_week(WEEK)
    assert [each async for each in remote.names(WEEK)] == []


async def test_a_week_that_was_removed_takes_blobs_again_and_syncs_all_the_way(
    synced: list[Path], folder: Path
) -> None:
    blobs = Blobs.open(folder.as_uri())
    content, sha256 = named(b"late")
    await blobs.put(ID, content, sha256)
    await blobs.remove_week(WEEK)
    synced.clear()

    await blobs.put(ID, content, sha256)

    path = path_of(folder, sha256)
    assert synced == [path, path.parent, path.parent.parent, folder]
    assert await blobs.get(ID, sha256) == content


async def test_the_names_of_a_week_are_listed_and_nothing_else(blobs: Blobs, folder: Path) -> None:
    assert [each async for each in blobs.names(WEEK)] == []
    named_so = [named(b"%d" % number) for number in range(5)]
    for content, sha256 in named_so:
        await blobs.put(ID, content, sha256)
    await blobs.put(in_week(1), *named(b"another week"))
    (path_of(folder, named_so[0][1]).parent / "half#1").write_bytes(b"half")

    names = [each async for each in blobs.names(WEEK)]

    assert sorted(names) == sorted(sha256 for _, sha256 in named_so)
