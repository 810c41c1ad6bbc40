"""Every knob of the gateway: its unit, its default, and why the default is what it is.

Built once in `__main__`. The rest of the code receives plain values, never this class.
"""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from configuration.process import ProcessSettings

MIB = 1024 * 1024


class GatewaySettings(ProcessSettings):
    """Prefix `GATEWAY_`."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    SECRETS = (*ProcessSettings.SECRETS, "tokens")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    public_url: str = Field(
        "",
        description="The URL callers reach us by, for the links we give out. Empty: the one they "
        "asked. Set it behind a proxy.",
    )
    auth: Literal["token", "none"] = Field(
        "token", description="`none` lets everybody in, and is refused unless HOST is loopback."
    )
    tokens: SecretStr = Field(
        SecretStr(""), description="`name:token,name:token`; the name owns what it submits."
    )
    tokens_file: Path | None = Field(None, description="A file that holds TOKENS.")

    ledger_connections_max: int = Field(
        4, ge=1, le=100, description="Connections to Postgres; GETs share them."
    )
    queue_bytes_max: int = Field(
        20 * 1024 * MIB, ge=MIB, description="Bytes the queue may hold before submits get 429."
    )
    queue_tickets_max: int = Field(
        200_000, ge=1, description="Predictions the queue may hold before submits get 429."
    )
    claims_max: int = Field(
        2_000_000,
        ge=1,
        description="Idempotency keys that are remembered, each in 340 bytes; more get 429.",
    )
    queue_replicas: Literal[1, 3, 5] = Field(
        1,
        description="NATS servers that keep the queue, of a cluster of at least as many; the same "
        "for every gateway.",
    )

    keep_inputs: Literal["all", "failed", "none"] = Field(
        "all",
        description="Whose input files are kept of what a gateway ends (canceled, past their "
        "deadline); the same as the dispatcher's.",
    )

    body_bytes_max: int = Field(
        20 * MIB, ge=1024, le=1024 * MIB, description="Bytes of one request body; more is 413."
    )
    bodies_bytes_max: int = Field(
        256 * MIB, ge=1024, description="Bytes of all bodies being read at once; more is 429."
    )
    body_wait_s: float = Field(
        30.0, gt=0, le=600, description="Time for a body, and a second more per 32 KiB; then 408."
    )
    header_bytes_max: int = Field(
        8 * 1024, ge=1024, le=64 * 1024, description="Bytes of one request's headers; more is 431."
    )
    requests_max: int = Field(
        2048, ge=1, description="Requests in progress at once, waiting ones included; more is 429."
    )
    waiters_max: int = Field(
        1024, ge=1, description="Of these, requests that wait for an outcome; more is 429."
    )
    connections_max: int = Field(
        4096, ge=1, description="Open connections, idle ones included; more is 503."
    )
    drain_s_max: float = Field(
        10.0, gt=0, description="Time to finish requests in progress after SIGTERM."
    )

    @field_validator("queue_replicas", mode="before")
    @classmethod
    def _a_number_may_be_text(cls, given: object) -> object:
        return int(given) if isinstance(given, str) and given.isdecimal() else given

    @field_validator("public_url")
    @classmethod
    def _public_url_is_a_base(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("public_url begins with http:// or https://")
        return value.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.auth == "none" and not is_loopback(self.host):
            raise ValueError("auth=none is only for a loopback host: others could reach us")
        if self.auth == "token" and not self.tokens.get_secret_value():
            raise ValueError("set tokens or tokens_file (name:token,…), or auth=none on loopback")
        if self.body_bytes_max > self.bodies_bytes_max:
            raise ValueError("body_bytes_max > bodies_bytes_max: the largest body never fits")
        if self.waiters_max > self.requests_max:
            raise ValueError("waiters_max > requests_max: waiting could starve everything else")
        return self


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
