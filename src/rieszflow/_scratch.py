"""Working memory of the compiled loops that is kept between calls, in huge pages where the system has them.

Tables of some megabytes are swept once for every tile of points. In pages of 4 KB their addresses do not fit the processor's
translation cache, which makes looking up slow by chance; fresh memory would cost a page fault for each of them, too.
"""

from __future__ import annotations

import math
import mmap
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["fresh", "scratch"]

_HUGE = 1 << 21
# Python's default is memory that a forked process shares with its parent.
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
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
    return buffers[name][:size].view(dtype).reshape(shape)


def fresh(x: Tensor) -> Tensor:
    """A tensor like x with anything in it. On the CPU from NumPy, which asks for huge pages: the first touch costs half."""
    if x.device.type != "cpu":
        return torch.empty_like(x)
    return torch.from_numpy(np.empty(x.shape, x.detach().numpy().dtype))
