from collections.abc import Iterator

import pytest

from dispatcher import outages
from tests.played_executor import Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(outages, "RETRY_S_FIRST", 0.0)
    stage = Stage()
    yield stage
    stage.encoder.close()
