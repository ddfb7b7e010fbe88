"""Memory that is reused between calls: scratch arrays of the compiled loops, and results."""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_HUGE = 1 << 21  # bytes of a huge page
# Python's default is memory that a forked process shares with its parent.
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_current = threading.local()


class Workspace(threading.local):
    """The memory of one scratch array, kept between calls; every thread has its own.

    It is in huge pages if the system has them: in pages of 4 KB, the addresses of tables of some megabytes overflow the
    processor's translation cache. Fresh memory would also cost a page fault for every page.
    """

    _buffer = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        """Return an uninitialised array, valid until this thread's next call."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size <= self._buffer.size <= 4 * size + _HUGE:
            self._buffer = np.empty(0, np.uint8)  # free the old memory first
            memory = mmap.mmap(-1, size + _HUGE, **_PRIVATE)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            whole = np.frombuffer(memory, np.uint8)
            start = -whole.ctypes.data % _HUGE
            self._buffer = whole[start : start + size]
        return np.asarray(self._buffer[:size].view(dtype).reshape(shape))


def empty_like(x: Tensor) -> Tensor:
    """Return an uninitialised tensor like x, on the CPU from the pool in use or from NumPy, which asks for huge pages."""
    if x.device.type != "cpu":
        return torch.empty_like(x)
    pool: BufferPool | None = getattr(_current, "pool", None)
    shape, dtype = tuple(x.shape), x.detach().numpy().dtype
    return torch.from_numpy(np.empty(shape, dtype) if pool is None else pool.array(shape, dtype))


class BufferPool:
    """The memory of recent results, reused as soon as no tensor refers to it any more.

    A step of a flow makes and frees two arrays. Allocating a gigabyte takes nearly as long as the step itself.
    """

    _MOST = 3  # the particles, their velocity and their gradient

    def __init__(self) -> None:
        # A tensor made of a view keeps that very view alive, so the view dies with the last tensor that uses the memory.
        self._arrays: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        return BufferPool, ()  # a copy starts empty

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let `empty_like` take this thread's arrays from this pool."""
        before, _current.pool = getattr(_current, "pool", None), self
        try:
            yield
        finally:
            _current.pool = before

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        """Return an uninitialised array whose memory is taken back when the last reference to it is gone."""
        with self._lock:
            fitting = [(a, seen) for a, seen in self._arrays if a.shape == shape and a.dtype == dtype]
            unused = next((k for k, (_, seen) in enumerate(fitting) if seen() is None), None)
            memory = np.empty(shape, dtype) if unused is None else fitting.pop(unused)[0]
            view = memory.view()
            self._arrays = [*fitting, (memory, weakref.ref(view))][-self._MOST :]
        return view
