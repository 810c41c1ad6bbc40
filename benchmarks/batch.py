"""What a batch of photographs costs: images/s, CPU-ms an image over all processes, memory.

    python benchmarks/batch.py MODEL --images 400 --rounds 5

Starts the whole product in a new state folder, submits photographs made from samples/ through the
REST API with `tritonq.AsyncClient`, and reads the CPU time of every process before and after. The
client's own CPU time is shown apart: it is not the service's.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
from PIL import Image, ImageOps

from standalone.installation import Options
from standalone.state import Running
from standalone.up import up
from tritonq import AsyncClient

ROOT = Path(__file__).resolve().parent.parent
SIZE = (500, 375)  # about what ImageNet's photographs have
IN_FLIGHT = 64


def photographs(count: int) -> list[bytes]:
    """`count` different JPEGs of SIZE: the samples, mirrored, shifted and turned brighter."""
    sources = [
        ImageOps.fit(Image.open(path).convert("RGB"), (600, 450))
        for path in sorted((ROOT / "samples").iterdir())
        if path.suffix in (".jpg", ".png")
    ]
    made = []
    for number in range(count):
        image = sources[number % len(sources)]
        shift = number // len(sources)
        left, top = shift * 7 % 100, shift * 11 % 75
        image = image.crop((left, top, left + SIZE[0], top + SIZE[1]))
        if shift % 2:
            image = ImageOps.mirror(image)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def cpu_seconds() -> dict[str, float]:
    """CPU time of this process' family so far, by what each process is."""
    spent: defaultdict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            spent[_kind(process)] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return dict(spent)


def rss_mib() -> dict[str, int]:
    held: defaultdict[str, int] = defaultdict(int)
    for process in psutil.Process().children(recursive=True):
        try:
            held[_kind(process)] += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return {kind: round(size / 2**20) for kind, size in held.items()}


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()) or process.name()
    for kind in ("gateway", "dispatcher"):
        if command.endswith(f"-m {kind}"):
            return kind
    for mark in ("tritonserver", "triton_python_backend_stub", "nats-server"):
        if mark in command:
            return mark
    return "postgres" if process.name() == "postgres" else "other"


async def one_round(client: AsyncClient, model: str, images: list[bytes]) -> dict[str, object]:
    before, own, began = cpu_seconds(), time.process_time(), time.perf_counter()
    statuses = set()
    async for item in client.map(model, images, concurrency=IN_FLIGHT):
        statuses.add(item.prediction.status if item.prediction else str(item.error))
    wall_s = time.perf_counter() - began
    after = cpu_seconds()
    spent = {kind: (after[kind] - before.get(kind, 0.0)) * 1000 / len(images) for kind in after}
    assert statuses == {"succeeded"}, statuses
    return {
        "images_per_s": len(images) / wall_s,
        "cpu_ms": sum(spent.values()),
        "cpu_ms_by_process": spent,
        "client_cpu_ms": (time.process_time() - own) * 1000 / len(images),
    }


async def measure(arguments: argparse.Namespace, running: Running) -> int:
    images = photographs(arguments.images)
    async with AsyncClient(running.api_url) as client:
        await one_round(client, arguments.model, images[:64])  # warm-up
        rounds = [await one_round(client, arguments.model, images) for _ in range(arguments.rounds)]
    kinds = rounds[0]["cpu_ms_by_process"]
    assert isinstance(kinds, dict)
    result = {
        "model": arguments.model,
        "images": arguments.images,
        "rounds": arguments.rounds,
        "bytes_per_image": round(statistics.mean(map(len, images))),
        "cores": os.cpu_count(),
        "images_per_s": _median(rounds, "images_per_s"),
        "cpu_ms_per_image": _median(rounds, "cpu_ms"),
        "by_process": {
            kind: round(statistics.median(it["cpu_ms_by_process"][kind] for it in rounds), 2)  # type: ignore[index]
            for kind in kinds
        },
        "client_cpu_ms_per_image": _median(rounds, "client_cpu_ms"),
        "rss_mib": rss_mib(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


def _median(rounds: list[dict[str, object]], key: str) -> float:
    return round(statistics.median(float(it[key]) for it in rounds), 2)  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync-interval", default="always", help="of nats-server")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tritonq-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres, run as nobody, passes through it
        options = Options(
            state=Path(folder) / "state",
            repository=ROOT / "model_repository",
            triton_environment=ROOT / ".venv-triton",
            sync_interval=arguments.sync_interval,
        )
        return asyncio.run(
            up(
                options,
                tell=lambda event: print(event, file=sys.stderr),
                at_work=lambda running: measure(arguments, running),
            )
        )


if __name__ == "__main__":
    sys.exit(main())
