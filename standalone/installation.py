"""What runs on this machine: which services, with which settings, in which order.

The only place where the settings of one service are derived from those of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from standalone.broken_store import StoreRemedy
from standalone.nats import Nats
from standalone.ports import Ports
from standalone.postgres import Postgres
from standalone.program import Program
from standalone.readiness import unfit_models
from standalone.server import LOOPBACK
from standalone.state import Running, State
from standalone.stubs import StubRemedy
from standalone.supervisor import Service
from standalone.triton import Triton

ROOT = Path(__file__).resolve().parent.parent
CONFIG_NAME = "cpu"  # configs/cpu.pbtxt of a model: the wheel's Triton is used without GPUs

# Stopping everything takes 15 s at most, and these are each one's share. The programs are told to
# finish what they hold a little earlier than they would be killed.
GATEWAY_DRAIN_S, GATEWAY_STOP_S = 1.5, 2.0
DISPATCHER_DRAIN_S, DISPATCHER_STOP_S = 3.0, 4.0
TRITON_STOP_S, NATS_STOP_S, POSTGRES_STOP_S = 5.0, 1.5, 2.0  # Triton: 3.5 s when idle
assert sum((GATEWAY_STOP_S, DISPATCHER_STOP_S, TRITON_STOP_S, NATS_STOP_S, POSTGRES_STOP_S)) < 15.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose about `tritonq up`."""

    state: Path = ROOT / ".tritonq"
    repository: Path = ROOT / "model_repository"
    triton_environment: Path = ROOT / ".venv-triton"
    models: tuple[str, ...] = ()  # none: all that are built and suit this CPU
    ports: Mapping[str, int] = field(default_factory=dict)  # by field of `Ports`; others: as usual
    sync_interval: str = "always"  # of NATS: when an accepted prediction is on the disk


@dataclass(frozen=True, slots=True)
class Installation:
    """The services, each listed after those it needs, and where they listen."""

    services: tuple[Service, ...]
    triton: Triton  # among the services
    ports: Ports
    models: tuple[str, ...]

    def running(self, pid: int) -> Running:
        api = f"http://{LOOPBACK}:{self.ports.api}"
        return Running(
            pid=pid,
            api_url=api,
            docs_url=f"{api}/docs",
            metrics_url=f"{api}/metrics",
            dispatcher_metrics_url=f"http://{LOOPBACK}:{self.ports.dispatcher_metrics}/metrics",
            triton_http_url=f"http://{LOOPBACK}:{self.ports.triton_http}",
            triton_grpc_address=f"{LOOPBACK}:{self.ports.triton_grpc}",
            triton_metrics_url=f"http://{LOOPBACK}:{self.ports.triton_metrics}/metrics",
            models=self.models,
        )


def plan(options: Options, state: State, ports: Ports, models: tuple[str, ...]) -> Installation:
    """Lay out the services of one machine; nothing is started."""
    postgres = Postgres(
        folder=state.folder("postgres"),
        port=ports.postgres,
        password=state.secret("postgres_password"),
    )
    nats = Nats(
        folder=state.folder("nats"),
        port=ports.nats,
        monitor_port=ports.nats_monitor,
        token=state.secret("nats_token"),
        sync_interval=options.sync_interval,
    )
    triton = Triton(
        folder=state.folder("triton"),
        repository=options.repository,
        models=models,
        environment=options.triton_environment,
        http_port=ports.triton_http,
        grpc_port=ports.triton_grpc,
        metrics_port=ports.triton_metrics,
        secret=state.secret("triton_secret"),
        config_name=CONFIG_NAME,
    )
    settings = _shared_settings(options, state, postgres, nats, models)
    dispatcher = _dispatcher(state, ports, triton, settings)
    gateway = _gateway(state, ports, settings)
    services = (
        Service(postgres, stop_s_max=POSTGRES_STOP_S),
        Service(nats, stop_s_max=NATS_STOP_S, remedy=StoreRemedy(nats)),
        Service(
            triton,
            stop_s_max=TRITON_STOP_S,
            remedy=StubRemedy(triton, partial(unfit_models, ports.api)),
        ),
        Service(dispatcher, needs=("postgres", "nats"), stop_s_max=DISPATCHER_STOP_S),
        Service(gateway, needs=("postgres", "nats"), stop_s_max=GATEWAY_STOP_S),
    )
    return Installation(services, triton, ports, models)


def _shared_settings(
    options: Options, state: State, postgres: Postgres, nats: Nats, models: tuple[str, ...]
) -> dict[str, str]:
    """What gateway and dispatcher must agree on."""
    return {
        "NATS_URL": nats.url,
        "NATS_TOKEN_FILE": str(state.secret_file("nats_token")),
        "POSTGRES_DSN_FILE": str(state.keep_secret("postgres_dsn", postgres.dsn)),
        "BLOBS_URL": state.folder("blobs").as_uri(),
        "MODEL_REPOSITORY": str(options.repository),
        "MODEL_CONFIG_NAME": CONFIG_NAME,
        "MODELS": ",".join(models),
    }


def _dispatcher(state: State, ports: Ports, triton: Triton, shared: Mapping[str, str]) -> Program:
    own = {
        "TRITON_ADDRESS": triton.grpc_address,
        "METRICS_HOST": LOOPBACK,
        "METRICS_PORT": str(ports.dispatcher_metrics),
        "DRAIN_S_MAX": str(DISPATCHER_DRAIN_S),
    }
    folder, probe_port = state.folder("dispatcher"), ports.dispatcher_metrics
    return Program("dispatcher", folder, probe_port, DISPATCHER_STOP_S, {**shared, **own})


def _gateway(state: State, ports: Ports, shared: Mapping[str, str]) -> Program:
    own = {
        "HOST": LOOPBACK,
        "PORT": str(ports.api),
        "AUTH": "none",  # on loopback: whoever can reach it can read the state folder as well
        "DRAIN_S_MAX": str(GATEWAY_DRAIN_S),
    }
    return Program("gateway", state.folder("gateway"), ports.api, GATEWAY_STOP_S, {**shared, **own})
