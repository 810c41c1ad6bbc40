"""Reads the catalog from a model repository: what Triton's config.pbtxt files say, without Triton.

Gateway and dispatcher read the same files that Triton serves from, so they agree on names, shapes
and versions while Triton is down or not yet started.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract.catalog import MODEL_NAME, Catalog, Model, Tensor

log = logging.getLogger(__name__)

DEFAULT_TASK = "tensor"
FILE_NAMES = {  # Triton's default_model_filename, by backend
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "python": "model.py",
    "pytorch": "model.pt",
    "openvino": "model.xml",
    "tensorflow": "model.savedmodel",
}
BACKENDS = {  # the older spelling of the same
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
}


class BrokenRepository(ValueError):
    """A file of the model repository is wrong; the message names it and, if known, the line."""


def read_catalog(
    repository: Path, *, offered: Sequence[str] = (), config_name: str | None = None
) -> Catalog:
    """Read every model, or those `offered`, in that order.

    A model without any version that is built is left out, unless it is offered by name.

    Args:
        config_name: `configs/<name>.pbtxt` is read where a model has one, as Triton does with
            --model-config-name.

    Raises:
        BrokenRepository: a config is wrong, or an offered model is not there.
    """
    if not repository.is_dir():
        raise BrokenRepository(f"there is no model repository {repository}")
    names = offered or sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    models = []
    for name in names:
        model = _read_model(repository / name, config_name)
        if model.versions:
            models.append(model)
        elif offered:
            raise BrokenRepository(f"{repository / name}: no version of it is built")
        else:
            log.info("model.not_built", extra={"model": name})
    return Catalog(models)


def _read_model(folder: Path, config_name: str | None) -> Model:
    path = folder / "config.pbtxt"
    if config_name and (folder / "configs" / f"{config_name}.pbtxt").exists():
        path = folder / "configs" / f"{config_name}.pbtxt"
    config = _parse(path)
    if not MODEL_NAME.fullmatch(folder.name):
        raise BrokenRepository(f"{folder}: a model's name is letters, digits, '.', '_' and '-'")
    if config.name not in ("", folder.name):
        raise BrokenRepository(f"{path}: name is {config.name!r}, and the folder {folder.name!r}")
    if not config.input or not config.output:
        raise BrokenRepository(f"{path}: name every input and output; clients are told of them")
    return Model(
        name=folder.name,
        versions=_versions(folder, config),
        task=_parameter(config, "task") or DEFAULT_TASK,
        max_batch_size=config.max_batch_size,
        inputs=tuple(_tensor(tensor, path) for tensor in config.input),
        outputs=tuple(_tensor(tensor, path, folder) for tensor in config.output),
        description=_parameter(config, "description"),
        instances=_instances(config),
    )


def _parse(path: Path) -> Any:
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except OSError as error:
        raise BrokenRepository(f"{path}: {error.strerror}") from error
    except text_format.ParseError as error:
        # The error's own text begins with line and column.
        raise BrokenRepository(f"{path}:{error}") from error
    except UnicodeDecodeError as error:
        raise BrokenRepository(f"{path}: not UTF-8 text") from error
    return config


def _tensor(tensor: Any, path: Path, folder: Path | None = None) -> Tensor:
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    if not tensor.name or name == "INVALID":
        raise BrokenRepository(f"{path}: each input and output needs a name and a data_type")
    datatype = "BYTES" if name == "STRING" else name
    labels: tuple[str, ...] = ()
    if folder is not None and tensor.label_filename:
        labels = _labels(folder / tensor.label_filename, path)
    return Tensor(tensor.name, datatype, tuple(tensor.dims), labels)


def _labels(labels: Path, path: Path) -> tuple[str, ...]:
    try:
        return tuple(labels.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenRepository(f"{path}: label_filename {labels.name}: {error}") from error


def _versions(folder: Path, config: Any) -> tuple[int, ...]:
    """The versions Triton would serve, ascending: those built, as the version policy picks them."""
    built = sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal() and not path.name.startswith("0") and _is_built(path, config)
    )
    policy = config.version_policy
    if policy.HasField("all"):
        return tuple(built)
    if policy.HasField("specific"):
        return tuple(version for version in built if version in policy.specific.versions)
    newest = policy.latest.num_versions or 1  # without a policy: the latest
    return tuple(built[-newest:])


def _is_built(version: Path, config: Any) -> bool:
    if not version.is_dir():
        return False
    backend = config.backend or BACKENDS.get(config.platform, config.platform)
    name = config.default_model_filename or FILE_NAMES.get(backend)
    if backend == "ensemble":  # its version is a folder with nothing in it
        return True
    return (version / name).exists() if name else any(version.iterdir())


def _instances(config: Any) -> int:
    """How many run at once on this machine, as far as the config can say."""
    count = sum((group.count or 1) * max(1, len(group.gpus)) for group in config.instance_group)
    return count or 1


def _parameter(config: Any, key: str) -> str:
    # Reading an absent key of a protobuf map would create it.
    return config.parameters[key].string_value if key in config.parameters else ""
