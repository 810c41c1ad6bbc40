"""How long both processes keep what has ended."""

import pytest
from pydantic import ValidationError

from configuration.process import ProcessSettings
from dispatcher.settings import DispatcherSettings
from gateway.settings import GatewaySettings

BOTH = pytest.mark.parametrize(
    ("kind", "prefix"), [(GatewaySettings, "GATEWAY_"), (DispatcherSettings, "DISPATCHER_")]
)


def settings(
    monkeypatch: pytest.MonkeyPatch, kind: type[ProcessSettings], prefix: str, days: str | None
) -> ProcessSettings:
    monkeypatch.setenv(f"{prefix}POSTGRES_DSN", "postgresql://localhost/tritonq")
    monkeypatch.setenv(f"{prefix}BLOBS_URL", "file:///blobs")
    monkeypatch.setenv("GATEWAY_AUTH", "none")
    if days is not None:
        monkeypatch.setenv(f"{prefix}RETENTION_DAYS", days)
    return kind()


@BOTH
@pytest.mark.parametrize(("days", "kept"), [(None, 90), ("0", 0), ("7", 7), ("3650", 3650)])
def test_outcomes_are_kept_for_days_or_for_ever(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ProcessSettings],
    prefix: str,
    days: str | None,
    kept: int,
) -> None:
    assert settings(monkeypatch, kind, prefix, days).retention_days == kept


@BOTH
@pytest.mark.parametrize("days", ["1", "6", "-1", "40000", "a week"])
def test_less_than_a_week_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[ProcessSettings], prefix: str, days: str
) -> None:
    with pytest.raises(ValidationError, match="retention_days"):
        settings(monkeypatch, kind, prefix, days)
