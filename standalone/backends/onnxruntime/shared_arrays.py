"""Arrays in memory that two processes share; what travels between them is where each one lies."""

import mmap
import os
import pickle

import numpy as np

ALIGNMENT = 64  # a cache line; also enough for every vector instruction
BYTES_MIN = 1 << 16
TEXTS = "texts"  # in place of a dtype


class SharedArrays:
    """A piece of memory without a name in the file system: it goes when both processes are gone.

    It grows to the largest batch and stays that large. Only one side writes at a time: the asker
    before it has asked, the answerer before it has answered.
    """

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._memory = None

    def write(self, arrays, start=0):
        """Store arrays from byte `start` on.

        Args:
            arrays: a list of arrays by name; those of a list are joined along their first axis.
                Object arrays hold str.

        Returns:
            What `read` needs, (name, dtype, shape, place, bytes) each, and where the last one ends.
        """
        notes, texts, end = [], {}, _aligned(start)
        for name, parts in arrays.items():
            first = parts[0]
            shape = first.shape
            if len(parts) > 1:
                shape = (sum(part.shape[0] for part in parts), *shape[1:])
            if first.dtype.hasobject:
                texts[name] = pickle.dumps([text for part in parts for text in part.ravel()])
                dtype, size = TEXTS, len(texts[name])
            else:
                dtype = first.dtype.str
                size = first.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            notes.append((name, dtype, shape, end, size))
            end = _aligned(end + size)
        self._reserve(end)
        for name, dtype, shape, place, size in notes:
            if dtype == TEXTS:
                self._memory[place : place + size] = texts[name]
                continue
            whole, row = self._view(dtype, shape, place), 0
            if len(arrays[name]) == 1:
                whole[...] = arrays[name][0]
                continue
            for part in arrays[name]:
                whole[row : row + part.shape[0]] = part
                row += part.shape[0]
        return notes, end

    def read(self, notes):
        """The arrays by name: views, which the next `write` changes. Texts are copies."""
        if notes:
            self._reserve(max(place + size for _, _, _, place, size in notes))
        return {
            name: self._texts(shape, place, size)
            if dtype == TEXTS
            else self._view(dtype, shape, place)
            for name, dtype, shape, place, size in notes
        }

    def close(self):
        os.close(self._descriptor)

    def _view(self, dtype, shape, place):
        return np.ndarray(shape, np.dtype(dtype), buffer=self._memory, offset=place)

    def _texts(self, shape, place, size):
        texts = pickle.loads(self._memory[place : place + size])  # noqa: S301 -- our own process
        array = np.empty(len(texts), dtype=np.object_)
        array[:] = texts
        return array.reshape(shape)

    def _reserve(self, size):
        size = max(size, BYTES_MIN)
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self._descriptor).st_size < size:
                os.ftruncate(self._descriptor, -size // mmap.PAGESIZE * -mmap.PAGESIZE)
            # Views of the old mapping stay good: it goes when the last of them does.
            self._memory = mmap.mmap(self._descriptor, 0)


def _aligned(place):
    return -(-place // ALIGNMENT) * ALIGNMENT
