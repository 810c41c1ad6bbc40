"""Fixtures of the client's tests: a played gateway, and nothing of this machine's own."""

from collections.abc import Iterator

import pytest

from tests.played_gateway import Gateway, played_gateway


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
