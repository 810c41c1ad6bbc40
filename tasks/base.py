"""What a task is: how callers' inputs become tensors, and tensors become callers' outputs."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from contract.catalog import Model
from contract.prediction import JSON, File

Tensors = dict[str, NDArray[Any]]


class Input(Protocol):
    """What a task reads: `contract.prediction.Ticket` is one."""

    @property
    def input(self) -> dict[str, JSON]: ...
    @property
    def files(self) -> dict[str, File]: ...


class Task(Protocol):
    """One kind of work. Stateless: every method may run in any thread.

    The gateway calls `check`, which must cost almost nothing; the dispatcher calls `encode`, one
    row at a time, and `decode`, one row of a batch at a time.
    """

    name: ClassVar[str]
    main_file: ClassVar[str | None]
    """The input field that a raw request body, or a lone uploaded file, goes to."""

    def check_model(self, model: Model) -> None:
        """Refuse a model that this task cannot serve. Called once, when a process starts.

        Raises:
            ValueError: its inputs or outputs are not what the task works with; says which.
        """
        ...

    def check(self, model: Model, given: Input) -> None:
        """Refuse what can be seen to be wrong without decoding it. File contents are inline here.

        Raises:
            InvalidInput: with field and rule. (Also its children TooLarge, UnsupportedMedia.)
        """
        ...

    def encode(self, model: Model, given: Input) -> Tensors:
        """Turn one input into the tensors of one row, without the batch dimension.

        File contents are inline here. Where the model's dims allow any size (-1), the rows of
        different inputs may differ in shape: such rows cannot share a request.

        Raises:
            InvalidInput: the content cannot be decoded after all.
        """
        ...

    def decode(self, model: Model, given: Input, outputs: Mapping[str, NDArray[Any]]) -> JSON:
        """Turn one row of outputs, without the batch dimension, into plain JSON values.

        Raises:
            UnusableOutput: the model's answer has no JSON form (NaN, infinity), or not the
                shape its configuration promises. A retry gives the same.
        """
        ...

    def input_schema(self, model: Model) -> dict[str, JSON]:
        """JSON Schema of the input object, with an example, in OpenAPI's dialect."""
        ...

    def output_schema(self, model: Model) -> dict[str, JSON]:
        """JSON Schema of the output."""
        ...
