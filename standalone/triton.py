"""A real NVIDIA Triton Inference Server, run from the `nvidia-pytriton` wheel.

Its models run in Python stubs, which need an environment of their own: numpy 1.26, because numpy 2
corrupts data there without a word. `standalone.triton_environment` checks that; this file starts
the server, says what is wrong with its models, and heals them.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psutil

from standalone.server import (
    KEEP_MEMORY,
    LOOPBACK,
    PROBE_S_MAX,
    CannotStart,
    Launch,
    answers_ok,
    log_path,
    public_name,
)
from standalone.triton_environment import TritonEnvironment, inspect_environment

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where POSIX puts shared memory, by definition
ENVIRONMENT_FOLDERS = Path("/tmp")  # noqa: S108 -- Triton does not ask for TMPDIR
EXIT_S_MAX = 8  # Triton's own time for requests under way; it needs up to 3.5 s when it is busy
LOAD_S_MAX = 60.0
STUB = "triton_python_backend_stub"
# It takes all the CPU there is, in slices of milliseconds. What accepts and records needs little,
# but at once: beside Triton a burst of images is accepted at 1,000 a second, before it at 1,500.
NICE = 10
FROZEN = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
RESTRICTED = "model-repository,shared-memory,trace,logging"  # APIs that ask for the secret
SECRET_HEADER = "X-Admin"  # noqa: S105 -- the name of the header, not the secret


@dataclass(frozen=True)
class Triton:
    """One Triton on loopback that serves `models` of `repository`.

    A model that cannot be loaded does not stop the others: see `unready_models`. The APIs that
    change the server ask for `secret`, by HTTP in the header X-Admin, by gRPC in
    triton-grpc-protocol-admin. (Triton takes it on its command line only, where other users of the
    machine can read it; it is worth no more than access to this Triton.)
    """

    folder: Path
    repository: Path
    models: tuple[str, ...]
    environment: Path  # a venv with nvidia-pytriton, onnxruntime and numpy<2
    http_port: int
    grpc_port: int
    metrics_port: int
    secret: str = field(repr=False)
    config_name: str = "cpu"  # configs/<name>.pbtxt is used where a model has one
    auto_complete: bool = False  # read missing parts of config.pbtxt from the model: a slower start

    name = "triton"
    stop_signal = signal.SIGTERM
    start_s_max = 120.0  # one instance needs 0.3 s; many large models on a busy machine far more
    stop_s_max = EXIT_S_MAX + 2.0

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.http_port, self.grpc_port, self.metrics_port)

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.metrics_port}/metrics"

    def prepare(self) -> Launch:
        # Triton starts its stubs by an unquoted shell command, and hangs if that breaks apart.
        for path in (self.repository, self.folder, self.environment):
            if any(character.isspace() for character in str(path)):
                raise CannotStart(f"Triton cannot work in a path with white space: '{path}'")
        if not self.repository.is_dir():
            raise CannotStart(f"there is no model repository {self.repository}")
        environment = inspect_environment(self.environment)
        backends = environment.assemble_backends(self.folder / "backends")
        environment.try_stub(backends / "python" / STUB)
        command = (str(environment.server), *self._options(backends))
        return Launch(command, _variables(environment), nice=NICE)

    async def probe(self) -> bool:
        """Whether the server answers. By then it has loaded what models it could."""
        return await asyncio.to_thread(answers_ok, self.http_port, "/v2/health/ready")

    async def unready_models(self) -> dict[str, str]:
        """Each of `models` that cannot serve, and why. It does not see dead stubs."""
        return await asyncio.to_thread(self._unready_models)

    async def load(self, model: str) -> None:
        """Load a model that Triton could not load before.

        Raises:
            TritonNotHealed: with Triton's reason. The other models are not touched.
        """
        path = f"/v2/repository/models/{model}/load"
        await asyncio.to_thread(self._call, path, {}, LOAD_S_MAX)

    async def heal(self, model: str) -> None:
        """Replace the stubs of `model`, dead or alive. Takes about half a second.

        Raises:
            TritonNotHealed: it did not work; restart the server.
        """
        await asyncio.to_thread(self._heal, model)

    def clean_up(self) -> None:
        for path in SHARED_MEMORY.glob(f"{public_name(self.folder)}_*"):
            path.unlink(missing_ok=True)
        _remove_environment_folders()

    def _unready_models(self) -> dict[str, str]:
        reasons = dict.fromkeys(self.models, f"there is no such model in {self.repository}")
        for entry in self._call("/v2/repository/index", {}, PROBE_S_MAX):
            name = entry["name"]
            if entry.get("state") == "READY":
                reasons[name] = ""  # one version that serves is enough
            elif reasons.get(name):
                reasons[name] = entry.get("reason") or self._refusal_of_config(name)
        return {name: reason for name in self.models if (reason := reasons[name])}

    def _refusal_of_config(self, model: str) -> str:
        """Why Triton did not even try to load a model: it says so in its log only."""
        text = log_path(self).read_text(errors="replace")
        found = re.findall(rf"model directory '{re.escape(model)}': (.*)\"$", text, re.MULTILINE)
        return found[-1] if found else f"Triton refused its configuration; see {log_path(self)}"

    def _heal(self, model: str) -> None:
        # Loading is a no-op unless a file of the model has changed since.
        files = sorted((self.repository / model).glob("[1-9]*/*"))
        if not files:
            raise TritonNotHealed(f"{model} has no version in {self.repository}")
        try:
            for path in files:
                os.utime(path)
        except OSError as error:
            raise TritonNotHealed(f"cannot touch {path}: {error.strerror}") from error
        self._call(f"/v2/repository/models/{model}/load", {}, LOAD_S_MAX)

    def _call(self, path: str, body: dict[str, Any], wait_s_max: float) -> Any:
        connection = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=wait_s_max)
        try:
            headers = {SECRET_HEADER: self.secret, "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            with connection.getresponse() as answer:
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise TritonNotHealed("Triton does not answer") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise TritonNotHealed(content.decode(errors="replace"))
        return json.loads(content) if content else None

    def _options(self, backends: Path) -> list[str]:
        options = [
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",  # with a slash at its end it means another layout
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.models),
            f"--model-config-name={self.config_name}",
            "--strict-readiness=false",  # else one broken model makes the server "not ready"
            "--exit-on-error=false",
            f"--exit-timeout-secs={EXIT_S_MAX}",
            f"--http-address={LOOPBACK}",
            f"--grpc-address={LOOPBACK}",
            f"--metrics-address={LOOPBACK}",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            # The stubs of this start shall never meet the memory of another one.
            "--backend-config=python,shm-region-prefix-name="
            f"{public_name(self.folder)}_{uuid4().hex[:8]}_",
            "--grpc-infer-allocation-pool-size=64",
            f"--grpc-restricted-protocol={RESTRICTED}:admin={self.secret}",
            f"--http-restricted-api={RESTRICTED}:{SECRET_HEADER}={self.secret}",
            "--log-format=ISO8601",
        ]
        if not self.auto_complete:
            options.append("--disable-auto-complete-config")
        return options


class TritonNotHealed(Exception):
    """Triton did not do what it was asked; the message says what it said."""


class Stub(NamedTuple):
    """A process in which Triton runs an instance of a model."""

    model: str
    process: psutil.Process
    is_frozen: bool


def stubs(pid: int) -> list[Stub]:
    """The stubs under the server `pid` that have not ended.

    Triton neither restarts a stub that died nor reports it: it stays "ready", and each request to
    it fails. It does the same with a frozen one. Look after a start, and compare later.
    """
    found = []
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for child in children:
        try:
            command = child.cmdline()  # empty for a zombie
            frozen = child.status() in FROZEN
        except psutil.Error:
            continue
        if len(command) > 1 and Path(command[0]).name == STUB:
            # <repository>/<model>/<version>/<file>
            found.append(Stub(Path(command[1]).parents[1].name, child, frozen))
    return found


def living_stubs(pid: int) -> Counter[str]:
    """How many stubs of each model can work under the server `pid`: not those dead or frozen."""
    return Counter(stub.model for stub in stubs(pid) if not stub.is_frozen)


def _remove_environment_folders() -> None:
    """Remove the empty folder that each Triton makes for packed environments, and leaves behind.

    Whose a folder is cannot be seen. It is nobody's if every living Triton is younger than it.
    """
    servers = [
        process.info["create_time"]
        for process in psutil.process_iter(["name", "create_time"])
        if process.info["name"] == "tritonserver"
    ]
    for path in ENVIRONMENT_FOLDERS.glob("python_env_??????"):
        with contextlib.suppress(OSError):  # not empty, or removed by somebody else meanwhile
            found = path.lstat()
            if found.st_uid == os.geteuid() and found.st_mtime < min(servers, default=time.time()):
                path.rmdir()


def _variables(environment: TritonEnvironment) -> dict[str, str]:
    # Which GPUs to use is the caller's choice; nothing else of his environment matters.
    gpu = {key: value for key, value in os.environ.items() if key.startswith(("CUDA_", "NVIDIA_"))}
    return gpu | KEEP_MEMORY | environment.variables()
