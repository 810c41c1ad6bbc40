"""The settings that every process has: the queue, the ledger, the blobs, the models.

A process that cannot be configured says why, once, in its log, and ends with exit status 2; nothing
but a person can mend it, so nobody should start it again and again.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.queue import DEFAULT_NAMESPACE

log = logging.getLogger(__name__)

EXIT_BUG = 1
EXIT_WRONG_CONFIGURATION = 2
END_S_MAX = 10.0  # to end in good order after a bug
RETENTION_DAYS_MIN = 7


class WrongConfiguration(Exception):
    """Nothing that time could heal: somebody has to change something."""


class ProcessSettings(BaseSettings):
    """Read from the environment, with a prefix per process; secrets also from the file that
    `<NAME>_FILE` names.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    SECRETS: ClassVar[tuple[str, ...]] = ("nats_token", "postgres_dsn")

    nats_url: str = Field(
        "nats://127.0.0.1:4222",
        description="NATS with JetStream; the servers of a cluster by comma: "
        "`nats://a:4222,nats://b:4222`.",
    )
    nats_token: SecretStr | None = Field(None, description="Token for NATS, if it asks for one.")
    nats_token_file: Path | None = Field(None, description="A file that holds NATS_TOKEN.")
    namespace: str = Field(
        DEFAULT_NAMESPACE,
        pattern=r"^[A-Za-z0-9_]{1,64}$",
        description="Keeps several installations apart on one NATS.",
    )
    postgres_dsn: SecretStr = Field(
        description="The ledger: `postgresql://user:password@host:port/database`."
    )
    postgres_dsn_file: Path | None = Field(None, description="A file that holds POSTGRES_DSN.")
    blobs_url: str = Field(
        description="Where input files are kept: `file:///folder`, `s3://bucket/prefix`, `gs://…`, "
        "`az://…`."
    )
    model_repository: Path = Field(
        Path("model_repository"), description="The folder that Triton serves, as seen from here."
    )
    model_config_name: str | None = Field(
        None, description="Triton's --model-config-name: `cpu` takes configs/cpu.pbtxt."
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Models on offer, in order of preference, by comma; empty: all there are."
    )
    retention_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="Days that outcomes and input files are kept after the end, at least; the same "
        "for every process. 0: for ever; else 7 or more.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in cls.SECRETS:
            path = given.get(f"{name}_file")
            if not path:
                continue
            if given.get(name):
                raise ValueError(f"set {name} or {name}_file, not both")
            try:
                given[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"cannot read {name}_file: {error.strerror}") from None
        return given

    @field_validator("nats_url")
    @classmethod
    def _each_nats_server_is_a_url(cls, given: str) -> str:
        servers = [each.strip() for each in given.split(",")]
        for each in servers:
            url = urlsplit(each)
            try:
                is_server = url.scheme in ("nats", "tls") and url.hostname and url.port != 0
            except ValueError:  # the port is no number, or too large a one
                is_server = False
            if not is_server or url.path or url.query:
                raise ValueError("each server is nats://host:port or tls://host:port")
        return ",".join(servers)

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, given: object) -> object:
        if isinstance(given, str):
            return tuple(name.strip() for name in given.split(",") if name.strip())
        return given

    @field_validator("model_config_name", mode="before")
    @classmethod
    def _empty_is_none(cls, given: object) -> object:
        return given or None

    @field_validator("retention_days")
    @classmethod
    def _a_week_at_least(cls, value: int) -> int:
        # What is removed is removed by the week, and a dispatcher may be late by days.
        if 0 < value < RETENTION_DAYS_MIN:
            raise ValueError(f"0 keeps everything; else it is {RETENTION_DAYS_MIN} days or more")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, given: object) -> object:
        return given.lower() if isinstance(given, str) else given


def log_problems(kind: type[ProcessSettings], error: ValidationError) -> None:
    """Name each setting that is wrong, without repeating its value: it may be a secret."""
    prefix = kind.model_config.get("env_prefix", "")
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        setting = prefix + "_".join(str(part) for part in problem["loc"]).upper()
        reason = problem["msg"].removeprefix("Value error, ")  # of ours; pydantic puts it there
        log.critical("settings.wrong", extra={"setting": setting, "reason": reason})


@contextmanager
def ended_by_bugs() -> Iterator[None]:
    """Have a bug in a callback or a background task end this block, as if it were raised in it.

    asyncio only logs such errors: the process would live on without whatever failed. Connections
    that break in a library's own tasks are no bugs, but outages, which somebody else notices too.
    An error in what reads a connection (its `protocol`) costs that connection alone: whoever is at
    its other end must not be able to end the process.

    To be entered in the task that everything else hangs on. Where that does not end within 10 s,
    the process exits with status 1 as it stands.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    bugs: list[BaseException] = []

    def heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, OSError) or "protocol" in context:
            loop.default_exception_handler(context)
            return
        log.critical("process.bug", exc_info=error, extra={"where": context.get("message")})
        if not bugs:
            loop.call_later(END_S_MAX, os._exit, EXIT_BUG)
            task.cancel()
        bugs.append(error)

    loop.set_exception_handler(heard)
    try:
        yield
    except asyncio.CancelledError:
        if not bugs:
            raise
    finally:
        loop.set_exception_handler(None)
    if bugs:
        raise bugs[0]
