"""Without the service: Triton asked directly, and the runtime without even Triton.

*direct* is the product's own tritonserver, asked over gRPC by a client that decodes the photographs
itself, one image a request; Triton makes the batches. It keeps nothing. The client is this process,
and its CPU time counts: it does work that the service does otherwise.
*raw* is onnxruntime alone (`benchmarks.raw`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np

from benchmarks import processes
from benchmarks.load import Loaded, closed_loop
from benchmarks.photographs import photographs
from benchmarks.product import IMAGES, SMALL, Figures, figures_of
from benchmarks.systems import System
from contract.catalog import Lane
from inference import Triton
from tasks.images import square_image

SIDE = 224
ANSWER_S_MAX = 60.0
# The others of the installation idle, and are no part of asking Triton directly.
INVOLVED = ("tritonserver", "triton_python_backend_stub", "onnx_worker")

Ask = Callable[[Triton, int], Awaitable[None]]


def classify(model: str) -> Ask:
    sources, lane = photographs(IMAGES), Lane(model, 1)

    async def ask(triton: Triton, number: int) -> None:
        image = square_image(sources[number % IMAGES], SIDE, "image")[np.newaxis]
        answer = await triton.infer(
            lane, {"image": image}, ["probabilities"], timeout_s=ANSWER_S_MAX
        )
        assert answer["probabilities"].argmax() >= 0

    return ask


def echo() -> Ask:
    text, lane = np.array([["x" * SMALL]], dtype=object), Lane("identity", 1)

    async def ask(triton: Triton, _: int) -> None:
        answer = await triton.infer(lane, {"INPUT0": text}, ["OUTPUT0"], timeout_s=ANSWER_S_MAX)
        assert len(answer["OUTPUT0"].item()) == SMALL

    return ask


async def measured(system: System, ask: Ask, count: int, at_once: int) -> Figures:
    """Ask the Triton of `system`; the client's CPU time is among that of the processes."""
    triton = Triton(system.triton)
    try:
        before = processes.cpu_s(system.pid)
        result = await closed_loop([triton] * at_once, count, ask)
        after = processes.cpu_s(system.pid)
    finally:
        await triton.close()
    after = {kind: s for kind, s in after.items() if kind in INVOLVED}
    after["client"] = result.client_cpu_s
    return replace(figures_of(result, before, after), client_cpu_ms=0.0)


async def raw(system: System, count: int) -> Figures:
    before = processes.cpu_s(system.pid)
    wall_s = float(await system.ask(str(count)))
    after = processes.cpu_s(system.pid)
    return figures_of(Loaded(count, wall_s, 0.0, [wall_s / count]), before, after)
