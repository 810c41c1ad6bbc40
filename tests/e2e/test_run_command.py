"""`tritonq run` over a folder of photographs, against every process of the product."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.installations import MODEL, Up, up
from tests.relay import OnAnswer, pass_on, relay

pytestmark = [pytest.mark.e2e, pytest.mark.triton, pytest.mark.timeout(300)]

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.jpg"))
FILES = 200
SOME = 40
LOST_MAX = 3  # answers lost around a kill; those to submits that are sent again must come through
ENOUGH = 30  # results that say that a run is in its middle
RUN_S_MAX = 120.0


class Run:
    """A `tritonq run` under way. Its notes go to a file, so that only one pipe is read."""

    def __init__(self, process: subprocess.Popen[str], notes: Path) -> None:
        self.process = process
        self._notes = notes

    def some_lines(self) -> list[str]:
        """The first results: the run is in its middle."""
        assert self.process.stdout is not None
        return list(islice(self.process.stdout, ENOUGH))

    def finish(self) -> tuple[list[str], str]:
        """Wait for the end; the results since the last ones read, and everything noted."""
        assert self.process.stdout is not None
        lines = self.process.stdout.readlines()
        self.process.wait(RUN_S_MAX)
        return lines, self._notes.read_text()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("run") / "state") as installation:
        yield installation


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 200 different photographs, cut from the samples."""
    folder = tmp_path_factory.mktemp("photographs")
    originals = [Image.open(path).convert("RGB") for path in SAMPLES]
    for number in range(FILES):
        original = originals[number % len(originals)]
        margin = number // len(originals)
        box = (margin, margin, original.width - margin, original.height - margin)
        original.crop(box).resize((500, 375)).save(folder / f"{number:03d}.jpg")
    return folder


@pytest.fixture
def run(installation: Up, tmp_path: Path) -> Callable[..., Any]:
    """Starts the command on a folder; what still runs at the end of the block is killed."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    @contextmanager
    def started(folder: Path, url: str = installation.running.api_url) -> Iterator[Run]:
        notes = tmp_path / "notes"
        with (
            notes.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "tritonq", "run", MODEL, str(folder), "--json"],
                env={**environment, "TRITONQ_URL": url},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            try:
                yield Run(process, notes)
            finally:
                process.kill()

    return started


def rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def ids(installation: Up) -> list[str]:
    """Every prediction of the installation, by the API."""
    with installation.client() as client:
        return [prediction.id for prediction in client.predictions()]


def test_every_photograph_has_one_outcome_though_the_dispatcher_is_killed_in_the_middle(
    installation: Up, photographs: Path, run: Callable[..., Any]
) -> None:
    before = ids(installation)

    with run(photographs) as started:
        first = started.some_lines()
        os.killpg(installation.leader("dispatcher"), signal.SIGKILL)
        rest, notes = started.finish()

    assert started.process.returncode == 0, notes
    results = rows(first + rest)
    names = sorted(str(path) for path in photographs.iterdir())
    assert [result["file"] for result in results] == names
    assert {result["status"] for result in results} == {"succeeded"}
    submitted = [result["id"] for result in results]
    assert len(set(submitted)) == FILES
    # The ledger has a row for each of them, and no other came about.
    assert sorted(ids(installation)) == sorted(before + submitted)
    assert f"{FILES} files, 0 failed" in notes


def test_a_run_stopped_by_ctrl_c_goes_on_and_submits_nothing_twice(
    installation: Up, photographs: Path, run: Callable[..., Any]
) -> None:
    before = ids(installation)

    with run(photographs) as started:
        started.some_lines()
        started.process.send_signal(signal.SIGINT)
        _, notes = started.finish()
    assert started.process.returncode == 130
    assert "The same command again continues" in notes

    with run(photographs) as started:
        lines, notes = started.finish()
    assert started.process.returncode == 0, notes
    assert "going on with an interrupted run" in notes
    results = rows(lines)
    assert [Path(result["file"]).name for result in results] == sorted(
        path.name for path in photographs.iterdir()
    )
    assert sorted(ids(installation)) == sorted(before + [result["id"] for result in results])


@pytest.fixture
def some_photographs(photographs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(photographs.iterdir())[:SOME]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def after(chunks: int, act: Callable[[], None]) -> tuple[OnAnswer, list[bytes]]:
    """Has an answer to a submit lost, having done `act`; the list gets what was lost.

    What comes for submits that were on their way at the same moment is lost too.
    """
    lost: list[bytes] = []
    seen = count(1)

    def on_answer(chunk: bytes) -> bool:
        if next(seen) < chunks or len(lost) >= LOST_MAX:
            return True
        lost.append(chunk)
        if len(lost) == 1:
            act()
        return False

    return on_answer, lost


def accepted_id(answer: bytes) -> str:
    """The id in the answer to a submit: it stands in the head and in the body."""
    found = re.search(rb"/v1/predictions/(\w{26})", answer)
    assert found, answer
    return found[1].decode()


def test_a_run_killed_between_acceptance_and_its_journal_line_submits_nothing_twice(
    installation: Up, some_photographs: Path, run: Callable[..., Any]
) -> None:
    before = ids(installation)

    with relay(installation.running.api_url) as between:
        with run(some_photographs, between.url) as started:

            def kill() -> None:
                started.process.kill()
                started.process.wait(RUN_S_MAX)

            between.on_answer, lost = after(SOME, kill)
            started.finish()
        assert started.process.returncode == -signal.SIGKILL
        unknown_to_the_run = accepted_id(lost[0])
        between.on_answer = pass_on

        with run(some_photographs, between.url) as started:
            lines, notes = started.finish()

    assert started.process.returncode == 0, notes
    assert "going on with an interrupted run" in notes
    results = rows(lines)
    assert {result["status"] for result in results} == {"succeeded"}
    submitted = [result["id"] for result in results]
    assert unknown_to_the_run in submitted, "the run found its prediction again"
    assert len(set(submitted)) == SOME
    assert sorted(ids(installation)) == sorted(before + submitted)


def test_a_run_whose_gateway_is_killed_before_it_answers_submits_nothing_twice(
    installation: Up, some_photographs: Path, run: Callable[..., Any]
) -> None:
    before = ids(installation)

    def kill() -> None:
        os.killpg(installation.leader("gateway"), signal.SIGKILL)

    with (
        relay(installation.running.api_url) as between,
        run(some_photographs, between.url) as started,
    ):
        between.on_answer, lost = after(SOME, kill)
        lines, notes = started.finish()

    assert started.process.returncode == 0, notes
    results = rows(lines)
    assert {result["status"] for result in results} == {"succeeded"}
    submitted = [result["id"] for result in results]
    assert accepted_id(lost[0]) in submitted
    assert len(set(submitted)) == SOME
    assert sorted(ids(installation)) == sorted(before + submitted)


def test_a_file_that_is_no_image_fails_alone_and_is_listed_at_the_end(
    photographs: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted(photographs.iterdir())[:5]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "002.jpg").write_bytes(b"this is no image")
    truncated = (folder / "003.jpg").read_bytes()
    (folder / "003.jpg").write_bytes(truncated[: len(truncated) // 2])

    with run(folder) as started:
        lines, notes = started.finish()

    assert started.process.returncode == 1
    statuses = [result["status"] for result in rows(lines)]
    assert statuses[:3] == ["succeeded", "succeeded", "refused"]
    assert statuses[3] in ("refused", "failed")
    assert statuses[4] == "succeeded"
    assert f"failed: {folder / '002.jpg'}: input.image: " in notes
    assert "5 files, 2 failed" in notes
