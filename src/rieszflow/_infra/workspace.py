"""Memory that is kept between calls: what the compiled loops work in, in huge pages where the system has them, and results.

Tables of some megabytes are swept once for every tile of points. In pages of 4 KB their addresses do not fit the processor's
translation cache, which makes looking up slow by chance; fresh memory would cost a page fault for each of them, too.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BufferPool", "empty_like", "workspace"]

_HUGE = 1 << 21
# Python's default is memory that a forked process shares with its parent.
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_kept, _current = threading.local(), threading.local()


def workspace(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """An array with anything in it, valid until this thread's next call with the same name."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffers: dict[str, np.ndarray] = _kept.__dict__
    if name not in buffers or not size <= buffers[name].size <= 4 * size + _HUGE:
        buffers.pop(name, None)
        memory = mmap.mmap(-1, size + _HUGE, **_PRIVATE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(memory, np.uint8)
        start = -whole.ctypes.data % _HUGE
        buffers[name] = whole[start : start + size]
    array: np.ndarray = buffers[name][:size].view(dtype).reshape(shape)
    return array


def empty_like(x: Tensor) -> Tensor:
    """A tensor like x with anything in it. On the CPU from NumPy, which asks for huge pages: the first touch costs half."""
    if x.device.type != "cpu":
        return torch.empty_like(x)
    pool: BufferPool | None = getattr(_current, "pool", None)
    shape, dtype = tuple(x.shape), x.detach().numpy().dtype
    return torch.from_numpy(np.empty(shape, dtype) if pool is None else pool.array(shape, dtype))


class BufferPool:
    """The last results' memory, used again for new ones as soon as no tensor is left that looks at it.

    A step of a flow makes two arrays and frees two. Fresh ones of a gigabyte would cost nearly as much as the step itself.
    """

    _MOST = 3  # the particles, their velocity and their gradient

    def __init__(self) -> None:
        # A tensor made of a view keeps that very view alive, so the view's end is the end of all that look at the memory.
        self._arrays: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return BufferPool, ()  # a copy starts with nothing

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """`fresh` takes this thread's arrays from here."""
        before, _current.pool = getattr(_current, "pool", None), self
        try:
            yield
        finally:
            _current.pool = before

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        with self._lock:
            fitting = [(a, seen) for a, seen in self._arrays if a.shape == shape and a.dtype == dtype]
            unused = next((k for k, (_, seen) in enumerate(fitting) if seen() is None), None)
            memory = np.empty(shape, dtype) if unused is None else fitting.pop(unused)[0]
            view = memory.view()
            self._arrays = [*fitting, (memory, weakref.ref(view))][-self._MOST :]
        return view
