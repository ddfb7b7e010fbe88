"""What an engine answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Result"]


@dataclass
class Result:
    """The value and its derivatives by x, y and their weights; None for what was not asked for. Parts of the slices add up."""

    value: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    outside: float = 0.0  # largest share of x's projections outside of the bins' range

    def __add__(self, other: Result) -> Result:
        sums = {}
        for name in ("value", "x", "y", "a", "b"):
            one, two = getattr(self, name), getattr(other, name)
            sums[name] = two if one is None else one if two is None else one.add_(two)
        return Result(**sums, outside=max(self.outside, other.outside))
