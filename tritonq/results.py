"""What the service answers, as values: predictions, models, and items of a map.

Fields the service adds later are ignored, so an older client goes on reading a newer service.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from tritonq.errors import PredictionFailed, TritonqError

JSON = Any  # what `json.loads` returns

Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "canceled"})

Given = TypeVar("Given")


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of work, as the service showed it when it was asked.

    `output` is there exactly when `status` is "succeeded"; `error` (a sentence) and `error_code`
    (a stable word) exactly when it is "failed". `queue` says where an unfinished one stands;
    `deadline` is when it fails if it has not ended by then. `retry_of` is the failed prediction
    that this one is a retry of. Times are UTC.
    """

    id: str
    model: str
    version: str
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    deadline: datetime | None = None
    retry_of: str | None = None
    input: dict[str, JSON] = {}
    output: JSON = None
    error: str | None = None
    error_code: str | None = None
    logs: str | None = None
    metrics: dict[str, JSON] = {}
    priority: Priority = "normal"
    queue: dict[str, JSON] | None = None
    urls: dict[str, str] = {}

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def has_succeeded(self) -> bool:
        return self.status == "succeeded"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model; `openapi_schema` describes its input and output."""

    id: str
    openapi_schema: dict[str, JSON] = {}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model on offer."""

    owner: str
    name: str
    description: str | None = None
    latest_version: Version | None = None

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Item(Generic[Given]):
    """What became of one input of a `map`.

    `prediction` is as it was last seen: None when there is none, since the service refused the
    input, or none that we know of. `error` is None exactly when it succeeded.
    """

    given: Given
    prediction: Prediction | None
    error: TritonqError | None

    @property
    def output(self) -> JSON:
        """The output of the prediction; raises `error` where there is none."""
        if self.error is not None:
            raise self.error
        assert self.prediction is not None
        return self.prediction.output


def ended_item(given: Given, prediction: Prediction) -> Item[Given]:
    """The item of an input whose prediction has ended."""
    assert prediction.has_ended
    error = None if prediction.has_succeeded else PredictionFailed(prediction)
    return Item(given, prediction, error)
