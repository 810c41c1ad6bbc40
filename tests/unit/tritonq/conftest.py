"""Fixtures of the client's tests: a played gateway, and nothing of this machine's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.played_gateway import Gateway, played_gateway
from tritonq.cli import app

Command = Callable[..., Result]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with played_gateway() as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _no_service_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("TRITONQ_URL", raising=False)
    monkeypatch.delenv("TRITONQ_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tritonq(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("TRITONQ_URL", gateway.url)
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.jpg").write_bytes(b"\xff\xd8\xff" + str(number).encode())
    return folder
