"""The benchmarks run: one load of the whole product, as `make bench` does it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from benchmarks.results import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.triton]

RUN_S_MAX = 110.0


async def test_a_load_of_the_product_gives_its_rate_and_its_cost_by_process(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    only = ("--quick", "--rounds", "2", "--only", "one noop/product, always")
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks", *only, "--json", str(figures), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(RUN_S_MAX):
        table, said = await run.communicate()
    assert run.returncode == 0, said.decode()
    (cell,) = json.loads(figures.read_text())["cells"]
    assert (cell["load"], cell["system"], len(cell["rounds"])) == ("one noop", "product, always", 2)
    for figures_of_round in cell["rounds"]:
        assert figures_of_round["per_s"] > 0
        assert {"gateway", "dispatcher", "nats-server"} <= figures_of_round["by_process"].keys()
    assert "tritonq" in table.decode()
