"""What the doctor finds, on this very machine."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from standalone.doctor import Check, examine
from standalone.installation import Options
from standalone.server import LOOPBACK


def found(options: Options, name: str) -> Check:
    return next(check for check in examine(options) if check.name == name)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "repository").mkdir()
    return Options(state=tmp_path / "state", repository=tmp_path / "repository")


def test_every_check_that_fails_names_a_remedy(options: Options, tmp_path: Path) -> None:
    ill = replace(options, state=tmp_path / "a b", triton_environment=tmp_path / "absent")
    checks = examine(ill)
    assert {check.name for check in checks if not check.ok} == {
        "paths",
        "triton environment",
        "models",
    }
    assert all(bool(check.remedy) is not check.ok for check in checks)


def test_nothing_is_made_by_looking(options: Options) -> None:
    examine(options)
    assert not options.state.exists()


def test_a_wanted_port_that_is_taken_is_found(options: Options) -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        assert not found(replace(options, ports={"api": port}), f"port {port}").ok
    assert found(replace(options, ports={"api": port}), f"port {port}").ok


def test_a_built_model_is_found(options: Options) -> None:
    assert found(options, "models").remedy == "run `make weights`"
    (options.repository / "identity" / "1").mkdir(parents=True)
    (options.repository / "identity" / "config.pbtxt").touch()
    (options.repository / "identity" / "1" / "model.onnx").touch()
    assert found(options, "models").detail == "built: identity"


@pytest.mark.triton
def test_the_environment_that_setup_makes_is_fine(options: Options) -> None:
    check = found(options, "triton environment")
    assert check.ok, check.remedy
