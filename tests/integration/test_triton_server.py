"""The Triton of standalone: start, stop, healing, and the environments it refuses."""

import asyncio
import os
import platform
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from contract.catalog import Lane
from contract.errors import DependencyError, InferenceError, ModelUnavailable
from inference import Triton
from standalone import triton as standalone_triton
from standalone import triton_environment
from standalone.server import CannotStart, Process, public_name, running, start
from standalone.triton import SHARED_MEMORY, TritonNotHealed, living_stubs
from tests import services
from tests.onnx_models import ADDER_TENSORS, write_adder, write_config
from tests.tickets import until

pytestmark = pytest.mark.triton

WAIT_S_MAX = 20.0
ADDER = Lane("adder", 1)


@pytest.fixture
def server(tmp_path: Path) -> standalone_triton.Triton:
    """Serves `adder`, x -> x + 1, with one stub."""
    write_adder(tmp_path / "repository" / "adder" / "1" / "model.onnx", 1)
    write_config(tmp_path / "repository" / "adder", ADDER_TENSORS)
    return services.triton(tmp_path / "state", tmp_path / "repository", ("adder",))


@pytest.fixture
async def triton(server: standalone_triton.Triton) -> AsyncIterator[Triton]:
    triton = Triton(server.grpc_address)
    yield triton
    await triton.close()


async def add(triton: Triton) -> float:
    inputs = {"x": np.zeros((1, 2), np.float32)}
    answer = await triton.infer(ADDER, inputs, ["y"], timeout_s=WAIT_S_MAX)
    return float(answer["y"][0, 0])


def shared_memory(server: standalone_triton.Triton) -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"{public_name(server.folder)}*")]


def family(process: Process) -> list[psutil.Process]:
    leader = psutil.Process(process.pid)
    return [leader, *leader.children(recursive=True)]


async def test_triton_and_all_that_it_starts_let_others_go_first(
    server: standalone_triton.Triton,
) -> None:
    async with running(server) as process:
        for member in family(process):
            assert member.nice() == standalone_triton.NICE
            group = Path(f"/proc/{member.pid}/autogroup")
            if group.exists():  # else the kernel was built without
                assert group.read_text().endswith(f" nice {standalone_triton.NICE}\n")


async def test_a_stop_leaves_neither_processes_nor_shared_memory(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    async with running(server) as process:
        assert await add(triton) == 1.0
        members = family(process)
        assert len(members) == 3  # the server, one stub, and the process of its model
        assert shared_memory(server)
    assert process.returncode == 0
    for member in members:
        assert await services.is_gone(member, wait_s_max=0.1)
    assert shared_memory(server) == []


async def test_after_a_kill_stubs_and_shared_memory_go_and_the_next_start_serves(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    process = await start(server)
    members = family(process)
    os.kill(members[1].pid, signal.SIGSTOP)  # a stub that cannot notice that its server has died
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert shared_memory(server)

    async with services.running_triton(server):  # as after a crash: nobody called stop()
        assert await services.is_gone(members[1], wait_s_max=0.1)
        assert len({name.split("_")[2] for name in shared_memory(server)}) == 1
        assert await add(triton) == 1.0
    await process.stop()


def test_folders_that_dead_servers_left_are_removed_and_no_others(
    server: standalone_triton.Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton makes one at each start, and never removes it."""
    monkeypatch.setattr(standalone_triton, "ENVIRONMENT_FOLDERS", tmp_path)
    names = ("python_env_oldone", "python_env_filled", "python_env_ofnow0", "python_env_whatever")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_filled" / "bin").mkdir()
    for name in names:
        if name != "python_env_ofnow0":
            os.utime(tmp_path / name, (1.0, 1.0))
        else:  # a Triton that is starting just now may be about to use it
            os.utime(tmp_path / name, (time.time() + 60, time.time() + 60))
    server.clean_up()
    assert sorted(path.name for path in tmp_path.glob("python_env_*")) == sorted(names[1:])


async def test_a_dead_stub_is_seen_and_healed_without_a_restart(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    async with services.running_triton(server) as process:
        assert living_stubs(process.pid) == {"adder": 1}
        stub = family(process)[1]
        stub.kill()
        with pytest.raises(ModelUnavailable, match="its process has died"):
            await add(triton)
        assert await server.probe()  # Triton does not notice
        assert await server.unready_models() == {}
        assert living_stubs(process.pid) == {}

        await server.heal("adder")

        async def is_back() -> bool:
            return living_stubs(process.pid) == {"adder": 1}

        await until(is_back)
        assert await add(triton) == 1.0


async def test_a_model_that_cannot_be_healed_is_reported(
    server: standalone_triton.Triton,
) -> None:
    async with services.running_triton(server):
        with pytest.raises(TritonNotHealed, match="unknown has no version in"):
            await server.heal("unknown")
        (server.repository / "adder" / "1" / "model.onnx").write_text("broken on disk meanwhile")
        with pytest.raises(TritonNotHealed, match=r"model\.onnx"):
            await server.heal("adder")
    with pytest.raises(TritonNotHealed, match="does not answer"):
        await server.heal("adder")


async def test_only_the_secret_opens_the_apis_that_change_the_server(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    async with services.running_triton(server) as process:
        for path in ("repository/index", "repository/models/adder/unload"):
            assert await asyncio.to_thread(post, f"{server.http_url}/v2/{path}") == 403
        with pytest.raises(ModelUnavailable, match="cannot be loaded: This protocol is restricted"):
            await triton.load("adder", secret=None)
        with pytest.raises(ModelUnavailable):
            await triton.load("adder", secret="wrong")
        await triton.load("adder", secret=server.secret)
        listening = {
            (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {("127.0.0.1", port) for port in server.ports}
    assert server.secret not in (server.folder / "triton.log").read_text()
    assert server.secret not in repr(server)


async def test_requests_under_way_are_answered_or_refused_while_it_stops(
    server: standalone_triton.Triton, triton: Triton
) -> None:
    process = await start(server)
    requests = [asyncio.create_task(add(triton)) for _ in range(50)]
    done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
    assert done
    await process.stop()
    for answer in await asyncio.gather(*requests, return_exceptions=True):
        assert answer == 1.0 or isinstance(answer, DependencyError | InferenceError), answer


@pytest.mark.parametrize("place", ["repository", "state", "environment"])
async def test_white_space_in_a_path_is_refused_instead_of_hanging(
    tmp_path: Path, place: str
) -> None:
    paths = {name: tmp_path / name for name in ("repository", "state", "environment")}
    paths[place] = tmp_path / f"my {place}"
    server = services.triton(
        paths["state"], paths["repository"], ("adder",), environment=paths["environment"]
    )
    with pytest.raises(CannotStart, match=f"white space: '.*/my {place}'"):
        await start(server)


async def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    server = services.triton(tmp_path / "state", tmp_path / "nowhere", ("adder",))
    with pytest.raises(CannotStart, match=r"no model repository .*/nowhere"):
        await start(server)


async def test_a_missing_environment_is_named_with_what_makes_it(
    server: standalone_triton.Triton, tmp_path: Path
) -> None:
    await _refused(server, tmp_path / "nowhere", "no Triton environment in .*`make setup`")


async def test_numpy_2_is_refused_because_it_corrupts_data(
    server: standalone_triton.Triton, tmp_path: Path
) -> None:
    environment = _environment_with(
        tmp_path / "numpy2", {"numpy": "2.0.0", "nvidia-pytriton": "0", "onnxruntime": "1"}
    )
    await _refused(server, environment, "has numpy 2.0.0, .* silently corrupts data; .*numpy<2")


async def test_a_missing_package_is_named(server: standalone_triton.Triton, tmp_path: Path) -> None:
    environment = _environment_with(tmp_path / "bare", {"numpy": "1.26.4", "nvidia-pytriton": "0"})
    await _refused(server, environment, "onnxruntime is missing in")


async def test_a_python_that_has_no_numpy_1_is_refused(
    server: standalone_triton.Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_environment, "PYTHONS", ((3, 9),))  # this one is none of these
    await _refused(server, server.environment, r"has Python 3\.1[12]; Triton's stub needs")


async def test_a_machine_without_bash_is_refused_instead_of_hanging(
    server: standalone_triton.Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    setpriv = shutil.which("setpriv")
    assert setpriv
    (tmp_path / "bin" / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    await _refused(server, server.environment, "bash, which is missing; install bash")


async def test_another_kind_of_processor_is_refused(
    server: standalone_triton.Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    await _refused(server, server.environment, "Linux on x86-64, and this is Linux on aarch64")


def test_a_python_without_a_shared_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    """Debian's Python has none unless a package is added; a stub without it hangs the start."""
    environment = triton_environment.inspect_environment(services.TRITON_ENVIRONMENT)
    stub = tmp_path / "stub"
    stub.write_text(
        "#!/bin/sh\necho 'error while loading shared libraries: libpython3.11.so.1.0' >&2\nexit 127"
    )
    stub.chmod(0o755)
    with pytest.raises(CannotStart, match=r"install the package libpython3\.1[12] \(Debian"):
        environment.try_stub(stub)


async def _refused(server: standalone_triton.Triton, environment: Path, words: str) -> None:
    other = services.triton(
        server.folder, server.repository, server.models, environment=environment
    )
    with pytest.raises(CannotStart, match=words):
        await start(other)


def _environment_with(folder: Path, packages: dict[str, str]) -> Path:
    """A virtual environment whose records say that `packages` are installed, and no others."""
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(sys.executable)
    home = Path(sys.base_prefix) / "bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    for name, version in packages.items():
        record = site / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    return folder


def post(url: str) -> int:
    """The status with which Triton answers an empty POST."""
    request = urllib.request.Request(url, data=b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
