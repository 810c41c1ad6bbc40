"""Runs one ONNX model in a process of its own, and replaces that process when an input breaks it.

Triton does not survive what goes wrong inside a stub: one that dies stays dead, one that hangs
hangs for ever, and Triton says "ready" all the while. So no model runs in the stub. What dies here
is back within a quarter of a second, the input that did it gets the reason, and neither Triton nor
the other instances of the model notice.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque, namedtuple
from pathlib import Path

import numpy as np
from messages import Messages
from shared_arrays import SharedArrays

WORKER = Path(__file__).with_name("onnx_worker.py")
START_S_MAX = 60.0  # a large model may be read from a slow disk
END_S_MAX = 5.0  # a killed process is gone in milliseconds
LOOK_EVERY_S = 0.25  # while an answer is awaited: whether the process is frozen, or too slow
# A batch whose sender is in a hurry may take this many times what a row took at most of late.
USUAL_TIMES_MAX = 20.0
HURRIED_S_MIN = 2.0  # a busy machine makes everything slow for so long
REMEMBERED = 64  # executions

Node = namedtuple("Node", "name type shape")  # an input or output of the model


class NotStarted(Exception):
    """The model cannot be run at present; the message says why."""


class Failed(Exception):
    """ONNX Runtime refused these inputs, and is well."""


class Died(Exception):
    """The process ended under these inputs, which may or may not be the cause."""


class Overran(Exception):
    """The execution took too long and was ended."""


class OnnxProcess:
    """One instance of a model. Not for several threads.

    Args:
        settings: folder, config, device, memory_bytes_max and rows_at_once, for
            `onnx_worker.serve`.
        execution_s_max: of one execution, in any case.
    """

    def __init__(self, settings, execution_s_max):
        self._settings = settings
        self._execution_s_max = execution_s_max
        self._row_seconds = deque(maxlen=REMEMBERED)
        self._process = None
        self._connection = None
        self._arrays = None
        self._is_ready = False

    def start(self):
        """Load the model; returns its inputs and its outputs, as lists of Node.

        Raises:
            NotStarted: with ONNX Runtime's reason.
        """
        self._spawn()
        return self._until_ready()

    def run(self, names, feeds, *, rows, is_hurried):
        """Run the model once on all of `feeds`, joined along the first axis.

        Args:
            names: of the outputs wanted.
            feeds: arrays by input, one dict for each request.
            rows: how many they are together.
            is_hurried: whether to end the execution once it takes far longer than usual. Its rows
                can be tried one by one then, and the slow one with all the time there is.

        Raises:
            Failed, Died, Overran, NotStarted: as they say.
        """
        self._be_ready()
        joined = {name: [feed[name] for feed in feeds] for name in feeds[0]}
        limit_s = self._hurried_s_max(rows) if is_hurried else self._execution_s_max
        began = time.monotonic()
        try:
            notes, end = self._arrays.write(joined)
            self._connection.send((names, notes, end))
            kind, content = self._answer(limit_s)
        except (EOFError, OSError) as error:
            raise Died(f"the model's process {self._replaced()} on this input") from error
        except Overran as error:
            self._replaced()
            raise Overran(
                f"the model overran the {limit_s:g} s of one execution on this input"
            ) from error
        if kind == "failed":
            raise Failed(content)
        self._row_seconds.append((time.monotonic() - began) / max(rows, 1))
        return {name: np.array(array) for name, array in self._arrays.read(content).items()}

    def close(self):
        """End the process."""
        self._end()

    def _hurried_s_max(self, rows):
        if not self._row_seconds:
            return self._execution_s_max
        usual_s = USUAL_TIMES_MAX * max(self._row_seconds) * rows
        return min(self._execution_s_max, max(HURRIED_S_MIN, usual_s))

    def _be_ready(self):
        """Have a process that waits for a question: one that was ended while idle is replaced."""
        if self._is_ready and self._connection.has_news():  # it has nothing to say: it has ended
            self._replaced()
        if self._process is not None and not self._is_ready:
            with contextlib.suppress(NotStarted):  # what was wrong then may be right now
                self._until_ready()
        if self._process is None:
            self._spawn()
            self._until_ready()

    def _spawn(self):
        ours, theirs = socket.socketpair()
        shared = os.memfd_create("onnx")
        descriptors = (theirs.fileno(), shared)
        # -E, -s: as Triton runs its stubs, whatever the user has set for his own Python.
        command = [sys.executable, "-E", "-s", "-B", str(WORKER), *map(str, descriptors)]
        try:
            self._process = subprocess.Popen(
                [*command, str(os.getpid())], pass_fds=descriptors, cwd="/",
                stdin=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        except OSError as error:
            os.close(shared)
            ours.close()
            raise NotStarted(f"no process can be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._connection = Messages(ours.detach(), LOOK_EVERY_S)
        self._arrays = SharedArrays(shared)
        self._is_ready = False
        with contextlib.suppress(OSError):  # it has ended already, which `_until_ready` will see
            self._connection.send(self._settings)

    def _until_ready(self):
        try:
            kind, *content = self._answer(START_S_MAX)
        except (EOFError, OSError) as error:
            raise NotStarted(f"the model's process {self._end()} while loading it") from error
        except Overran as error:
            self._end()
            raise NotStarted(f"the model was not loaded within {START_S_MAX:.0f} s") from error
        if kind == "refused":
            self._end()
            raise NotStarted(content[0])
        self._is_ready = True
        return tuple([Node(*node) for node in nodes] for nodes in content)

    def _answer(self, wait_s_max):
        """What the process answers."""
        waited_s = 0.0
        while (answer := self._connection.receive()) is None:
            # Counted, not measured: while we were frozen ourselves, so was everybody else.
            waited_s += LOOK_EVERY_S
            if _is_frozen(self._process.pid):
                raise EOFError
            if waited_s >= wait_s_max:
                raise Overran
        return answer

    def _replaced(self):
        """End the process and begin a new one, which loads the model meanwhile; how it ended."""
        manner = self._end()
        try:
            self._spawn()
        except NotStarted:
            self._process = None  # the next question tries again
        return manner

    def _end(self):
        """End the process; returns in which manner it ended, in words."""
        process, self._process, self._is_ready = self._process, None, False
        if process is None:
            return "had ended"
        was_frozen = _is_frozen(process.pid)
        self._connection.close()  # an idle one ends of itself then
        self._arrays.close()
        if process.poll() is None and not _ends_soon(process):
            process.kill()
        try:
            code = process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            return "could not be ended"
        if was_frozen:
            return "was frozen, and was ended,"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _ends_soon(process):
    """Whether a process whose connection was lost is on its way out by itself."""
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        return False
    return True


def _is_frozen(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")
