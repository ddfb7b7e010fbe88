"""What travels together through the functionals and the engines, each in one frozen bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

__all__ = ["Batches", "Cloud", "Need", "Pair"]


@dataclass(frozen=True)
class Cloud:
    """Points and their weights.

    Attributes:
        points: (..., N, d), float32 or float64.
        weights: (N,) or (..., N), non-negative, of sum one. None for 1/N each, which bins count exactly, in whole numbers.
    """

    points: Tensor
    weights: Tensor | None = None

    def detached(self) -> Cloud:
        return Cloud(self.points.detach(), None if self.weights is None else self.weights.detach())


@dataclass(frozen=True)
class Pair:
    """Two clouds of one dimension, dtype and device, and the statistic: U leaves out the pairs of a point with itself."""

    x: Cloud
    y: Cloud
    unbiased: bool = False

    def detached(self) -> Pair:
        return Pair(self.x.detached(), self.y.detached(), self.unbiased)


@dataclass(frozen=True)
class Need:
    """What is asked for: the value of D², and its derivatives by x, by y, by the weights a of x and by the weights b of y."""

    value: bool = False
    x: bool = False
    y: bool = False
    a: bool = False
    b: bool = False

    @property
    def weights(self) -> bool:
        return self.a or self.b


class Batches(Protocol):
    """A cloud too large for memory, without weights: points (M, d) in batches. Iterating is a pass over all of them."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def count(self) -> int:
        """M."""

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The points of these numbers, (len(rows), d)."""
