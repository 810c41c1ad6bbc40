"""Every knob of the dispatcher: its unit, its default, and why the default is what it is.

Built once, in `__main__`. The rest of the code receives plain values, never this class.
"""

import os
import re
import socket
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from configuration.process import ProcessSettings


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "dispatcher"
    return f"{host}-{os.getpid()}"


class DispatcherSettings(ProcessSettings):
    """Prefix `DISPATCHER_`."""

    model_config = SettingsConfigDict(env_prefix="DISPATCHER_")

    triton_address: str = Field(
        "127.0.0.1:8001", pattern=r"^\S+:\d+$", description="Triton's gRPC address, host:port."
    )
    name: str = Field(
        default_factory=_default_name,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="What this dispatcher is called in status and logs; unique among dispatchers.",
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
    held_bytes_max: int = Field(
        256 * 1024 * 1024, ge=0,
        description="Bytes of all tickets held at once, in equal shares for each model and "
        "priority; a share is never less than one ticket, 2 MiB.",
    )  # fmt: skip
    attempts_max: int = Field(
        5, ge=1, le=50,  # each one that kills its dispatcher costs the others a lease and a start
        description="Runs after which a prediction that never ended, or whose model failed each "
        "time, is given up as failed.",
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
