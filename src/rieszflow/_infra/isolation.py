"""What a program has switched on around us does not reach our arithmetic: lower precision, and errors for tiny numbers.

The same seed and the same points give the same bits whatever torch's or NumPy's settings of the moment are. New tensors
therefore name their dtype and device, here and everywhere; the rest is switched off for the time of a call by `plain`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

__all__ = ["isolated_numerics", "torch_defaults"]

P = ParamSpec("P")
R = TypeVar("R")

# Where torch may be told to round the factors of float32 matrix products. torch before 2.9 has no such places.
_PRODUCTS: list[Any] = [
    backend.matmul
    for backend in (torch.backends.mkldnn, torch.backends.cuda)
    if hasattr(getattr(backend, "matmul", None), "fp32_precision")
]
_lock = threading.Lock()
_inside, _before = 0, [""] * len(_PRODUCTS)


def isolated_numerics(function: Callable[P, R]) -> Callable[P, R]:
    """The function without autocast, with whole float32 products, and with infinities and underflow as usual in NumPy."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if any(place.fp32_precision in ("bf16", "tf32") for place in _PRODUCTS) or _inside:
                stack.enter_context(_whole_products())
            stack.enter_context(np.errstate(all="ignore"))
            return function(*args, **kwargs)

    return call


def torch_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """The function under torch's own defaults: for networks, whose libraries name neither dtype nor device."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        # Only where it is needed: it makes every single call of torch some microseconds longer.
        device = contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        try:
            with device, torch.autocast("cpu", enabled=False), torch.inference_mode(False), torch.enable_grad():
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(dtype)

    return call


@contextlib.contextmanager
def _whole_products() -> Iterator[None]:
    # These settings are the process's, not the thread's: the first call in changes them, the last one out puts them back.
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = [place.fp32_precision for place in _PRODUCTS]
            for place in _PRODUCTS:
                place.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for place, value in zip(_PRODUCTS, _before, strict=True):
                    place.fp32_precision = value
