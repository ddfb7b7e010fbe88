r"""Histograms of point clouds on slices, and MMD² with its gradients from two of them.

For r = 1 the derivative in every slice, 2(G − F) up to a constant, needs distribution functions only. A point's own bin is the
only source of error, because F changes by the bin's counts f over it, whatever the data are:

.. math:: |\hat F(t) - F(t)| \le f_{b(t)}, \qquad |\hat G(t) - G(t)| \le g_{b(t)}.

Inside a bin F rises linearly, which is right up to O(B⁻²) for smooth densities. Point masses (`loops.STEEP`) count as ties.

Other kernels are convolved along the bins by FFT. With the counts of a bin spread evenly over it, the potential's derivative at
bin edges is a discrete convolution with differences of the kernel's basis function; between the edges it is taken as linear.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for
from rieszflow._infra.numerics import times_power_of_two
from rieszflow._infra.ranks import Group, all_reduce_sum, total
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud
from rieszflow.histograms import loops
from rieszflow.histograms.backends import select_backend
from rieszflow.histograms.grid import BinGrid, PiecewiseLinear
from rieszflow.histograms.loops import TAIL
from rieszflow.kernels import Kernel, Riesz

_BATCH = Workspace()


@dataclass(frozen=True)
class Histogram:
    """A cloud, counted on a part of the slices.

    Attributes:
        grid: The bins.
        counts: The share of points in every bin, (P, TAIL + B + TAIL) float32, on the grid's device; every slice sums to one.
        tail_sums: Σ share·u over the positions u in the geometric bins, (P, 2·TAIL) float64, which values need; or None.
        self_weight: Σ w² over the points' weights.
    """

    grid: BinGrid
    counts: Tensor
    tail_sums: Tensor | None
    self_weight: float

    @classmethod
    def from_points(
        cls, grid: BinGrid, cloud: Cloud, *, tail_sums: bool = False, workspace: Workspace | None = None, group: Group = None
    ) -> Histogram:
        """Count a cloud (N, d), or that of all ranks of a group; `tail_sums` and `workspace` as in `Backend.count`."""
        n, w = len(cloud.points), cloud.weights
        scale = 1 / n if w is None and group is None else 1.0
        counts, sums = select_backend(grid).count(grid, cloud, tail_sums=tail_sums, scale=scale, workspace=workspace)
        if group is not None:
            n = total(n, group)
            for table in (counts, sums):
                if table is not None:
                    all_reduce_sum(table, group)
                    if w is None:
                        table /= n
        if w is None:
            return cls(grid, counts, sums, 1 / n)
        return cls(grid, counts, sums, float(all_reduce_sum((w.detach().double() ** 2).sum().reshape(1), group)))

    @property
    def inner(self) -> Tensor:
        """The counts in the equal bins, (P, B)."""
        return self.counts[:, TAIL : TAIL + self.grid.B]

    def outside(self) -> float | Tensor:
        """Return the share of projections outside the equal bins."""
        left, right = self.counts[:, :TAIL], self.counts[:, TAIL + self.grid.B :]
        if self.counts.device.type == "cpu":
            # In NumPy, because PyTorch's threads keep spinning after an operation and slow down those that count.
            return float(left.numpy().sum() + right.numpy().sum()) / self.grid.directions.P
        return (left.sum() + right.sum()) / self.grid.directions.P


def count_batches(grids: Sequence[BinGrid], batches: Iterable[Tensor], group: Group = None) -> list[Histogram]:
    """Count a cloud that comes in batches, on all parts of the slices in one pass."""
    n = 0
    sums = [torch.zeros(g.directions.P, g.B + 2 * TAIL, dtype=torch.float64, device=g.shift.device) for g in grids]
    for batch in batches:
        n += len(batch)
        for grid, table in zip(grids, sums, strict=True):
            table += select_backend(grid).count(grid, Cloud(batch.to(grid.shift)), workspace=_BATCH)[0]
    n = total(n, group)
    return [Histogram(g, (all_reduce_sum(table, group) / n).float(), None, 1 / n) for g, table in zip(grids, sums, strict=True)]


_SLICES = 64  # at a time, while numbers are float64


class Evaluator(ABC):
    """MMD² between two clouds on a part of the slices, from their histograms x and y on one grid."""

    unit: float = 1.0  # factor from the derivative by projections to that by points

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool) -> None:
        self.x, self.y, self.grid, self.unbiased = x, y, x.grid, unbiased

    def self_factor(self, own: Histogram) -> float:
        """Return 1/(1 − Σw²) for the U-statistic, which turns a mean over all pairs into one over distinct pairs; 1 for V."""
        return 1 / (1 - own.self_weight) if self.unbiased else 1.0

    @abstractmethod
    def value(self) -> Tensor:
        """Return MMD² times the number of slices, () float64; needs the tail sums of both histograms."""

    @abstractmethod
    def derivative(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        """Return `factor` times the derivative by a point of the cloud `own`, over its weight if points are `weighted`."""

    def gradient(self, cloud: Cloud, P: int, *, by_y: bool = False) -> Tensor:
        """Return the contribution of this part to the gradient by the points of x, or of y, on P slices in all."""
        own, other = (self.y, self.x) if by_y else (self.x, self.y)
        weighted = cloud.weights is not None
        each = 1.0 if weighted else own.self_weight  # without weights both Σw² and a point's own weight are 1/N
        lines = self.derivative(own, other, each / P, weighted)
        gradient = select_backend(self.grid).look_up(self.grid, cloud, lines)
        return gradient if self.unit == 1 else gradient.mul_(self.unit)


class CdfEvaluator(Evaluator):
    """MMD² for Riesz(1.0), by distribution functions."""

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool) -> None:
        super().__init__(x, y, unbiased)
        self.constant = 2 * Riesz(1.0).basis_constant(self.grid.directions.n)

    def derivative(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        alpha = self.self_factor(own)
        return select_backend(self.grid).cumulate(own.counts, other.counts, alpha, factor * self.constant)

    def integrals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ∫(F − G)², ∫F(1 − F) and ∫G(1 − G) on every slice, (P,) float64 each, in the points' unit."""
        x, y = self.x, self.y
        assert x.tail_sums is not None and y.tail_sums is not None
        # On the CPU for all devices, because tables are small.
        out = np.empty((len(x.counts), 3))
        tables = (v.cpu().numpy() for v in (x.counts, y.counts, x.tail_sums, y.tail_sums, self.grid.inverse))
        parallel_for(loops.integrals, len(out), 1, *tables, out)
        distance, spread_x, spread_y = torch.from_numpy(out).to(x.counts.device).unbind(1)
        scale = self.grid.scale
        return distance / scale, spread_x / scale, spread_y / scale

    def values(self) -> Tensor:
        """Return MMD² on every slice, (P,) float64, times the constant of slicing."""
        distance, spread_x, spread_y = self.integrals()
        alpha, beta = self.self_factor(self.x), self.self_factor(self.y)
        return self.constant * (distance - (alpha - 1) * spread_x - (beta - 1) * spread_y)

    def value(self) -> Tensor:
        return self.values().sum()

    def mean_distances(self) -> Tensor:
        """Return E|X − Y| on every slice, (P,) float64, times the constant of slicing."""
        distance, spread_x, spread_y = self.integrals()
        return self.constant / 2 * (distance + spread_x + spread_y)


class FftEvaluator(Evaluator):
    """MMD² for any kernel, by convolution, in the unit of the projections, which are near one."""

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool, kernel: Kernel) -> None:
        super().__init__(x, y, unbiased)
        self.kernel = kernel
        self.width = 1 / float(self.grid.inverse[0])
        # The kernel of the points is 2^octaves to the power of its degree times the kernel of the projections.
        self.octaves = -(math.frexp(self.grid.scale)[1] - 1)
        self.unit = 2.0 ** (self.octaves * ((kernel.degree or 0.0) - 1))

    def _slice(self, v: np.ndarray) -> np.ndarray:
        """Return the kernel's basis function at distances between projections."""
        t = v if self.kernel.degree is not None else v / float(self.grid.scale)
        return self.kernel.basis(t, self.grid.directions.n)

    def derivative(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        B, alpha, factor = self.grid.B, self.self_factor(own), 2 * factor
        f, g = own.inner, other.inner
        K = self._slice(np.arange(B + 1) * self.width)
        K = np.concatenate([K[:0:-1], K])  # offsets −B … B
        steps = (K[1:] - K[:-1]) / self.width  # of a bin on the edge j = −B+1 … B bins right of its left edge
        q = torch.from_numpy(np.roll(steps, -(B - 1))).to(f)
        spectrum = torch.fft.rfft(alpha * f - g, n=2 * B) * torch.fft.rfft(q)
        slope = torch.fft.irfft(spectrum, n=2 * B)[:, : B + 1]
        lines = torch.zeros(f.shape[0], B + 2 * TAIL, 2, dtype=torch.float32, device=f.device)
        lines[:, TAIL : TAIL + B, 0] = factor * slope[:, :-1]
        lines[:, TAIL : TAIL + B, 1] = factor * slope.diff(dim=1)
        # A point exerts no force on itself, but its share of its own bin does: q[0] at the left edge, −q[0] at the right one.
        mine = alpha * float(q[0]) * torch.tensor([1.0, -2.0], dtype=torch.float32, device="cpu")
        if weighted:
            return PiecewiseLinear(lines, (mine * factor).to(lines.device))
        lines[:, TAIL : TAIL + B] -= (factor * own.self_weight * mine).to(lines)
        return PiecewiseLinear(lines)

    def value(self) -> Tensor:
        B, x, y = self.grid.B, self.x, self.y
        alpha, beta = self.self_factor(x), self.self_factor(y)
        K = self._between_bins()
        at_zero = float(self._slice(np.zeros(1))[0])
        circle = torch.from_numpy(np.concatenate([K, [0.0], K[:0:-1]])).to(x.counts.device)
        spectrum = torch.fft.rfft(circle)
        total = torch.zeros((), dtype=torch.float64, device=x.counts.device)
        for f, g in zip(x.inner.split(_SLICES), y.inner.split(_SLICES), strict=True):
            f, g = f.double(), g.double()
            by_f, by_g = (torch.fft.irfft(torch.fft.rfft(m, n=2 * B) * spectrum, n=2 * B)[:, :B] for m in (f, g))
            if self.unbiased:
                xx = alpha * ((f * by_f).sum(1) - x.self_weight * K[0])
                yy = beta * ((g * by_g).sum(1) - y.self_weight * K[0])
                total += (xx + yy - 2 * (f * by_g).sum(1)).sum()
            else:
                # The pairs of a point with itself are at distance 0, not anywhere in a bin.
                own = (x.self_weight + y.self_weight) * (at_zero - K[0])
                total += (((f - g) * (by_f - by_g)).sum(1) + own).sum()
        power = torch.tensor(self.octaves * (self.kernel.degree or 0.0), dtype=torch.float64, device=total.device)
        return times_power_of_two(total, power)

    def _between_bins(self) -> np.ndarray:
        """Return the mean of the slice over two evenly filled bins j = 0 … B − 1 apart: ∫ (1 − ‖v‖) k((j + v) w) dv."""
        nodes, weights = np.polynomial.legendre.leggauss(16)
        v, c = 0.5 * (nodes + 1), 0.5 * weights * (1 - 0.5 * (nodes + 1))
        j = np.arange(self.grid.B)[:, None]
        right, left = (np.sum(self._slice(np.abs(j + s * v) * self.width) * c, axis=1) for s in (1, -1))
        return np.asarray(right + left)
