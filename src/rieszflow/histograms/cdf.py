"""r = 1: cumulative sums of the tables.

The derivative 2(G − F) needs distribution functions only. A point's own bin is the only source of error: F changes by the bin's
mass over it, so whatever the data are

    |F̂(t) − F(t)| ≤ mass of t's bin,    likewise G.                                                                    (bound)

Inside a bin F rises linearly, which is right up to O(B⁻²) for smooth densities. For point masses it is not: their neighbours
tell them (`layout.STEEP`), and they count as ties, by their mid-rank.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for
from rieszflow.histograms import backends, loops
from rieszflow.histograms.evaluator import Evaluator
from rieszflow.histograms.lines import PiecewiseLinear
from rieszflow.histograms.table import Histogram
from rieszflow.kernels import Riesz

__all__ = ["CdfEvaluator"]


class CdfEvaluator(Evaluator):
    """D² for Riesz(1.0)."""

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool) -> None:
        super().__init__(x, y, unbiased)
        self.constant = 2 * Riesz(1.0).basis_constant(self.grid.directions.n)

    def lines(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        return backends.of(self.grid).cumulate(own.mass, other.mass, self.self_factor(own), factor * self.constant)

    def integrals(self) -> tuple[Tensor, Tensor, Tensor]:
        """∫(F − G)², ∫F(1 − F) and ∫G(1 − G) on every slice, (P,) float64 each, in the points' unit."""
        x, y = self.x, self.y
        assert x.moments is not None and y.moments is not None
        # On the CPU for all devices: tables are small, and this goes along the bins.
        out = np.empty((len(x.mass), 3))
        tables = (v.cpu().numpy() for v in (x.mass, y.mass, x.moments, y.moments, self.grid.inverse))
        parallel_for(loops.integrals, len(out), 1, *tables, out)
        distance, spread_x, spread_y = torch.from_numpy(out).to(x.mass.device).unbind(1)
        scale = self.grid.scale
        return distance / scale, spread_x / scale, spread_y / scale

    def values(self) -> Tensor:
        """D² on every slice, (P,) float64, times the constant of slicing."""
        distance, spread_x, spread_y = self.integrals()
        alpha, beta = self.self_factor(self.x), self.self_factor(self.y)
        return self.constant * (distance - (alpha - 1) * spread_x - (beta - 1) * spread_y)

    def value(self) -> Tensor:
        return self.values().sum()
