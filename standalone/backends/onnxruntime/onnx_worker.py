"""One ONNX model in a process of its own: what brings it down brings down nothing else.

Triton's stub starts this program and talks to it (`onnx_process.py`): the settings once, then one
question at a time. It ends when its stub does, or closes the connection.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from messages import Messages
from shared_arrays import SharedArrays

OPTIMIZATION_LEVELS = {  # config.pbtxt's `optimization { graph { level } }`; absent is 0
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
SEVERITY_WARNING = 2
# Its messages begin with file and line, and some with the signature of a C++ method.
_PLACE = re.compile(r"^\S+\.(?:cc|h):\d+ (?:[^(]*::\w+\([^)]*\) )?")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def open_session(folder, config, device=None):
    """An InferenceSession for the version in `folder`, with the options that `config` gives.

    Args:
        config: config.pbtxt as Triton gives it to backends.
        device: of CUDA; None for the CPU.
    """
    return ort.InferenceSession(
        str(_model_file(Path(folder), config)),
        _session_options(config),
        providers=_providers(device),
    )


def main():
    connection, shared, stub = Messages(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    _end_with(stub)
    _be_the_first_to_go()
    try:
        serve(connection, SharedArrays(shared))
    except (EOFError, ConnectionError):
        return  # the stub has ended, or wants us to


def serve(connection, arrays):
    """Load the model, then answer questions until the connection is closed."""
    settings = connection.receive()
    if settings["memory_bytes_max"]:
        # Then an allocation fails, and with it one input, instead of the whole machine.
        resource.setrlimit(resource.RLIMIT_DATA, (settings["memory_bytes_max"],) * 2)
    config = settings["config"]
    try:
        session = open_session(settings["folder"], config, settings["device"])
    except Exception as error:  # noqa: BLE001 -- whatever ONNX Runtime raises is the answer
        connection.send(("refused", str(error)))
        return
    connection.send(("ready", _described(session.get_inputs()), _described(session.get_outputs())))
    options, rows_at_once = _run_options(config), settings["rows_at_once"]
    while True:
        names, notes, end = connection.receive()
        try:
            outputs = _outputs(session, names, arrays.read(notes), options, rows_at_once)
            answer = ("answer", arrays.write(outputs, end)[0])
            del outputs
        except Exception as error:  # noqa: BLE001 -- as above
            answer = ("failed", _reason(error))
        connection.send(answer)


def _outputs(session, names, feeds, options, rows_at_once):
    """What the model makes of a batch: by name a list of arrays, which belong together.

    Args:
        rows_at_once: run so many rows, then the next ones; 0 for all in one run.
    """
    rows = next(iter(feeds.values())).shape[0] if rows_at_once else 0
    if rows <= rows_at_once:
        outputs = session.run(names, feeds, options)
        return {name: [np.asarray(it)] for name, it in zip(names, outputs, strict=True)}
    joined = {name: [] for name in names}
    for start in range(0, rows, rows_at_once):
        part = {name: array[start : start + rows_at_once] for name, array in feeds.items()}
        asked = min(rows_at_once, rows - start)
        for name, array in zip(names, session.run(names, part, options), strict=True):
            # One row too few here and one too many there would mix predictions up.
            if np.shape(array)[:1] != (asked,):
                raise ValueError(f"output '{name}' has shape {array.shape} for a batch of {asked}")
            joined[name].append(array)
    return joined


def _end_with(stub):
    """Be killed when the process `stub` ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != stub:  # it has ended already
        sys.exit(1)


def _be_the_first_to_go():
    """If memory runs out the kernel shall take this process: it is the cause, and soon back."""
    with contextlib.suppress(OSError):  # not ours to say in this container
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # each crash would fill the disk with a core


def _reason(error):
    """What ONNX Runtime says, without where in its own source it says so."""
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"while running (\w+) node\..*?Status Message: (.*)", text, re.DOTALL):
        text = f"{found[1]}: {re.sub(_PLACE, '', found[2])}"
    return text


def _described(nodes):
    return [(node.name, node.type, list(node.shape)) for node in nodes]


def _model_file(folder, config):
    """The ONNX file of a version; a model with external data is a folder that holds one."""
    path = folder / (config.get("default_model_filename") or "model.onnx")
    return path / path.name if path.is_dir() else path


def _parameter(config, key):
    return (config.get("parameters") or {}).get(key, {}).get("string_value")


def _session_options(config):
    options = ort.SessionOptions()
    options.log_severity_level = SEVERITY_WARNING
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    options.graph_optimization_level = OPTIMIZATION_LEVELS[level]
    if threads := _parameter(config, "intra_op_thread_count"):
        options.intra_op_num_threads = int(threads)
    if threads := _parameter(config, "inter_op_thread_count"):
        options.inter_op_num_threads = int(threads)
    if mode := _parameter(config, "execution_mode"):
        options.execution_mode = (
            ort.ExecutionMode.ORT_PARALLEL if int(mode) else ort.ExecutionMode.ORT_SEQUENTIAL
        )
    if arena := _parameter(config, "enable_mem_arena"):
        options.enable_cpu_mem_arena = bool(int(arena))
    if pattern := _parameter(config, "enable_mem_pattern"):
        options.enable_mem_pattern = bool(int(pattern))
    for key in config.get("parameters") or {}:
        if key.startswith("session."):
            options.add_session_config_entry(key, _parameter(config, key))
    return options


def _run_options(config):
    options = ort.RunOptions()
    if devices := _parameter(config, "memory.enable_memory_arena_shrinkage"):
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", devices)
    return options


def _providers(device):
    if device is None:
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        sys.stderr.write("onnxruntime has no CUDA here (onnxruntime-gpu has): using the CPU\n")
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]


if __name__ == "__main__":
    main()
