from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings

ENOUGH = {
    "GATEWAY_TOKENS": "alice:alice-token-1",
    "GATEWAY_POSTGRES_DSN": "postgresql://u:secret-password@127.0.0.1/db",
    "GATEWAY_BLOBS_URL": "file:///blobs",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def setup(**others: str) -> None:
        for name, value in {**ENOUGH, **others}.items():
            monkeypatch.setenv(name, value)

    return setup


def read() -> GatewaySettings:
    return GatewaySettings()


def test_defaults_are_safe_a_loopback_address_and_a_token(environment: Any) -> None:
    environment()
    settings = read()
    assert (settings.host, settings.auth) == ("127.0.0.1", "token")


def test_a_secret_may_stand_in_a_file(environment: Any, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("nats-token-1\n")
    environment(GATEWAY_NATS_TOKEN_FILE=str(secret))
    token = read().nats_token
    assert token is not None
    assert token.get_secret_value() == "nats-token-1"


def test_models_are_a_list_by_comma(environment: Any) -> None:
    environment(GATEWAY_MODELS="b, a,")
    assert read().models == ("b", "a")


def test_the_servers_of_a_nats_cluster_are_listed_by_comma(environment: Any) -> None:
    environment(GATEWAY_NATS_URL="nats://a:4222, tls://b,nats://[::1]:4223")
    assert read().nats_url == "nats://a:4222,tls://b,nats://[::1]:4223"


@pytest.mark.parametrize(
    "url",
    ["", "a:4222", "nats://a:4222,", "nats://a:x", "nats://a:99999", "http://a", "nats://a/b"],
)
def test_a_nats_server_that_is_no_url_is_refused(environment: Any, url: str) -> None:
    environment(GATEWAY_NATS_URL=url)
    with pytest.raises(ValidationError, match="nats://host:port"):
        read()


def test_the_queue_is_kept_on_one_server_or_on_three_or_five(environment: Any) -> None:
    environment()
    assert read().queue_replicas == 1
    environment(GATEWAY_QUEUE_REPLICAS="3")
    assert read().queue_replicas == 3
    for number in ("0", "2", "4", "three"):  # two survive no more than one
        environment(GATEWAY_QUEUE_REPLICAS=number)
        with pytest.raises(ValidationError, match="1, 3 or 5"):
            read()


def test_a_public_url_is_a_base_however_it_is_written(environment: Any) -> None:
    environment(GATEWAY_PUBLIC_URL="https://inference.example/v1/")
    assert read().public_url == "https://inference.example"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"GATEWAY_AUTH": "none", "GATEWAY_HOST": "0.0.0.0"}, "loopback"),
        ({"GATEWAY_AUTH": "none", "GATEWAY_HOST": "gateway.example"}, "loopback"),
        ({"GATEWAY_TOKENS": ""}, "tokens"),
        ({"GATEWAY_TOKENS_FILE": "/nowhere"}, "not both"),
        ({"GATEWAY_NATS_TOKEN_FILE": "/nowhere/at/all"}, "cannot read"),
        ({"GATEWAY_PORT": "70000"}, "65535"),
        ({"GATEWAY_NAMESPACE": "a.b"}, "pattern"),
        ({"GATEWAY_PUBLIC_URL": "inference.example"}, "http"),
        ({"GATEWAY_BODY_BYTES_MAX": "1048576", "GATEWAY_BODIES_BYTES_MAX": "4096"}, "fits"),
        ({"GATEWAY_WAITERS_MAX": "10", "GATEWAY_REQUESTS_MAX": "5"}, "starve"),
    ],
)
def test_settings_that_make_no_sense_are_refused_without_showing_a_secret(
    environment: Any, changed: dict[str, str], reason: str
) -> None:
    environment(**changed)
    with pytest.raises(ValidationError, match=reason) as refused:
        read()
    assert "secret-password" not in str(refused.value)
    assert "alice-token-1" not in str(refused.value)


def test_no_secret_is_in_the_text_of_the_settings(environment: Any) -> None:
    environment()
    assert "secret-password" not in repr(read())
    assert "alice-token-1" not in repr(read())
