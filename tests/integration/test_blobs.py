"""Blobs in a local folder."""

import asyncio
import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from blobs import BlobMissing, Blobs
from contract.errors import BlobsUnavailable


def named(content: bytes) -> tuple[bytes, str]:
    return content, hashlib.sha256(content).hexdigest()


def path_of(folder: Path, sha256: str) -> Path:
    return folder / sha256[:2] / sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "the blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    return Blobs.open(folder.as_uri())


@pytest.mark.parametrize("size", [0, 1, 100_000, 6_000_000])
async def test_what_was_put_comes_back(blobs: Blobs, size: int) -> None:
    content, sha256 = named(os.urandom(size))
    assert not await blobs.exists(sha256)

    await blobs.put(content, sha256)

    assert await blobs.exists(sha256)
    assert await blobs.get(sha256) == content


async def test_a_blob_that_never_was_is_missing(blobs: Blobs) -> None:
    with pytest.raises(BlobMissing):
        await blobs.get("0" * 64)


def test_the_folder_is_for_its_owner_alone(blobs: Blobs, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BlobsUnavailable, match="folder"):
        Blobs.open((tmp_path / "file" / "blobs").as_uri())


async def test_another_process_sees_the_blob_at_once(blobs: Blobs, folder: Path) -> None:
    content, sha256 = named(b"shared")
    other = Blobs.open(folder.as_uri())

    await blobs.put(content, sha256)

    assert await other.get(sha256) == content


async def test_many_at_once_may_put_the_same_blob(blobs: Blobs, folder: Path) -> None:
    content, sha256 = named(os.urandom(300_000))

    async def put_and_get() -> bytes:
        await blobs.put(content, sha256)
        return await blobs.get(sha256)

    assert set(await asyncio.gather(*[put_and_get() for _ in range(32)])) == {content}
    assert [each.name for each in path_of(folder, sha256).parent.iterdir()] == [sha256]


async def test_a_damaged_blob_is_missing_until_it_is_put_again(
    blobs: Blobs, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, sha256 = named(b"precious")
    await blobs.put(content, sha256)
    path_of(folder, sha256).write_bytes(b"")  # what a power failure makes of an unsynced file

    with pytest.raises(BlobMissing, match="damaged"):
        await blobs.get(sha256)
    assert "blobs.damaged" in caplog.messages

    await blobs.put(content, sha256)
    assert await blobs.get(sha256) == content


async def test_a_blob_and_the_way_to_it_are_on_the_disk_when_put_returns(
    blobs: Blobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    really_sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    content, sha256 = named(b"accepted")
    path = path_of(folder, sha256)

    await blobs.put(content, sha256)
    assert synced == [path, path.parent, folder]

    await blobs.put(content, sha256)  # whoever put it first may not have got as far as the sync
    assert synced[3:] == [path, path.parent]


async def test_a_disk_that_takes_no_more_leaves_no_half_blob(
    blobs: Blobs, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, sha256 = named(os.urandom(200_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(BlobsUnavailable):
            await blobs.put(content, sha256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "blobs.failed" in caplog.messages
    assert not await blobs.exists(sha256)
    await blobs.put(content, sha256)
    assert await blobs.get(sha256) == content


PUT_FOR_EVER = """
import asyncio, hashlib, os, sys
from blobs import Blobs

async def main():
    blobs = Blobs.open(sys.argv[1])
    while True:
        content = os.urandom(2_000_000)
        await blobs.put(content, hashlib.sha256(content).hexdigest())
        print("put", flush=True)

asyncio.run(main())
"""


def names_left_by_killed_processes(folder: Path) -> list[str]:
    for puts_before_kill in (1, 2, 3):
        with subprocess.Popen(
            [sys.executable, "-c", PUT_FOR_EVER, folder.as_uri()],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            for _ in range(puts_before_kill):
                process.stdout.readline()
            process.kill()

    # A temporary file of the killed process has a `#` in its name, and is never looked for.
    return [path.name for path in folder.glob("*/*") if "#" not in path.name]


async def test_a_process_killed_while_it_puts_leaves_no_half_blob(
    blobs: Blobs, folder: Path
) -> None:
    names = await asyncio.to_thread(names_left_by_killed_processes, folder)
    assert len(names) >= 6
    for name in names:
        assert len(await blobs.get(name)) == 2_000_000
