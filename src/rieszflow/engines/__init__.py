"""All slices of D² and its derivatives: one dimension, many times.

An engine is a module with one function (the contract; every engine is tested by the same tests against brute force):

    evaluate(x, y, a, b, xi, kernel, unbiased, need) -> Result
        x (..., N, d), y (..., M, d); a, b weights (..., N), (..., M) or None for equal ones; xi the directions; unbiased for
        the U-statistic; need = five bools, for the value and its derivatives by x, y, a and b.

`sort` is exact and the reference, for Riesz(1.0). `bins` takes linear time and no memory that grows with N, for all kernels.
Adding an engine is adding one file and one entry in `ENGINES`.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from rieszflow.engines import bins, sort
from rieszflow.errors import InputError
from rieszflow.kernels import Kernel, Riesz

__all__ = ["ENGINES", "get"]

ENGINES: dict[str, ModuleType] = {"sort": sort, "bins": bins}

# Below, the tables of the bins cost more than the points, and the exact engine is about as fast.
_FEW = 4096


def get(name: str, kernel: Kernel, x: Tensor, y: Tensor, by_weights: bool = False) -> ModuleType:
    """The engine of a name. `"auto"` is exact where that is cheap, wanted (float64) or the only way (by weights)."""
    if isinstance(name, str) and name == "auto":
        if by_weights or x.dtype.itemsize > 4 or x.shape[-2] + y.shape[-2] < _FEW:
            return sort if kernel == Riesz(1.0) else bins
        return bins
    if not isinstance(name, str) or name not in ENGINES:
        raise InputError(f"engine: {name!r} given; {', '.join(repr(n) for n in ('auto', *ENGINES))} are accepted")
    return ENGINES[name]
