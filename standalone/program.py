"""Our own programs, gateway and dispatcher, as servers that `standalone.server` can start."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from standalone.server import KEEP_MEMORY, Launch, answers_ok

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


@dataclass(frozen=True)
class Program:
    """`python -m NAME`, which answers GET /healthz on `probe_port`.

    `settings` go into its environment, prefixed by its name. Secrets are never among them: those
    name files. Settings that the user has in the environment apply as well, below ours.
    """

    name: str
    folder: Path
    probe_port: int
    stop_s_max: float
    settings: Mapping[str, str] = field(default_factory=dict)

    stop_signal = signal.SIGTERM
    start_s_max = 60.0  # it imports for about a second, on an idle machine

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.probe_port,)

    def prepare(self) -> Launch:
        # -P: what lies in the current folder must not take the place of a package.
        command = (sys.executable, "-P", "-m", self.name)
        return Launch(command, program_environment(self.name, self.settings, os.environ))

    async def probe(self) -> bool:
        return await asyncio.to_thread(answers_ok, self.probe_port, "/healthz")

    def clean_up(self) -> None:
        """Nothing: all it keeps is in the ledger, the queue and the blobs."""


def program_environment(
    name: str, settings: Mapping[str, str], ours: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of program `name`; `ours` is that of this process.

    A setting may be given plainly or as `<SETTING>_FILE`: where `settings` has one spelling, the
    user's other one is left out, since the program refuses to be given both.
    """
    prefix = f"{name.upper()}_"
    settled = {f"{prefix}{key}".removesuffix("_FILE") for key in settings}
    from_user = {
        key: value
        for key, value in ours.items()
        if key in INHERITED or (key.startswith(prefix) and key.removesuffix("_FILE") not in settled)
    }
    from_us = {f"{prefix}{key}": value for key, value in settings.items()}
    return from_user | from_us | {"PYTHONUNBUFFERED": "1", **KEEP_MEMORY}
