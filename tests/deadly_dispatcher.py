"""`python -m dispatcher`, to which some inputs are deadly. The product has no such thing.

Where the environment has DEADLY_CALLBACK, a callback on its loop fails soon after the start.
"""

import asyncio
import os
import signal
import sys

from contract.catalog import Model
from dispatcher import __main__ as program
from dispatcher.serve import Dispatcher
from tasks.base import Input, Tensors
from tasks.tensor import TensorTask

DEADLY = "deadly"  # kills its dispatcher while it is encoded

_encode, _run = TensorTask.encode, Dispatcher.run


def deadly_encode(task: TensorTask, model: Model, given: Input) -> Tensors:
    if given.input.get("INPUT0") == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return _encode(task, model, given)


async def run(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    if "DEADLY_CALLBACK" in os.environ:
        asyncio.get_running_loop().call_later(0.5, lambda: dict[str, int]()["a bug"])
    await _run(dispatcher, stop)


setattr(TensorTask, "encode", deadly_encode)  # noqa: B010 - mypy forbids the plain form
setattr(Dispatcher, "run", run)  # noqa: B010

if __name__ == "__main__":
    sys.exit(program.main())
