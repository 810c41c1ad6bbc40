"""The models and versions on offer, and the spellings by which callers name them.

Built from the model repository (`inference.repository`); the same on gateway and dispatcher.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contract.errors import InvalidInput, UnknownModel

OWNER = "triton"  # the first half of `owner/name` in the REST dialect
MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")  # what Triton accepts as a model's name


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model, without the batch dimension.

    `datatype` is in the protocol's spelling (`FP32`, `UINT8`, `BYTES`, ...); -1 in `dims` is any
    size.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    labels: tuple[str, ...] = ()  # of a classification output, by index


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the repository and the versions of it that are served."""

    name: str
    versions: tuple[int, ...]  # ascending, never empty
    task: str
    max_batch_size: int  # 0: the model does not batch
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    description: str = ""
    instances: int = 1  # how many run at once

    @property
    def latest(self) -> int:
        return self.versions[-1]

    @property
    def full_name(self) -> str:
        return f"{OWNER}/{self.name}"


@dataclass(frozen=True, slots=True)
class Lane:
    """Predictions that may share one Triton request."""

    model: str
    version: int


class Catalog:
    """Models by name, in order of preference: the first of a task is its default."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def model(self, name: str) -> Model:
        """Raises UnknownModel."""
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(f"no model named {_shown(name)} is on offer") from None

    def resolve(self, name: str, version: int | None) -> tuple[Model, int]:
        """Find a model and settle its version; None means the latest.

        Raises:
            UnknownModel: no such model, or it is not served in that version.
        """
        model = self.model(name)
        if version is None:
            return model, model.latest
        if version not in model.versions:
            offered = ", ".join(str(number) for number in model.versions)
            raise UnknownModel(f"model {name} has no version {version}; it has {offered}")
        return model, version


def version_id(model: str, version: int) -> str:
    """The globally unique id of a version in the REST dialect: `triton.efficientnet_lite0.1`."""
    return f"{OWNER}.{model}.{version}"


_VERSION_ID = re.compile(
    rf"{OWNER}\.(?P<name>[A-Za-z0-9._-]{{1,128}})\.(?P<version>[1-9][0-9]{{0,17}})"
)
_REFERENCE = re.compile(
    rf"(?:{OWNER}/)?(?P<name>[A-Za-z0-9._-]{{1,128}})(?:[@:](?P<version>[1-9][0-9]{{0,17}}))?"
)


def parse_reference(text: str, *, field: str = "version") -> tuple[str, int | None]:
    """Read a model reference: `owner/name`, `name@1`, `owner/name:1`, or a version id.

    A version id may also stand after `owner/name:`, as Replicate's clients write it.

    Raises:
        InvalidInput: none of these; a bare number says what to write instead.
    """
    if text.isascii() and text.isdigit():
        raise InvalidInput(
            f"a bare version number names no model; write {OWNER}.<model>.{text[:18]}",
            field=field,
            rule="version_id",
        )
    _, _, after_colon = text.partition(":")
    match = _VERSION_ID.fullmatch(after_colon or text) or _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"write {OWNER}/<model>, {OWNER}/<model>@<number> or {OWNER}.<model>.<number>",
            field=field,
            rule="version_id",
        )
    number = match["version"]
    return match["name"], int(number) if number else None


def _shown(text: str) -> str:
    """A name that came from outside, safe and short enough to repeat in a message."""
    return ascii(text[:80])
