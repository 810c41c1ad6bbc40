"""Weights are built from the real pinned checkpoint, whole or not at all, and only when needed."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from weights import Progress, SourceUnavailable, WeightsError, WrongChecksum, build, buildable
from weights.builder import EFFICIENTNET_LITE0
from weights.efficientnet import efficientnet_lite0
from weights.errors import WrongWeights
from weights.graph import serialized
from weights.legacy_checkpoint import Weights, read_legacy_checkpoint
from weights.quantize import quantized, read_ranges
from weights.sources import fetch

ROOT = Path(__file__).parents[2]
FP32, INT8, IDENTITY = "efficientnet_lite0", "efficientnet_lite0_int8", "identity"


@pytest.fixture(scope="session")
def mirror() -> Path:
    """A folder that holds the real pinned file: the cache of `make weights`, filled if need be."""
    cache = ROOT / ".cache" / "weights"
    fetch(EFFICIENTNET_LITE0, cache=cache, mirror=None, report=lambda _: None)
    return cache


@pytest.fixture(scope="session")
def weights(mirror: Path) -> Weights:
    return read_legacy_checkpoint((mirror / EFFICIENTNET_LITE0.name).read_bytes())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository in which nothing is built."""
    for model in buildable():
        (tmp_path / "models" / model).mkdir(parents=True)
        shutil.copy(ROOT / "model_repository" / model / "config.pbtxt", tmp_path / "models" / model)
    return tmp_path / "models"


def built_file(repository: Path, model: str) -> Path:
    return repository / model / "1" / "model.onnx"


def test_a_build_makes_every_model_and_tells_what_it_made(repository: Path, mirror: Path) -> None:
    results = build(repository, mirror=str(mirror))
    assert [result.model for result in results] == list(buildable())
    for result in results:
        content = result.path.read_bytes()
        assert result.path == built_file(repository, result.model)
        assert (result.size, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert not result.was_current
        onnx.checker.check_model(onnx.load_from_string(content))


def test_what_is_current_is_neither_fetched_nor_written_again(
    repository: Path, mirror: Path, tmp_path: Path
) -> None:
    build(repository, cache=tmp_path / "cache", mirror=str(mirror))
    shutil.rmtree(tmp_path / "cache")
    before = [built_file(repository, model).stat() for model in buildable()]
    reported: list[Progress] = []
    results = build(repository, cache=tmp_path / "cache", mirror="/nowhere", report=reported.append)
    assert all(result.was_current for result in results)
    assert reported == []
    assert [built_file(repository, model).stat() for model in buildable()] == before


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "removed", "no stamp"])
def test_a_damaged_model_is_built_again(repository: Path, damage: str) -> None:
    (first,) = build(repository, [IDENTITY])
    match damage:
        case "truncated":
            os.truncate(first.path, 10)
        case "other bytes":
            first.path.write_bytes(first.path.read_bytes()[::-1])
        case "removed":
            first.path.unlink()
        case _:
            first.path.with_name("built.json").unlink()
    (second,) = build(repository, [IDENTITY])
    assert not second.was_current
    assert second.sha256 == first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()


def test_equal_sources_give_equal_bytes_in_every_process(mirror: Path, weights: Weights) -> None:
    script = (
        "import sys, hashlib, pathlib\n"
        "from weights.builder import _RECIPES\n"
        "content = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "for recipe in _RECIPES.values():\n"
        "    print(hashlib.sha256(recipe.graph(content)).hexdigest())\n"
    )
    command = [sys.executable, "-c", script, str(mirror / EFFICIENTNET_LITE0.name)]
    first, second = (
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )  # fmt: skip
    assert first == second
    ours = serialized(efficientnet_lite0(weights))
    assert first.decode().splitlines()[0] == hashlib.sha256(ours).hexdigest()


@pytest.fixture
def web(mirror: Path) -> Iterator[str]:
    """The address of a web server that holds the pinned file."""
    handler = partial(_Quiet, directory=str(mirror))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_mirror_on_the_web_serves_as_well_and_tells_its_progress(
    repository: Path, tmp_path: Path, web: str
) -> None:
    reported: list[Progress] = []
    (result,) = build(
        repository, [FP32], cache=tmp_path / "cache", mirror=web, report=reported.append
    )
    assert result.path.exists()
    fetching = [progress for progress in reported if progress.total]
    assert [progress.done for progress in fetching] == sorted(
        progress.done for progress in fetching
    )
    assert fetching[-1].done == fetching[-1].total == EFFICIENTNET_LITE0.size
    assert len(fetching) > 10


def test_a_file_other_than_the_pinned_one_is_not_used(repository: Path, tmp_path: Path) -> None:
    (tmp_path / EFFICIENTNET_LITE0.name).write_bytes(b"other weights")
    with pytest.raises(WrongChecksum, match="it was not used"):
        build(repository, [FP32], cache=tmp_path / "cache", mirror=str(tmp_path))
    assert not built_file(repository, FP32).exists()
    assert not (tmp_path / "cache" / EFFICIENTNET_LITE0.name).exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(
    repository: Path, tmp_path: Path, mirror: Path
) -> None:
    cached = tmp_path / "cache" / EFFICIENTNET_LITE0.name
    cached.parent.mkdir()
    cached.write_bytes(b"half a fi")
    build(repository, [FP32], cache=cached.parent, mirror=str(mirror))
    assert hashlib.sha256(cached.read_bytes()).hexdigest() == EFFICIENTNET_LITE0.sha256


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("/nowhere", "No such file"),
        ("s3://bucket/weights", "a mirror is a folder"),
        ("http://127.0.0.1:9", "cannot fetch http://127.0.0.1:9/efficientnet"),
    ],
)
def test_a_mirror_that_does_not_hold_the_file_is_named_in_the_error(
    repository: Path, tmp_path: Path, mirror: str, reason: str
) -> None:
    with pytest.raises(SourceUnavailable, match=reason):
        build(repository, [FP32], cache=tmp_path / "cache", mirror=mirror)


def test_a_package_index_out_of_reach_is_a_clear_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SourceUnavailable, match=r"pip cannot download .*==0\.1\.0: ERROR"):
        build(repository, [FP32], cache=tmp_path / "cache")


def test_a_model_that_cannot_be_built_is_refused_by_name(repository: Path) -> None:
    with pytest.raises(WeightsError, match="resnet50 cannot be built; these can: efficientnet"):
        build(repository, ["resnet50"])
    (repository / IDENTITY / "config.pbtxt").unlink()
    with pytest.raises(WeightsError, match=r"identity has no config\.pbtxt"):
        build(repository, [IDENTITY])
    with pytest.raises(WeightsError, match="no model repository"):
        build(repository / "missing")


def test_builds_at_the_same_time_build_once_and_agree(repository: Path, mirror: Path) -> None:
    command = [sys.executable, "-m", "weights"]
    environment = os.environ | {
        "WEIGHTS_REPOSITORY": str(repository),
        "WEIGHTS_MIRROR": str(mirror),
    }
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count(": built, ") for text in printed) == len(buildable())
    assert all(result.was_current for result in build(repository))
    assert list(repository.rglob("*.partial")) == []


def test_a_build_that_is_killed_leaves_no_half_model(repository: Path, mirror: Path) -> None:
    """Killed at the moment it says it writes the model: nothing, or the whole model, is there."""
    environment = os.environ | {
        "WEIGHTS_REPOSITORY": str(repository),
        "WEIGHTS_MIRROR": str(mirror),
    }
    command = [sys.executable, "-m", "weights"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "writing" in line:
                process.kill()
                break
    path = built_file(repository, FP32)
    before = path.read_bytes() if path.exists() else None
    (result,) = build(repository, [FP32])
    assert before in (None, result.path.read_bytes())


def test_weights_of_another_network_are_refused(weights: Weights) -> None:
    with pytest.raises(WrongWeights, match=r"no tensor named _fc\.bias"):
        efficientnet_lite0({k: v for k, v in weights.items() if k != "_fc.bias"})
    with pytest.raises(WrongWeights, match=r"_blocks\.16"):
        efficientnet_lite0(weights | {"_blocks.16._bn0.bias": np.zeros(3)})
    with pytest.raises(WrongWeights, match="5x5, not 3x3"):
        efficientnet_lite0(weights | {"_conv_stem.weight": np.zeros((32, 3, 5, 5))})


def test_ranges_of_another_network_are_refused(weights: Weights) -> None:
    model, ranges = efficientnet_lite0(weights), dict(read_ranges())
    assert len(ranges) == 60
    with pytest.raises(WrongWeights, match="no activation: extra"):
        quantized(model, ranges | {"extra": (0.0, 1.0)})
    with pytest.raises(WrongWeights, match="empty or not finite"):
        quantized(model, ranges | {"logits": (0.0, 0.0)})
    del ranges["pooled"]
    with pytest.raises(WrongWeights, match="no range was measured for activation pooled"):
        quantized(model, ranges)


def test_the_int8_model_takes_and_gives_the_same_tensors_at_a_quarter_of_the_size(
    weights: Weights,
) -> None:
    fp32 = efficientnet_lite0(weights)
    int8 = quantized(fp32, read_ranges())
    assert list(int8.graph.input) == list(fp32.graph.input)
    assert list(int8.graph.output) == list(fp32.graph.output)
    assert len(serialized(int8)) < len(serialized(fp32)) / 3.5


def test_weights_are_rounded_to_all_of_8_bits_and_move_by_half_a_step_at_most(
    weights: Weights,
) -> None:
    fp32 = efficientnet_lite0(weights)
    int8 = quantized(fp32, read_ranges())
    rounded = {c.name: numpy_helper.to_array(c) for c in int8.graph.initializer}
    kernels = [c for c in fp32.graph.initializer if c.name.endswith(".weight")]
    assert len(kernels) == 50
    for constant in kernels:
        exact, name = numpy_helper.to_array(constant), constant.name
        scale = rounded[f"{name}.scale"].reshape(-1, *[1] * (exact.ndim - 1))
        steps = rounded[f"{name}.steps"]
        inside = tuple(range(1, exact.ndim))
        is_alive = np.abs(exact).max(axis=inside) > 1e-9  # training switched some channels off
        assert (np.abs(steps).max(axis=inside)[is_alive] == 127).all(), name
        error = np.abs(steps * scale - exact)
        assert (error <= scale * 0.5001).all(), name
