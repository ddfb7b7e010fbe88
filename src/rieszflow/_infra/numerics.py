"""Isolation of numerical code from global PyTorch and NumPy settings, and scaling by powers of two, which does not round."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from rieszflow.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

_backends = (getattr(backend, "matmul", None) for backend in (torch.backends.mkldnn, torch.backends.cuda))
_MATMULS: list[Any] = [matmul for matmul in _backends if hasattr(matmul, "fp32_precision")]  # torch before 2.9 has none
_lock = threading.Lock()
_inside, _before = 0, [""] * len(_MATMULS)


def isolated_numerics(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function without autocast, with full float32 matrix products, and with NumPy's floating-point errors ignored."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if any(matmul.fp32_precision in ("bf16", "tf32") for matmul in _MATMULS) or _inside:
                stack.enter_context(_full_precision())
            stack.enter_context(np.errstate(all="ignore"))
            return function(*args, **kwargs)

    return call


def torch_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under the defaults of PyTorch: for networks, whose libraries name neither dtype nor device."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        # A device context makes every call of torch some microseconds slower.
        device = contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        try:
            with device, torch.autocast("cpu", enabled=False), torch.inference_mode(False), torch.enable_grad():
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(dtype)

    return call


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    # The settings belong to the process, not to the thread: the first call changes them, the last one restores them.
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = [matmul.fp32_precision for matmul in _MATMULS]
            for matmul in _MATMULS:
                matmul.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for matmul, value in zip(_MATMULS, _before, strict=True):
                    matmul.fp32_precision = value


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU without waiting for what the device has still to do."""
    return t.to(device, non_blocking=t.device.type == "cpu")


def power_of_two(largest: float, dtype: torch.dtype) -> float:
    """Return the power of two that scales numbers up to `largest` to about one; 1 for 0 and infinity."""
    limit = 120 if dtype == torch.float32 else 1000
    return 2.0 ** -max(-limit, min(limit, math.frexp(largest)[1])) if 0 < largest < math.inf else 1.0


def power_of_two_tensor(largest: Tensor) -> Tensor:
    """Return the `power_of_two` of a tensor () on its device, in float64."""
    limit = 120 if largest.dtype == torch.float32 else 1000
    return two_to(-torch.frexp(largest).exponent.clamp(-limit, limit))


def within_range(largest: float, dtype: torch.dtype) -> float:
    """Return the largest difference between points, or raise InputError if the dtype cannot hold it."""
    if not math.isfinite(largest):
        raise InputError(f"`x` and `y` must have differences that {dtype} can hold, got larger ones; divide all points by 4")
    return largest


def two_to(n: Tensor) -> Tensor:
    """Return 2^n in float64 for integers from −1022 to 1023, without the rounding of the power functions."""
    return ((n.long() + 1023) << 52).view(torch.float64)


def times_power_of_two(v: Tensor, t: Tensor) -> Tensor:
    """Return v · 2^t in float64 for t from −3000 to 3000, without overflow of intermediate results."""
    n = t.floor()
    v = v * torch.exp2(t - n)
    third = (n / 3).trunc()
    for part in (third, third, n - 2 * third):
        v = v * two_to(part)
    return v
