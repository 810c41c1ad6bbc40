"""Plays many cells, on one installation or several side by side, and keeps the red ones."""

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from standalone import backoff
from tests.chaos.attack import Attack, Result
from tests.chaos.history import History
from tests.chaos.http import NoAnswer, ask
from tests.chaos.matrix import Cell, Fault
from tests.chaos.planted import Bug
from tests.chaos.samples import lone_answers
from tests.chaos.site import Site, attacked_site
from tests.services import ROOT

KEPT = ROOT / ".chaos"  # histories and logs of red cells; git ignores it
CELL_S_MAX = 240.0
STEADY_S = 1.0  # each cell stands for itself: a service that an earlier one killed is no loop

Told = Callable[[Result], None]
Keep = Literal["all", "red", "none"]  # of which cells the history and the logs are kept


class Campaign:
    """The cells that are left, and what became of the others."""

    def __init__(
        self,
        cells: Iterable[Cell],
        seed: int,
        told: Told,
        *,
        bug: Bug = Bug.NONE,
        keep: Keep = "red",
    ) -> None:
        self._left = list(cells)
        self._seed = seed
        self._told = told
        self._bug = bug
        self._keep = keep
        self.results: list[Result] = []

    async def run(self, side_by_side: int) -> None:
        """Play all cells, on so many installations at once."""
        folder = Path(tempfile.mkdtemp(prefix="tritonq-chaos-"))
        steady_s = backoff.STEADY_S
        backoff.STEADY_S = STEADY_S
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(side_by_side):
                    tasks.create_task(self._play(folder / str(number)))
        finally:
            backoff.STEADY_S = steady_s
            shutil.rmtree(folder, ignore_errors=True)

    async def _play(self, folder: Path) -> None:
        """Play cells on one installation, and on a new one after each that went wrong."""
        attempt = 0
        while self._left:
            attempt += 1
            place = folder / str(attempt)
            place.mkdir(parents=True)
            async with attacked_site(place, bug=self._bug) as site:
                address = f"127.0.0.1:{site.ports.triton_grpc}"
                samples = await lone_answers(address)
                moves = await _has_moves(site)
                while self._left:
                    cell = self._left.pop(0)
                    result = Result(cell, self._seed)
                    if cell.fault is Fault.FULL_DISK and not site.has_disks:
                        result.skipped = "small disks are mounted as root only"
                    else:
                        history = History(place / f"{_file_name(cell)}.jsonl")
                        attack = Attack(site, cell, self._seed, samples, history, moves=moves)
                        await _played(attack, result)
                        history.close()
                    self.results.append(result)
                    if self._keep == "all" or (self._keep == "red" and not result.is_green):
                        result.history = _kept(place, history.path, result)
                    self._told(result)
                    if not result.is_green:
                        break


async def _played(attack: Attack, result: Result) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(CELL_S_MAX):
            await attack.play(result)
    except Exception as error:  # noqa: BLE001 -- a cell that breaks is red; the others go on
        result.error = f"{type(error).__name__}: {error}"
    result.took_s = time.monotonic() - began


def _kept(place: Path, history: Path, result: Result) -> Path:
    """Copy the history of a red cell, and the logs of all services, to where they stay."""
    kept = KEPT / f"{result.seed}-{_file_name(result.cell)}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in (history, *place.glob("state/*/*.log")):
        shutil.copy(path, kept / path.name)
    report = {"cell": result.cell.name, "error": result.error}
    violations = [str(violation) for violation in result.violations]
    (kept / "result.json").write_text(json.dumps({**report, "violations": violations}, indent=2))
    return kept


async def _has_moves(site: Site) -> bool:
    """Whether this gateway knows cancel, deadlines and keys."""
    try:
        answer = await ask(site.ports.api, "GET", "/openapi.json", within_s=10.0)
    except NoAnswer:
        return False
    return b"/cancel" in answer.body


def _file_name(cell: Cell) -> str:
    return cell.name.replace("/", "-")
