"""Every knob of the dispatcher: its unit, its default, and why the default is what it is.

Built once, in `__main__`. The rest of the code receives plain values, never this class. Each is
read from the environment as `DISPATCHER_<NAME>`; secrets also from the file `<NAME>_FILE` names.
"""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.queue import DEFAULT_NAMESPACE

_SECRETS = ("nats_token", "postgres_dsn")


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "dispatcher"
    return f"{host}-{os.getpid()}"


class DispatcherSettings(BaseSettings):
    """What an operator may choose."""

    model_config = SettingsConfigDict(
        env_prefix="DISPATCHER_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    nats_url: str = Field("nats://127.0.0.1:4222", description="Where NATS listens.")
    nats_token: SecretStr | None = Field(None, description="Token for NATS, if it asks for one.")
    nats_token_file: Path | None = Field(None, description="File that holds NATS_TOKEN.")
    postgres_dsn: SecretStr = Field(
        description="The ledger: postgresql://user:password@host:port/database."
    )
    postgres_dsn_file: Path | None = Field(None, description="File that holds POSTGRES_DSN.")
    blobs_url: str = Field(
        description="Where inputs are kept: file:///folder, s3://bucket/prefix, gs://, az://."
    )
    triton_address: str = Field(
        "127.0.0.1:8001", pattern=r"^\S+:\d+$", description="Triton's gRPC address, host:port."
    )
    model_repository: Path = Field(
        Path("model_repository"), description="The folder Triton serves, as seen from here."
    )
    model_config_name: str | None = Field(
        None, description="Triton's --model-config-name: `cpu` takes configs/cpu.pbtxt."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Models to serve, comma-separated; empty serves all of the repository."
    )
    namespace: str = Field(
        DEFAULT_NAMESPACE,
        pattern=r"^[A-Za-z0-9_]{1,64}$",
        description="Keeps several installations on one NATS apart.",
    )
    name: str = Field(
        default_factory=_default_name,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="What this dispatcher is called in status and logs; unique among dispatchers.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )
    metrics_host: str = Field("127.0.0.1", description="Where /metrics and /healthz listen.")
    metrics_port: int = Field(0, ge=0, le=65535, description="0 serves neither.")

    calls_in_flight: int = Field(
        2, ge=1, le=16,
        description="Triton requests at once per instance of a model: one runs, the next is there.",
    )  # fmt: skip
    batch_rows_max: int = Field(
        1024, ge=1,
        description="Rows in one Triton request; the model's own max_batch_size is a bound too.",
    )  # fmt: skip
    attempts_max: int = Field(
        5, ge=2, le=100,
        description="Deliveries after which a prediction is given up, unrun, as failed.",
    )  # fmt: skip
    infer_timeout_s: float = Field(30.0, gt=0, le=3600, description="Of one Triton request.")
    keep_inputs: Literal["all", "failed", "none"] = Field(
        "all", description="Whose input files are readable after the prediction has ended."
    )
    drain_s_max: float = Field(
        10.0, ge=0, le=300, description="Time to finish what is held after SIGTERM."
    )
    decode_threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256,
        description="Threads that decode inputs; by default one per core.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in _SECRETS:
            path = given.get(f"{name}_file")
            if not path:
                continue
            if given.get(name):
                raise ValueError(f"{name} and {name}_file are both set: choose one")
            try:
                given[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"{name}_file cannot be read: {error.strerror}") from None
        return given

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        if isinstance(given, str):
            return tuple(name.strip() for name in given.split(",") if name.strip())
        return given

    @field_validator("model_config_name", mode="before")
    @classmethod
    def _empty_is_none(cls, given: object) -> object:
        return given or None

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, given: object) -> object:
        return given.lower() if isinstance(given, str) else given
