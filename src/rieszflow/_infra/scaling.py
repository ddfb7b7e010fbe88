"""One unit for all points: very small numbers would become denormal in the transforms, very large ones overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rieszflow.errors import InputError

__all__ = ["power_of_two", "times_power_of_two", "two_to", "within_range"]


def power_of_two(largest: float, dtype: torch.dtype) -> float:
    """The factor, free of rounding, that brings numbers up to `largest` near one; 1 for 0 and infinity."""
    limit = 120 if dtype == torch.float32 else 1000
    return 2.0 ** -max(-limit, min(limit, math.frexp(largest)[1])) if 0 < largest < math.inf else 1.0


def within_range(largest: float, dtype: torch.dtype) -> float:
    """`largest` if differences up to it are numbers of the dtype."""
    if not math.isfinite(largest):
        raise InputError(f"x, y: points further apart than {dtype} can hold given; divide all coordinates by 4 first")
    return largest


def two_to(n: Tensor) -> Tensor:
    """2^n in float64 for whole numbers from −1022 to 1023, free of rounding, which the power functions are not."""
    return ((n.long() + 1023) << 52).view(torch.float64)


def times_power_of_two(v: Tensor, t: Tensor) -> Tensor:
    """v · 2^t in float64 for any t down to −3000 and up to 3000; on the way nothing is too large that is not so in the end."""
    n = t.floor()
    v = v * torch.exp2(t - n)
    third = (n / 3).trunc()
    for part in (third, third, n - 2 * third):
        v = v * two_to(part)
    return v
