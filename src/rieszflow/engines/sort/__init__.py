"""The exact engine: both distribution functions of every slice at every point, by one sort of the joined projections.

Plain torch operations (`profile`), O((N + M) log(N + M)) a slice. The derivative by x alone, on the CPU in float32, is what
a flow needs. It has compiled `loops` with a radix sort, O(N + M).
"""

from __future__ import annotations

from rieszflow.engines.sort.engine import Sort
from rieszflow.engines.sort.profile import Profile, gradient, profile

__all__ = ["Profile", "Sort", "gradient", "profile"]
