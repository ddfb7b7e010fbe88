"""Powers of two, by which points are scaled without rounding so that neither denormals nor overflow occur."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rieszflow.errors import InputError

__all__ = ["power_of_two", "times_power_of_two", "two_to", "within_range"]


def power_of_two(largest: float, dtype: torch.dtype) -> float:
    """Return the power of two that scales numbers up to `largest` to about one; 1 for 0 and infinity."""
    limit = 120 if dtype == torch.float32 else 1000
    return 2.0 ** -max(-limit, min(limit, math.frexp(largest)[1])) if 0 < largest < math.inf else 1.0


def within_range(largest: float, dtype: torch.dtype) -> float:
    """Return the largest difference between points, or raise an InputError if the dtype cannot hold it."""
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
