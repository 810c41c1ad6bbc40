"""Reads the tensors out of a PyTorch checkpoint in its legacy (before 1.6) format, without torch.

A checkpoint is a chain of pickles, and a pickle can run any code. This reader resolves five names
and refuses every other, so a hostile file can at worst be refused.

Source of the layout: `torch.serialization._legacy_save`.
"""

import io
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from weights.errors import UnreadableCheckpoint

Weights = dict[str, NDArray[Any]]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_COUNT = struct.Struct("<q")
_STORAGE_ID_FIELDS = 6  # tag, type, key, device, number of elements, view


def read_legacy_checkpoint(content: bytes) -> Weights:
    """Read a state dict.

    Returns:
        Tensor by name, in the file's order: read-only views of `content`, in any memory order.

    Raises:
        UnreadableCheckpoint: not this format, truncated, or naming anything but tensors.
    """
    file = io.BytesIO(content)
    try:
        _check_header(file)
        reader = _TensorUnpickler(file)
        state = reader.load()
        _fill_storages(file, content, reader.storages)
        return {str(name): _tensor(name, view) for name, view in _items(state)}
    except UnreadableCheckpoint:
        raise
    except Exception as error:
        # What a damaged pickle raises is unpredictable: IndexError, KeyError, AttributeError, ...
        raise UnreadableCheckpoint(f"the checkpoint is damaged: {error}") from error


def _check_header(file: io.BytesIO) -> None:
    if _PlainUnpickler(file).load() != _MAGIC:
        _refuse("it is not a checkpoint in PyTorch's legacy format")
    if (protocol := _PlainUnpickler(file).load()) != _PROTOCOL:
        _refuse(f"its protocol is {protocol!r}, not {_PROTOCOL}")
    if not _PlainUnpickler(file).load()["little_endian"]:
        _refuse("it was written on a big-endian machine")


class _Storage:
    """A flat run of numbers that tensors are views of. `data` is filled in after the pickles."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self.dtype = dtype
        self.size = size
        self.data: NDArray[Any] | None = None


class _View:
    """A tensor as the pickle describes it: where it lies in its storage, counted in elements."""

    def __init__(self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> None:
        self.storage = storage
        self.offset = int(offset)
        self.shape = tuple(int(size) for size in shape)
        self.strides = tuple(int(step) for step in strides)


class _StateDict(OrderedDict[str, Any]):
    def __setstate__(self, state: object) -> None:
        """Torch attaches version numbers of its modules here; nobody needs them."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds numbers, strings and containers; resolves no name at all."""

    def find_class(self, module: str, name: str) -> NoReturn:
        _refuse(f"it asks for {module}.{name}, which is no part of a checkpoint")


class _TensorUnpickler(pickle.Unpickler):
    """Builds a state dict whose tensors are still views of empty storages."""

    _RESOLVED: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("collections", "OrderedDict"): _StateDict,
        ("torch._utils", "_rebuild_tensor_v2"): _View,
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._RESOLVED:
            return self._RESOLVED[module, name]
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        return _refuse(f"it asks for {module}.{name}, which is no part of a checkpoint")

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != _STORAGE_ID_FIELDS or pid[0] != "storage":
            _refuse("it refers to something other than a storage")
        _, dtype, key, _device, size, view = pid
        if view is not None or not isinstance(dtype, np.dtype) or not isinstance(size, int):
            _refuse("it holds a storage of an unknown kind")
        return self.storages.setdefault(str(key), _Storage(dtype, size))


def _fill_storages(file: io.BytesIO, content: bytes, storages: dict[str, _Storage]) -> None:
    """Read the numbers that follow the pickles: per key, a count and that many elements."""
    keys = _PlainUnpickler(file).load()
    if sorted(keys) != sorted(storages):
        _refuse("its list of storages does not match its tensors")
    position = file.tell()
    for key in keys:
        storage = storages[key]
        if position + _COUNT.size > len(content):
            _refuse("it is truncated")
        (count,) = _COUNT.unpack_from(content, position)
        position += _COUNT.size
        if count != storage.size:
            _refuse(f"storage {key} holds {count} numbers instead of {storage.size}")
        if position + count * storage.dtype.itemsize > len(content):
            _refuse("it is truncated")
        storage.data = np.frombuffer(content, storage.dtype, count, position)
        position += count * storage.dtype.itemsize
    if position != len(content):
        _refuse("something follows its last tensor")


def _items(state: Any) -> Any:
    if not isinstance(state, _StateDict):
        _refuse("it is not a state dict")
    return state.items()


def _tensor(name: str, view: Any) -> NDArray[Any]:
    if not isinstance(view, _View) or not isinstance(view.storage, _Storage):
        _refuse(f"{name!r} is not a tensor")
    data, shape, strides = view.storage.data, view.shape, view.strides
    assert data is not None
    # Converted checkpoints hold transposed tensors: any strides that stay inside are allowed.
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if any(number < 0 for number in (*shape, *strides, view.offset)):
        _refuse(f"tensor {name!r} has a negative size")
    count: int = math.prod(shape)
    if count > data.size or (count and view.offset + reach >= data.size):
        _refuse(f"tensor {name!r} reaches outside its storage")
    steps = tuple(stride * data.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(data[view.offset :], shape, steps, writeable=False)


def _refuse(reason: str) -> NoReturn:
    raise UnreadableCheckpoint(f"the checkpoint cannot be read: {reason}")
