"""One unit for all points: very small numbers would become denormal in the transforms, very large ones overflow."""

from __future__ import annotations

import math

import torch

__all__ = ["power_of_two"]


def power_of_two(largest: float, dtype: torch.dtype) -> float:
    """The factor, free of rounding, that brings numbers up to `largest` near one; 1 for 0 and infinity."""
    limit = 120 if dtype == torch.float32 else 1000
    return 2.0 ** -max(-limit, min(limit, math.frexp(largest)[1])) if 0 < largest < math.inf else 1.0
