"""The robust spread of a column, and the scaling of columns for training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from rieszflow.data.points import LOST

__all__ = ["Columns", "column_spreads", "float32_holds"]

_REACH = 4.0  # a column within this many spreads of its median is scaled linearly; a million normal values are


def column_spreads(rows: np.ndarray, deviation: np.ndarray | None = None) -> np.ndarray:
    """Return the interquartile range of every column, or its standard deviation if that is 0, as (d,) float64.

    The spread is 1 for constant columns, and where float64 cannot divide by it.

    Args:
        rows: Points (m, d), or a sample of them.
        deviation: Standard deviations of all points (d,) if `rows` is a sample; None for those of `rows`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if deviation is None:
            deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(0), 0)  # rounding may give constants a deviation
        quartiles = np.percentile(rows, [25, 75], axis=0)
        spreads = quartiles[1] - quartiles[0]
    spreads = np.where(spreads > 0, spreads, deviation)
    return np.where((spreads > 2.0**-900) & (spreads < 2.0**1023), spreads, 1.0)


@dataclass(frozen=True)
class Columns:
    """The scaling of columns for training, which makes them comparable despite different units and tails.

    A value v becomes ½ + w/2 with w = asinh(k z)/k and z = (v − centre)/spread: the median is at 0.5 and the quartiles of a
    symmetric column at 0.25 and 0.75. The tail strength k is 0, so that w = z, unless a value lies more than four spreads
    from the median; then k maps the farthest value to w = ±4, and samples are clipped to that range.

    Attributes:
        centre: median of every column, (d,).
        spread: interquartile ranges, or standard deviations where those are 0, (d,); 0 for constant columns.
        tail: tail strengths k ≥ 0, (d,).
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    tail: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray) -> Columns:
        """Return the scaling of training data (n, d)."""
        x = x.astype(np.float64)
        centre, spread = np.median(x, axis=0), column_spreads(x)
        farthest = np.maximum(x.max(0) - centre, centre - x.min(0)) / spread
        tail = [_tail(min(z, 1e300)) for z in farthest.tolist()]
        spread = np.where(farthest > 0, spread, 0)
        return cls(*(tuple(map(float, v)) for v in (centre, spread, tail)))

    def compressed(self, x: Tensor) -> Tensor:
        """Return w of values (n, d), in float64."""
        centre, spread, tail = self._tensors(x)
        z = (x.double() - centre) / torch.where(spread > 0, spread, 1)
        return torch.where(tail > 0, torch.asinh(tail * z) / torch.where(tail > 0, tail, 1), z)

    def scaled(self, x: Tensor) -> Tensor:
        """Return values (n, d) scaled, in float32."""
        return (0.5 + self.compressed(x) / 2).float()

    def unscaled(self, x: Tensor) -> Tensor:
        """Return values (n, d) in their own units, in the dtype of x, or in float64 where float32 would lose digits."""
        centre, spread, tail = self._tensors(x)
        w = 2 * x.double() - 1
        z = torch.where(tail > 0, torch.sinh(tail * w.clamp(-_REACH, _REACH)) / torch.where(tail > 0, tail, 1), w)
        holds = all(float32_holds(a, a + b) for a, b in zip(self.centre, self.spread, strict=True) if b)
        found = centre + spread * z
        return found.to(x.dtype) if holds else found

    def _tensors(self, x: Tensor) -> list[Tensor]:
        return [torch.tensor(v, dtype=torch.float64, device=x.device) for v in (self.centre, self.spread, self.tail)]


def _tail(farthest: float) -> float:
    """Return k with asinh(k z)/k = `_REACH` for the farthest z, or 0 if that is within reach."""
    if farthest <= _REACH + 1e-6:
        return 0.0
    return float(brentq(lambda k: math.asinh(k * farthest) - _REACH * k, 1e-9, 1e3))


def float32_holds(low: float, high: float) -> bool:
    """Return True if float32 resolves values from low to high."""
    size, spread = max(abs(low), abs(high)), high - low
    return size < 1e38 and spread > 1e-30 and size * 2**-24 <= LOST * spread
