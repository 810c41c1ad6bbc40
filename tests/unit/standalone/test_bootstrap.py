"""Setting a checkout up: what is done once, what is done again, and what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from standalone import bootstrap
from standalone.bootstrap import Log, Note, Screen, SetupFailed, Step, carry_out

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)


class Made:
    """Steps that note the order in which they were made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.order: list[str] = []

    def step(self, name: str, *needs: str, fails: bool = False) -> Step:
        def make(log: Log, note: Note) -> None:
            self.order.append(name)
            if fails:
                raise SetupFailed("broken")

        source = self.root / f"{name}.lock"
        source.touch()
        return Step(name, name, (source,), self.root / f"{name}.stamp", make, needs)


def test_a_step_that_was_made_is_done_until_what_it_was_made_from_changes(tmp_path: Path) -> None:
    step = Made(tmp_path).step("app")
    assert not step.is_done()
    carry_out([step], Screen())
    assert step.is_done()
    (tmp_path / "app.lock").write_text("newer")
    assert not step.is_done()


def test_a_step_whose_product_was_deleted_is_not_done(tmp_path: Path) -> None:
    product = tmp_path / "product"
    step = Step("w", "w", (), tmp_path / "stamp", lambda *_: product.touch(), products="prod*")
    carry_out([step], Screen())
    assert step.is_done()
    product.unlink()
    assert not step.is_done()


def test_a_step_waits_for_those_it_needs(tmp_path: Path) -> None:
    made = Made(tmp_path)
    carry_out([made.step("weights", "app"), made.step("app")], Screen())
    assert made.order == ["app", "weights"]


def test_nothing_is_built_on_a_step_that_failed(tmp_path: Path) -> None:
    made = Made(tmp_path)
    app, weights = made.step("app", fails=True), made.step("weights", "app")
    with pytest.raises(SetupFailed, match="broken"):
        carry_out([app, weights], Screen())
    assert made.order == ["app"]
    assert not app.is_done()
    assert not weights.is_done()


def test_a_command_that_fails_shows_the_end_of_what_it_said(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    heard: list[str] = []
    program = "print('first'); print('the reason'); raise SystemExit(3)"
    with pytest.raises(SetupFailed, match="the reason"):
        log.run([sys.executable, "-c", program], heard.append)
    assert heard == ["first", "the reason"]
    assert "the reason" in (tmp_path / "log").read_text()


def test_every_step_named_in_the_makefile_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", ROOT)
    known = bootstrap.steps()
    lines = (ROOT / "Makefile").read_text().splitlines()
    named = {word for line in lines if "setup.sh" in line for word in line.split()[1:]}
    assert named
    assert named <= set(known)
    assert all(path.exists() for step in known.values() for path in step.made_from)


def set_up_in(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "standalone").mkdir(parents=True)
    shutil.copy(ROOT / "standalone" / "setup.sh", folder / "standalone")
    return subprocess.run(
        [folder / "standalone" / "setup.sh", "app"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_checkout_with_white_space_in_its_path_is_refused_at_once(tmp_path: Path) -> None:
    refused = set_up_in(tmp_path / "a b")
    assert refused.returncode == 1
    assert "white space" in refused.stderr


def test_an_unfit_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    refused = set_up_in(tmp_path, PYTHON="/bin/false")
    assert refused.returncode == 1
    assert "needs Python 3.11 or 3.12" in refused.stderr
    assert "/bin/false" in refused.stderr
