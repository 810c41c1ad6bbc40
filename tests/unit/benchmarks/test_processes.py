"""CPU time and memory of a family of processes: none of it is lost when one of them ends."""

import asyncio
import os
import sys

from benchmarks import processes

HOLDS = 64  # MiB
WAITS = f"held = b'x' * ({HOLDS} << 20); print(len(held), flush=True); input()"
SPENT_S = 0.2
# A little more than that: the kernel counts in ticks of 10 ms.
SPINS = f"import time\nwhile time.process_time() < {SPENT_S + 0.05}: pass"


async def python(code: str, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdin=pipe, stdout=pipe
    )


async def test_what_a_child_spent_that_has_ended_still_counts() -> None:
    before = processes.cpu_s()
    child = await python(SPINS)
    await child.wait()
    assert processes.cpu_s()["ended"] - before["ended"] >= SPENT_S


async def test_a_family_is_looked_at_apart_from_the_others() -> None:
    spinning, waiting = await python(f"{SPINS}\nprint(1, flush=True)\ninput()"), await python(WAITS)
    for child in (spinning, waiting):
        assert child.stdout is not None
        await child.stdout.readline()
    spent = {pid: sum(processes.cpu_s(pid).values()) for pid in (spinning.pid, waiting.pid)}
    assert sum(processes.cpu_s().values()) >= sum(spent.values())
    assert spent[spinning.pid] >= SPENT_S
    assert {spinning.pid, waiting.pid} <= set(processes.pids()["other"])
    for child in (spinning, waiting):
        await child.communicate(b"\n")


async def test_a_peak_is_remembered_after_the_process_has_ended() -> None:
    async with processes.peaks() as peaks:
        child = await python(WAITS, "-m", "gateway")
        assert child.stdout is not None
        await child.stdout.readline()
        peaks.look()
        await child.communicate(b"\n")
    assert peaks.mib["gateway"] >= HOLDS
    assert "gateway" not in processes.rss_mib()
    assert os.getpid() not in {pid for kind in processes.pids().values() for pid in kind}
