"""What the threat model names as a defence or as its test exists."""

import re

from tests.house.sources import ROOT, files

TEXT = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`([\w.-]+(?:/[\w.*-]+)*/?[\w*-]*\.(?:py|yml|lock)|gateway/rest/)`", TEXT)
    assert len(named) > 10
    assert not [name for name in named if not list(ROOT.glob(name))]


def test_every_test_that_is_named_exists() -> None:
    tests = {path.stem for path in files() if path.suffix == ".py"}
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 10
    assert named <= tests, named - tests


def test_it_is_one_page() -> None:
    assert len(TEXT.splitlines()) <= 80
