"""What an operator may set, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dispatcher.settings import DispatcherSettings

DSN = "postgresql://tritonq:hunter2@localhost/tritonq"


@pytest.fixture(autouse=True)
def least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_POSTGRES_DSN", DSN)
    monkeypatch.setenv("DISPATCHER_BLOBS_URL", "file:///tmp/blobs")


def test_what_is_not_set_has_a_sensible_default() -> None:
    settings = DispatcherSettings()
    assert settings.models == ()
    assert settings.calls_in_flight == 2
    assert settings.decode_threads >= 1
    assert settings.name


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN", "hunter3")
    assert "hunter" not in repr(DispatcherSettings())
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN_FILE", "/one/too/many")
    with pytest.raises(ValidationError) as refused:
        DispatcherSettings()
    assert "hunter" not in str(refused.value)


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter4\n")
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN_FILE", str(tmp_path / "token"))
    token = DispatcherSettings().nats_token
    assert token is not None
    assert token.get_secret_value() == "hunter4"


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISPATCHER_POSTGRES_DSN_FILE", str(tmp_path))
    with pytest.raises(ValidationError, match="both"):
        DispatcherSettings()


def test_a_secret_file_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISPATCHER_NATS_TOKEN_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ValidationError, match="nats_token_file"):
        DispatcherSettings()


def test_models_are_listed_by_comma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_MODELS", "efficientnet_lite0, identity,")
    assert DispatcherSettings().models == ("efficientnet_lite0", "identity")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRITON_ADDRESS", "localhost"),
        ("NAMESPACE", "a.b"),
        ("NAME", "a name"),
        ("ATTEMPTS_MAX", "0"),
        ("ATTEMPTS_MAX", "51"),
        ("HELD_BYTES_MAX", "-1"),
        ("KEEP_INPUTS", "some"),
        ("DRAIN_S_MAX", "-1"),
        ("CALLS_IN_FLIGHT", "0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DISPATCHER_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        DispatcherSettings()
