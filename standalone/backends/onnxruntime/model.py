"""Triton's `onnxruntime` backend in Python: serves ONNX models with the onnxruntime wheel.

NVIDIA's container has this backend as a C++ library. Where that is missing, Triton looks for
`<backend-directory>/onnxruntime/model.py`, so a model repository serves unchanged on both. This
file runs inside Triton's Python stub, one process per model instance, and imports nothing of ours
but its neighbours. The model itself runs in a process of its own (`onnx_process.py`).

It understands the config.pbtxt of the C++ backend: inputs and outputs of every type but BF16 (BYTES
as UTF-8 text only), reshape, optional inputs, dynamic batching, instance groups, versions,
`default_model_filename`, the optimization level, and these parameters: intra_op_thread_count,
inter_op_thread_count, execution_mode, enable_mem_arena, enable_mem_pattern,
memory.enable_memory_arena_shrinkage, session.*. It ignores execution accelerators, and refuses
ragged batches and sequence batching. Three parameters are its own, which the C++ backend ignores:
execution_s_max (10), after which an execution is ended; memory_bytes_max (no limit), beyond which
an allocation of the model fails; and rows_at_once (all), how many rows of a batch run together.

Source of the contract: github.com/triton-inference-server/onnxruntime_backend, README.
"""

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

if int(np.__version__.split(".")[0]) >= 2:
    # This stub was built for numpy 1: with numpy 2 it loads, reports ready, reads zeros instead of
    # the inputs, and returns empty outputs.
    raise ImportError(f"numpy {np.__version__} corrupts data in this Triton; install numpy<2")

from onnx_process import Died, Failed, NotStarted, OnnxProcess, Overran

TRITON_TYPES = {  # ONNX Runtime's name of a type -> config.pbtxt's
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
AUTO_BATCH_SIZE = 4  # the C++ backend's default where config.pbtxt says nothing
EXECUTION_S_MAX = 10.0  # a third of the dispatcher's patience: two that hang, one after the other
# How often an input may bring the process down, alone, before it is taken for the cause: others
# end processes too, a person or the kernel that is short of memory.
DOWNFALLS_MAX = 3

CANCELLED_S_MIN = 1.0  # nobody gives a request up sooner


class TritonPythonModel:
    """One instance of one version of a model. Triton calls `execute` from one thread."""

    @staticmethod
    def auto_complete_config(config):
        """Fill in what config.pbtxt leaves out, by the rules of the C++ backend."""
        from onnx_worker import open_session  # this stub is gone in a moment, whatever happens

        known = config.as_dict()
        session = open_session(_version_folder_of_this_process(), known)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        says_nothing = not (known["max_batch_size"] or known["input"] or known["output"])
        if says_nothing and all(_first_size_is_free(node) for node in inputs + outputs):
            config.set_max_batch_size(AUTO_BATCH_SIZE)
            config.set_dynamic_batching()
        batches = config.as_dict()["max_batch_size"] > 0
        for nodes, have, add in (
            (inputs, known["input"], config.add_input),
            (outputs, known["output"], config.add_output),
        ):
            names = {tensor["name"] for tensor in have}
            for node in nodes:
                if node.name not in names:
                    add(_as_config(node, batches))
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        _refuse_unsupported(config)
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = {
            "folder": str(folder),
            "config": config,
            "device": _device(args),
            "memory_bytes_max": _whole_number(config, "memory_bytes_max"),
            "rows_at_once": _rows_at_once(config),
        }
        self._process = OnnxProcess(settings, _execution_s_max(config))
        self._batches = config["max_batch_size"] > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._last_took_s = 0.0
        self._texts = {
            tensor["name"]
            for tensor in config["input"] + config["output"]
            if tensor["data_type"] == "TYPE_STRING"
        }
        try:
            inputs, outputs = self._process.start()
        except NotStarted as refusal:
            raise pb.TritonModelException(str(refusal)) from None
        _check("input", config["input"], inputs, self._batches)
        _check("output", config["output"], outputs, self._batches)
        for node in inputs:
            if node.name not in self._inputs:
                raise pb.TritonModelException(f"the model needs input '{node.name}' too")

    def execute(self, requests):
        """Answer each request; those that fit together run as one batch."""
        began_s = time.monotonic()
        responses = [None] * len(requests)
        groups = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                feeds = self._read(request)
            except _Refused as refusal:
                responses[index] = refusal.response
            else:
                shapes = ((name, array.dtype.str, array.shape[1:]) for name, array in feeds.items())
                # A model that does not batch takes one request at a time.
                key = tuple(shapes) if self._batches else index
                groups[key].append((index, feeds))
        for group in groups.values():
            for index, response in self._answer(group, requests):
                responses[index] = response
        self._last_took_s = time.monotonic() - began_s
        return responses

    def finalize(self):
        self._process.close()

    def _read(self, request):
        """The arrays of one request, by input; they are views, valid during `execute`."""
        # A question to Triton and back, which adds a fifth to the time of a small request. Triton
        # itself drops what is given up in its queue; this one was out of it for one execution.
        if self._last_took_s > CANCELLED_S_MIN and request.is_cancelled():
            raise _Refused("the request was cancelled", pb.TritonError.CANCELLED)
        feeds = {}
        for name in self._inputs:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is not None:  # an optional input
                array = tensor.as_numpy()
                feeds[name] = _as_text(name, array) if name in self._texts else array
        return feeds

    def _answer(self, group, requests):
        """Run a group as one batch, or, if that fails, each request alone to find the culprit."""
        wanted = [requests[index].requested_output_names() for index, _ in group]
        names = [name for name in self._outputs if any(name in some for some in wanted)]
        try:
            outputs = self._run(names, [feeds for _, feeds in group], _is_hurried(group, requests))
        except NotStarted as error:
            for index, _ in group:
                yield index, _Refused(str(error), pb.TritonError.UNAVAILABLE).response
            return
        except (Failed, Died, Overran) as error:
            if len(group) == 1:
                yield group[0][0], _Refused(str(error), pb.TritonError.INTERNAL).response
                return
            for member in group:
                yield from self._answer([member], requests)
            return
        start = 0
        for (index, feeds), some in zip(group, wanted, strict=True):
            rows = slice(None)
            if self._batches:
                rows = slice(start, start + _rows(feeds))
                start = rows.stop
            yield (
                index,
                pb.InferenceResponse(
                    [pb.Tensor(name, outputs[name][rows]) for name in names if name in some]
                ),
            )

    def _run(self, names, feeds, is_hurried):
        """Run the model once on all of `feeds`, one after the other along the batch dimension."""
        rows = sum(map(_rows, feeds)) if self._batches else 1
        for downfalls in range(1, DOWNFALLS_MAX + 1):
            try:
                outputs = self._process.run(names, feeds, rows=rows, is_hurried=is_hurried)
                break
            except Died:
                # Several rows are better tried one by one: that is for whoever sent them.
                if rows > 1 or downfalls == DOWNFALLS_MAX:
                    raise
        for name, array in outputs.items():
            if self._batches and array.shape[:1] != (rows,):
                raise Failed(f"output '{name}' has shape {array.shape} for a batch of {rows}")
        return outputs


class _Refused(Exception):
    """One request that fails without harm to the others of its batch."""

    def __init__(self, message, code):
        super().__init__(message)
        self.response = pb.InferenceResponse(error=pb.TritonError(message, code))


def _rows(feeds):
    return next(iter(feeds.values())).shape[0]


def _is_hurried(group, requests):
    """Whether to rather end a slow execution than wait: see `OnnxProcess.run`.

    Several requests that met by chance can be run one by one, each with all its time. A sender who
    says "hurried" can do the same with the rows of one request.
    """
    return len(group) > 1 or all(
        json.loads(requests[index].parameters() or "{}").get("hurried") for index, _ in group
    )


def _as_text(name, array):
    """BYTES as ONNX Runtime takes them from Python: str, which it stores as UTF-8."""
    try:
        texts = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        message = f"input '{name}' must be UTF-8 text in this backend: {error}"
        raise _Refused(message, pb.TritonError.INVALID_ARG) from None
    result = np.empty(len(texts), dtype=np.object_)
    result[:] = texts
    return result.reshape(array.shape)


def _refuse_unsupported(config):
    if "sequence_batching" in config:
        raise pb.TritonModelException("this backend does not do sequence_batching")
    if config.get("batch_input") or any(x.get("allow_ragged_batch") for x in config["input"]):
        raise pb.TritonModelException("this backend does not do ragged batches")


def _check(kind, tensors, nodes, batches):
    """Refuse a config that promises something else than the model has."""
    actual = {node.name: _as_config(node, batches) for node in nodes}
    for tensor in tensors:
        node = actual.get(tensor["name"])
        if node is None:
            raise pb.TritonModelException(
                f"the model has no {kind} '{tensor['name']}'; it has {', '.join(actual)}"
            )
        if tensor["data_type"] != node["data_type"]:
            raise pb.TritonModelException(
                f"{kind} '{tensor['name']}' is {tensor['data_type']} in config.pbtxt and "
                f"{node['data_type']} in the model"
            )
        dims = (tensor.get("reshape") or {}).get("shape", tensor["dims"])
        if not _agree(dims, node["dims"]):
            raise pb.TritonModelException(
                f"{kind} '{tensor['name']}' has dims {dims} in config.pbtxt and {node['dims']} in "
                f"the model{', without the batch dimension' if batches else ''}"
            )


def _agree(dims, other):
    return len(dims) == len(other) and all(
        size == wanted or -1 in (size, wanted) for size, wanted in zip(dims, other, strict=True)
    )


def _as_config(node, batches):
    """An input or output of the model in the words of config.pbtxt; -1 for any size."""
    if node.type not in TRITON_TYPES:
        raise pb.TritonModelException(f"'{node.name}' is {node.type}: not supported here")
    dims = [size if isinstance(size, int) else -1 for size in node.shape]
    if batches and not _first_size_is_free(node):
        raise pb.TritonModelException(
            f"max_batch_size needs a dynamic first dimension, and '{node.name}' has {node.shape}"
        )
    return {
        "name": node.name,
        "data_type": TRITON_TYPES[node.type],
        "dims": dims[1:] if batches else dims,
    }


def _first_size_is_free(node):
    return len(node.shape) > 0 and not isinstance(node.shape[0], int)


def _version_folder_of_this_process():
    """Triton gives auto_complete_config no path; the stub has one on its command line."""
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode()).parent


def _parameter(config, key):
    return (config.get("parameters") or {}).get(key, {}).get("string_value")


def _execution_s_max(config):
    text = _parameter(config, "execution_s_max") or str(EXECUTION_S_MAX)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise pb.TritonModelException(f"execution_s_max is a number of seconds, not '{text}'")
    return seconds


def _whole_number(config, key):
    text = _parameter(config, key) or "0"
    if not text.isdecimal():
        raise pb.TritonModelException(f"{key} is a whole number, not '{text}'")
    return int(text)


def _rows_at_once(config):
    """How many rows to run together; 0 for all of a batch.

    On a CPU a few rows may be cheaper each than many: what flows from layer to layer must fit into
    the caches. What the rows are asked for must not depend on the others, though.
    """
    rows = _whole_number(config, "rows_at_once")
    if rows and not config["max_batch_size"]:
        raise pb.TritonModelException("rows_at_once needs rows: max_batch_size above 0")
    if rows and any(-1 in tensor["dims"] for tensor in config["output"]):
        raise pb.TritonModelException("rows_at_once needs outputs of a fixed size, without -1")
    return rows


def _device(args):
    """The GPU that Triton placed this instance on, if this onnxruntime can use it."""
    if args["model_instance_kind"] != "GPU":
        return None
    return args["model_instance_device_id"]
