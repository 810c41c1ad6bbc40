"""A checkpoint is read exactly, or refused; it never runs code."""

import contextlib
import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weights.errors import UnreadableCheckpoint
from weights.legacy_checkpoint import read_legacy_checkpoint


class FloatStorage:
    """Stands in for `torch.FloatStorage` while a test's checkpoint is written."""


class LongStorage:
    """Stands in for `torch.LongStorage`."""


def _rebuild_tensor_v2(*_: object) -> None:
    """Stands in for torch's function of the same name."""


class _Storage:
    def __init__(self, key: str, array: NDArray[Any], count: int | None = None) -> None:
        self.key = key
        self.array = array
        self.count = array.size if count is None else count


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, shape: Any, strides: Any) -> None:
        self.arguments = (storage, offset, shape, strides, False, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, self.arguments


class _Writer(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = FloatStorage if obj.array.dtype == np.float32 else LongStorage
        return ("storage", kind, obj.key, "cpu", obj.count, None)


@pytest.fixture(autouse=True)
def _torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle write the names that torch would; reading needs none of this."""
    for name, module in (("torch", ModuleType("torch")), ("torch._utils", ModuleType("u"))):
        monkeypatch.setitem(sys.modules, name, module)
    for thing, module_name in (
        (FloatStorage, "torch"),
        (LongStorage, "torch"),
        (_rebuild_tensor_v2, "torch._utils"),
    ):
        monkeypatch.setattr(thing, "__module__", module_name)
        monkeypatch.setattr(sys.modules[module_name], thing.__name__, thing, raising=False)


def checkpoint(
    state: Any, storages: list[_Storage], *, magic: int = 0x1950A86A20F9469CFC6C
) -> bytes:
    file = io.BytesIO()
    for header in (magic, 1001, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    _Writer(file, protocol=2).dump(state)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())
    return file.getvalue()


def example() -> tuple[bytes, dict[str, NDArray[Any]]]:
    numbers = np.arange(24, dtype=np.float32)
    steps = np.array([7], dtype=np.int64)
    first, second = _Storage("0", numbers), _Storage("1", steps)
    state = OrderedDict(
        plain=_Tensor(first, 0, (2, 3), (3, 1)),
        turned=_Tensor(first, 6, (3, 2), (1, 3)),
        steps=_Tensor(second, 0, (), ()),
    )
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    expected: dict[str, NDArray[Any]] = {
        "plain": numbers[:6].reshape(2, 3),
        "turned": numbers[6:12].reshape(2, 3).T,
        "steps": np.array(7, dtype=np.int64),
    }
    return checkpoint(state, [first, second]), expected


def test_every_tensor_is_read_exactly_in_any_memory_order() -> None:
    content, expected = example()
    weights = read_legacy_checkpoint(content)
    assert list(weights) == list(expected)
    for name, array in expected.items():
        assert weights[name].dtype == array.dtype
        np.testing.assert_array_equal(weights[name], array)


def test_a_checkpoint_cut_off_anywhere_is_refused() -> None:
    content, _ = example()
    for length in range(len(content)):
        with pytest.raises(UnreadableCheckpoint):
            read_legacy_checkpoint(content[:length])


def test_what_follows_the_last_tensor_is_refused() -> None:
    content, _ = example()
    with pytest.raises(UnreadableCheckpoint, match="follows its last tensor"):
        read_legacy_checkpoint(content + b"\0")


class _Runs:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __init__(self, file: str) -> None:
        self._command = f"touch {file}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@pytest.mark.parametrize("place", ["state", "header", "keys"])
def test_a_checkpoint_that_names_a_command_is_refused_without_running_it(
    place: str, tmp_path: Any
) -> None:
    trap = tmp_path / "ran"
    hostile = pickle.dumps(_Runs(str(trap)), protocol=2)
    header = b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    state = pickle.dumps({}, 2)
    content = {"header": hostile, "state": header + hostile, "keys": header + state + hostile}
    with pytest.raises(UnreadableCheckpoint, match="no part of a checkpoint"):
        read_legacy_checkpoint(content[place])
    assert not trap.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (25,), (1,)), (20, (5,), (1,)), (0, (2,), (24,)), (-1, (1,), (1,)), (0, (2,), (-1,))],
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    storage = _Storage("0", np.arange(24, dtype=np.float32))
    state = OrderedDict(bad=_Tensor(storage, offset, shape, strides))
    with pytest.raises(UnreadableCheckpoint, match="'bad'"):
        read_legacy_checkpoint(checkpoint(state, [storage]))


def test_a_storage_that_holds_fewer_numbers_than_it_says_is_refused() -> None:
    storage = _Storage("0", np.arange(24, dtype=np.float32), count=25)
    state = OrderedDict(bad=_Tensor(storage, 0, (24,), (1,)))
    with pytest.raises(UnreadableCheckpoint, match="instead of 25"):
        read_legacy_checkpoint(checkpoint(state, [storage]))


@given(st.data())
def test_a_damaged_checkpoint_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(example()[0])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableCheckpoint):
        read_legacy_checkpoint(bytes(content))


@given(st.binary(max_size=200))
def test_rubbish_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableCheckpoint):
        read_legacy_checkpoint(content)
