"""The Docker files agree with the code. Docker itself is not needed to see that."""

import os
import re
import shutil
import subprocess

import pytest
from pydantic_settings import BaseSettings

from contract.limits import NATS_PAYLOAD_BYTES_MAX
from dispatcher.settings import DispatcherSettings
from gateway.settings import GatewaySettings
from tests.house.sources import PACKAGES, ROOT

COMPOSE = "docker-compose.yml"
CPU = "docker-compose.cpu.yml"
SETTINGS: dict[str, type[BaseSettings]] = {
    "GATEWAY_": GatewaySettings,
    "DISPATCHER_": DispatcherSettings,
}
SECRETS = ("POSTGRES_PASSWORD", "NATS_TOKEN", "TRITON_SECRET", "GATEWAY_TOKENS")


@pytest.mark.parametrize("name", [COMPOSE, CPU])
@pytest.mark.parametrize("prefix", sorted(SETTINGS))
def test_every_setting_that_compose_sets_exists(name: str, prefix: str) -> None:
    used = re.findall(rf"\b{prefix}([A-Z_]+):\s", (ROOT / name).read_text())
    known = {field.upper() for field in SETTINGS[prefix].model_fields}
    assert used
    assert set(used) <= known


def test_both_commands_of_triton_differ_by_the_configuration_alone() -> None:
    def options(name: str) -> set[str]:
        return set(re.findall(r"^ +- (--\S+)", (ROOT / name).read_text(), re.MULTILINE))

    assert options(CPU) == options(COMPOSE) | {"--model-config-name=cpu"}


def test_nats_takes_the_payload_that_the_contract_says() -> None:
    (limit,) = re.findall(r"^max_payload: (\d+)", (ROOT / "deploy/nats.conf").read_text(), re.M)
    assert int(limit) == NATS_PAYLOAD_BYTES_MAX


def test_nats_is_of_the_version_that_is_tested() -> None:
    (tested,) = re.findall(r'NATS_IMAGE = "nats:(.*)"', (ROOT / "tests/services.py").read_text())
    assert f"image: nats:{tested}-alpine" in (ROOT / COMPOSE).read_text()


def test_every_package_goes_into_the_image() -> None:
    taken = (ROOT / ".dockerignore").read_text()
    assert all(f"!{package}/**" in taken for package in PACKAGES)


def test_no_port_is_published_beyond_loopback() -> None:
    published = re.findall(r'"([^"]*):\d+"', (ROOT / COMPOSE).read_text())
    ports = [address for address in published if "_PORT:-" in address]
    assert len(ports) == 4
    assert all(address.startswith("127.0.0.1:") for address in ports)


def test_no_secret_has_a_value_or_a_default() -> None:
    for name in SECRETS:
        assert re.search(rf"^{name}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)
        for file in (COMPOSE, CPU):
            uses = re.findall(rf"\$\{{{name}(.)", (ROOT / file).read_text())
            assert all(mark == ":" for mark in uses), file
            assert f"${{{name}:-" not in (ROOT / file).read_text()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, CPU)])
def test_compose_accepts_its_files_and_insists_on_every_secret(files: tuple[str, ...]) -> None:
    command = ["docker-compose", *(part for file in files for part in ("-f", file)), "config", "-q"]
    secrets = dict.fromkeys(SECRETS, "letters")
    surroundings = {"PATH": os.environ["PATH"]}

    def accepted(given: dict[str, str]) -> bool:
        ran = subprocess.run(
            command, cwd=ROOT, env=surroundings | given, capture_output=True, text=True
        )
        return ran.returncode == 0

    assert accepted(secrets)
    for name in SECRETS:
        assert not accepted({other: secrets[other] for other in SECRETS if other != name}), name


def _services(name: str) -> dict[str, str]:
    """The text of each service, with what it takes over by `<<: *service`."""
    text = (ROOT / name).read_text()
    shared = re.search(r"^x-service: &service\n((?:  .*\n)+)", text, re.MULTILINE)
    found = re.findall(
        r"^  (\w+):\n((?:    .*\n|\n|  #.*\n)+)", text.partition("\nservices:\n")[2], re.M
    )
    extra = shared[1] if shared else ""
    return {each: body + (extra if "<<: *service" in body else "") for each, body in found}


@pytest.mark.parametrize(
    "service", ["gateway", "dispatcher", "weights", "nats", "postgres", "triton"]
)
def test_no_container_can_gain_rights(service: str) -> None:
    body = _services(COMPOSE)[service]
    assert "cap_drop: [ALL]" in body
    assert 'security_opt: ["no-new-privileges:true"]' in body
    assert "privileged:" not in body
    assert "docker.sock" not in body
    # Triton's image writes where its backends like; what it serves is mounted read-only.
    assert "read_only: true" in body or "models:/models:ro" in body


def test_our_own_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["10001:10001"]


def test_no_secret_is_on_a_command_line_but_tritons_which_takes_it_nowhere_else() -> None:
    for name in (COMPOSE, CPU):
        for service, body in _services(name).items():
            command = re.search(r"^    command:(.*\n(?:      .*\n)*)", body, re.MULTILINE)
            shown = {secret for secret in SECRETS if command and f"${{{secret}" in command[1]}
            assert shown == ({"TRITON_SECRET"} if service == "triton" else set()), service
