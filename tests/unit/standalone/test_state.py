"""The state folder: one owner, secrets for nobody else, and where things listen."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from standalone.server import CannotStart
from standalone.state import Running, State, find_running, owned

RUNNING = Running(
    pid=1,
    api_url="http://127.0.0.1:8080",
    docs_url="http://127.0.0.1:8080/docs",
    metrics_url="http://127.0.0.1:8080/metrics",
    dispatcher_metrics_url="http://127.0.0.1:8081/metrics",
    triton_http_url="http://127.0.0.1:8000",
    triton_grpc_address="127.0.0.1:8001",
    triton_metrics_url="http://127.0.0.1:8002/metrics",
    models=("identity",),
)


def test_a_second_owner_is_refused_naming_the_first(tmp_path: Path) -> None:
    refusal = rf"already running on {tmp_path} \(process {os.getpid()}\)"
    with owned(tmp_path), pytest.raises(CannotStart, match=refusal), owned(tmp_path):
        pass


def test_a_folder_can_be_owned_again_after_its_owner_left(tmp_path: Path) -> None:
    with owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_a_secret_stays_the_same_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with owned(tmp_path) as state:
        first = state.secret("token")
        assert len(first) >= 32
        mode = state.secret_file("token").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(state.secret_file("token").parent.stat().st_mode) == 0o700
    with owned(tmp_path) as state:
        assert state.secret("token") == first
        assert state.secret("other") != first


def test_a_running_installation_is_found_by_its_folder(tmp_path: Path) -> None:
    with owned(tmp_path) as state:
        assert find_running(tmp_path) is None
        state.announce(RUNNING)
        assert find_running(tmp_path) == RUNNING
    assert find_running(tmp_path) is None


def test_what_a_killed_run_announced_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1")
    (tmp_path / "running.json").write_text(RUNNING.to_json())
    assert find_running(tmp_path) is None
    with owned(tmp_path):
        assert find_running(tmp_path) is None


def test_a_torn_announcement_is_no_announcement(tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text('{"pid": 1, ')
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert find_running(tmp_path) is None
        (tmp_path / "running.json").write_text('{"pid": 1}')
        assert find_running(tmp_path) is None


def test_white_space_in_the_path_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="white space"), owned(tmp_path / "a b"):
        pass
    assert not (tmp_path / "a b").exists()


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="Not a directory"), owned(tmp_path / "file" / "state"):
        pass


@pytest.mark.parametrize(
    "write",
    [
        lambda state: state.secret("token"),
        lambda state: state.folder("nats"),
        lambda state: state.announce(RUNNING),
    ],
)
def test_a_full_disk_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[State], object]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with owned(tmp_path) as state:
        monkeypatch.setattr(os, "fsync", full)
        monkeypatch.setattr(Path, "mkdir", full)
        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(CannotStart, match=f"cannot write {tmp_path}/.*: No space left"):
            write(state)
        monkeypatch.undo()
