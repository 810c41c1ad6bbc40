"""`tritonq up` as people run it: a process of its own, real servers, and things going wrong."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from standalone.leftover import remember_session
from standalone.server import LOOPBACK
from standalone.state import find_running
from tests.installations import (
    HEAL_S_MAX,
    IMAGE,
    MODEL,
    START_S_MAX,
    STOP_S_MAX,
    Up,
    best_label,
    command,
    nothing_is_left,
    shared_memory,
    spawn,
    until,
    up,
)
from tests.services import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(300)]

SERVICES = ("postgres", "nats", "triton", "dispatcher", "gateway")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `tritonq up` for the tests that leave it running."""
    with up(tmp_path_factory.mktemp("up") / "state") as running:
        yield running


def test_a_photograph_is_classified(installation: Up) -> None:
    with installation.client() as client:
        assert best_label(client) == "espresso"


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_is_back_and_work_goes_on(installation: Up, service: str) -> None:
    before = installation.leader(service)
    os.kill(before, signal.SIGKILL)
    until(lambda: leader_now(installation, service) not in (None, before), HEAL_S_MAX)
    with installation.client() as client:
        assert best_label(client) == "espresso"
    assert f"{service} ended: killed by SIGKILL" in installation.log()
    logged = (installation.state / "up" / "up.log").read_text()
    assert f'"service":"{service}","kind":"ended"' in logged


def leader_now(installation: Up, service: str) -> int | None:
    """The leader of a service; None while it is being started again."""
    session = remember_session(installation.state / service / f"{service}.pid")
    return session.pid if session else None


def test_a_frozen_gateway_is_replaced(installation: Up) -> None:
    before = installation.leader("gateway")
    psutil.Process(before).suspend()
    until(lambda: leader_now(installation, "gateway") not in (None, before), HEAL_S_MAX)
    with installation.client() as client:
        assert best_label(client) == "espresso"
    assert "gateway silent" in installation.log()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_stub_is_replaced_without_a_restart_of_triton(
    installation: Up, number: signal.Signals
) -> None:
    triton = installation.leader("triton")
    stubs = [
        child
        for child in psutil.Process(triton).children(recursive=True)
        if "stub" in child.name() and child.status() != psutil.STATUS_ZOMBIE
    ]
    assert stubs
    healed_before = installation.log().count("triton healed")
    newest = max(stubs, key=psutil.Process.create_time)  # not one that a heal is just replacing
    newest.send_signal(number)  # its siblings work, so only some inferences fail
    until(lambda: installation.log().count("triton healed") > healed_before, HEAL_S_MAX)
    assert not newest.is_running() or newest.status() == psutil.STATUS_ZOMBIE
    assert installation.leader("triton") == triton
    with installation.client() as client:
        assert best_label(client) == "espresso"


def test_a_second_instance_on_the_same_folder_is_refused(installation: Up) -> None:
    second = subprocess.run(
        command(installation.state), capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 1
    assert f"already running on {installation.state}" in flat(second.stderr)
    assert str(installation.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_taken_port_is_refused_naming_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = subprocess.run(
            command(tmp_path / "state", "--port", port),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert refused.returncode == 1
    assert f"port {port} is taken" in flat(refused.stderr)
    assert "Traceback" not in refused.stderr


def flat(text: str) -> str:
    return " ".join(text.split())


def test_stop_leaves_nothing_and_a_restart_has_everything(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with up(state) as first:
        with first.client() as client:
            ended = client.run(MODEL, IMAGE)
            accepted = [client.submit(MODEL, IMAGE).id for _ in range(20)]
        family = first.family()
        used = shared_memory(family)
        code, seconds = first.stop()
    assert code == 0, first.log()
    assert seconds < STOP_S_MAX
    assert nothing_is_left(family)
    assert used, "Triton's stubs talk through shared memory"
    assert not [path for path in used if path.exists()]
    with up(state) as second, second.client() as client:
        again = client.get(ended.id)
        assert (again.output, again.completed_at) == (ended.output, ended.completed_at)
        assert all(client.get(each, wait_s=HEAL_S_MAX).has_succeeded for each in accepted)


def test_what_a_killed_run_left_is_ended_by_the_next(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with up(state) as first:
        with first.client() as client:
            ended = client.run(MODEL, IMAGE)
        family = first.family()
        first.process.kill()
        first.process.wait()
        with up(state) as second, second.client() as client:
            assert nothing_is_left(family)
            assert client.get(ended.id).output == ended.output
            assert best_label(client) == "espresso"


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    with up(tmp_path / "state") as running:
        family = running.family()
        running.process.send_signal(signal.SIGINT)
        until(lambda: "gateway stopped" in running.log(), STOP_S_MAX)
        _, seconds = running.stop(signal.SIGINT)
        assert seconds < 3.0  # Triton alone takes longer to stop cleanly
        assert nothing_is_left(family)


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    process = spawn(tmp_path / "state")
    log = tmp_path / "up.log"
    until(lambda: "nats started" in log.read_text(), START_S_MAX)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_S_MAX) == 0
    assert nothing_is_left(family)
    assert not list((tmp_path / "state").glob("*/*.pid"))


def test_it_goes_on_and_stops_cleanly_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    state = tmp_path / "state"
    port = str(free_ports(1)[0])
    process = subprocess.Popen(
        command(state, "--model", MODEL, "--port", port),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, cwd="/",
    )  # fmt: skip
    assert process.stdout is not None
    try:
        until(lambda: find_running(state), START_S_MAX)
        process.stdout.read(1)
        process.stdout.close()
        installation = Up(state, process, until(lambda: find_running(state), START_S_MAX))
        before = installation.leader("dispatcher")
        os.kill(before, signal.SIGKILL)
        until(lambda: leader_now(installation, "dispatcher") not in (None, before), HEAL_S_MAX)
        with installation.client() as client:
            assert best_label(client) == "espresso"
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S_MAX) == 0
    assert not list(state.glob("*/*.pid"))
