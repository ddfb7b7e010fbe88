"""Other kernels: convolution with the kernel's slice along the bins, by FFT.

The mass of a bin counts as spread evenly over it. Then the derivative of the potential at bin edges is a discrete convolution
with the differences of the kernel's one-dimensional slice; between the edges it is taken as linear. Bins have one width on all
slices, cover all points, and must resolve the slice (`Kernel.basis_scale`), or the kernel is refused.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.scaling import times_power_of_two
from rieszflow.histograms.evaluator import Evaluator
from rieszflow.histograms.layout import TAIL
from rieszflow.histograms.lines import PiecewiseLinear
from rieszflow.histograms.table import Histogram
from rieszflow.kernels import Kernel

__all__ = ["FftEvaluator"]

_SLICES = 64  # at a time, where numbers are float64


class FftEvaluator(Evaluator):
    """D² for any kernel. All is in the unit of the projections, which are near one."""

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool, kernel: Kernel) -> None:
        super().__init__(x, y, unbiased)
        self.kernel = kernel
        self.width = 1 / float(self.grid.inverse[0])
        # The kernel of the points is this number to the power of its degree times the one of projections.
        self.octaves = -(math.frexp(self.grid.scale)[1] - 1)
        self.unit = 2.0 ** (self.octaves * ((kernel.degree or 0.0) - 1))

    def _slice(self, v: np.ndarray) -> np.ndarray:
        """The kernel's slice at distances between projections."""
        t = v if self.kernel.degree is not None else v / self.grid.scale
        return self.kernel.basis(t, self.grid.directions.n)

    def lines(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        B, alpha, factor = self.grid.B, self.self_factor(own), 2 * factor
        f, g = own.equal, other.equal
        K = self._slice(np.arange(B + 1) * self.width)
        K = np.concatenate([K[:0:-1], K])  # offsets −B … B
        steps = (K[1:] - K[:-1]) / self.width  # of a bin on the edge j = −B+1 … B bins right of its left edge
        q = torch.from_numpy(np.roll(steps, -(B - 1))).to(f)
        spectrum = torch.fft.rfft(alpha * f - g, n=2 * B) * torch.fft.rfft(q)
        slope = torch.fft.irfft(spectrum, n=2 * B)[:, : B + 1]
        lines = torch.zeros(f.shape[0], B + 2 * TAIL, 2, dtype=torch.float32, device=f.device)
        lines[:, TAIL : TAIL + B, 0] = factor * slope[:, :-1]
        lines[:, TAIL : TAIL + B, 1] = factor * slope.diff(dim=1)
        # A point exerts no force on itself, its share of its own bin does: q[0] at the left edge, −q[0] at the right one.
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
        circle = torch.from_numpy(np.concatenate([K, [0.0], K[:0:-1]])).to(x.mass.device)
        spectrum = torch.fft.rfft(circle)
        total = torch.zeros((), dtype=torch.float64, device=x.mass.device)
        for f, g in zip(x.equal.split(_SLICES), y.equal.split(_SLICES), strict=True):
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
        """Mean of the slice over two evenly filled bins j = 0 … B − 1 apart: ∫ (1 − |v|) k((j + v) w) dv."""
        nodes, weights = np.polynomial.legendre.leggauss(16)
        v, c = 0.5 * (nodes + 1), 0.5 * weights * (1 - 0.5 * (nodes + 1))
        j = np.arange(self.grid.B)[:, None]
        right, left = (np.sum(self._slice(np.abs(j + s * v) * self.width) * c, axis=1) for s in (1, -1))
        mean: np.ndarray = right + left
        return mean
