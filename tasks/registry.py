"""All tasks, by name."""

from tasks.base import Task
from tasks.image_classification import ImageClassification
from tasks.tensor import TensorTask

_TASKS: dict[str, Task] = {task.name: task for task in (ImageClassification(), TensorTask())}


def task(name: str) -> Task:
    """Find a task.

    Raises:
        ValueError: there is none of this name.
    """
    try:
        return _TASKS[name]
    except KeyError:
        raise ValueError(f"there is no task {name!r}; there are {', '.join(_TASKS)}") from None
