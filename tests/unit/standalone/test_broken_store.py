"""What the log of a nats-server says of its store."""

from pathlib import Path

import pytest

from standalone.broken_store import StoreRemedy
from standalone.nats import Nats
from standalone.server import log_path

AT = "[1] 2026/11/21 16:54:47.233454 [ERR] "
FAILED = "JetStream failed to store a msg on stream '$G > PREDICTIONS'"
BROKEN = {
    "the first failure": "Critical write error: write /state/msgs/3.blk: no space left on device",
    "a later one, where there was no room for that line": (
        f"{FAILED}: write /state/msgs/300.blk: no space left on device"
    ),
}
WELL = {
    "a full stream": f"{FAILED}: maximum messages exceeded",
    "a repetition": f"{FAILED}: wrong last sequence: 7",
}


@pytest.fixture
async def remedy(tmp_path: Path) -> StoreRemedy:
    nats = Nats(tmp_path, 1, 2, "token")
    nats.store.mkdir(parents=True)
    log_path(nats).write_text(f"{AT}{BROKEN['the first failure']}\n")  # before its last start
    remedy = StoreRemedy(nats)
    await remedy.take_stock(0)
    return remedy


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
async def test_a_failed_write_has_broken_the_store(
    remedy: StoreRemedy, tmp_path: Path, line: str
) -> None:
    assert await remedy.ailment(0) == ""
    with log_path(Nats(tmp_path, 1, 2, "token")).open("a") as log:
        log.write(f"{AT}{line}")
        log.flush()
        assert await remedy.ailment(0) == "", "the line is not complete yet"
        log.write("\n")
    assert "its store broke" in await remedy.ailment(0)


@pytest.mark.parametrize("line", WELL.values(), ids=WELL)
async def test_what_jetstream_refuses_for_good_reason_has_not(
    remedy: StoreRemedy, tmp_path: Path, line: str
) -> None:
    with log_path(Nats(tmp_path, 1, 2, "token")).open("a") as log:
        log.write(f"{AT}{line}\n")
    assert await remedy.ailment(0) == ""
