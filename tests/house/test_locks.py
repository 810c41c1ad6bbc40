"""What is installed is what was locked: every file by its hash, in one version everywhere."""

import re

import pytest

from tests.house.sources import ROOT

LOCKS = {path.name: path for path in (ROOT / "requirements").glob("*.lock")}
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)
INSTALLERS = ("Dockerfile", "standalone/bootstrap.py")


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall(LOCKS[name].read_text()))


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_every_locked_package_has_one_version_and_hashes(name: str) -> None:
    text = re.sub(r"^#.*\n", "", LOCKS[name].read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    loose = [
        entry.split()[0]
        for entry in entries
        if not PIN.match(entry) or not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)
    ]
    assert entries
    assert not loose


def test_the_benchmarks_measure_what_is_tested() -> None:
    bench, dev = pins("bench.lock"), pins("dev.lock")
    shared = bench.keys() & dev.keys()
    assert shared >= pins("app.lock").keys()
    assert {name: bench[name] for name in shared} == {name: dev[name] for name in shared}


@pytest.mark.parametrize("name", ["app.lock", "services.lock"])
def test_what_runs_is_what_is_tested_and_audited(name: str) -> None:
    assert pins(name).items() <= pins("dev.lock").items()


@pytest.mark.parametrize("name", INSTALLERS)
def test_packages_are_installed_by_their_hashes_alone(name: str) -> None:
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
    installs = [line for line in text.splitlines() if re.search(r"--requirement\b", line)]
    assert installs
    assert all("--require-hashes" in line and "--no-deps" in line for line in installs), installs
