"""The Gram matrix of blocks, and what follows from it: D² of any weights, and the standard error of D²."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rieszflow.engines import bins
from rieszflow.kernels import Riesz
from rieszflow.two_sample.blocks import Dealt

__all__ = ["Gram", "gram_of"]

_TOGETHER = 1 << 24  # numbers of all rows at a time


@dataclass(frozen=True)
class Gram:
    """Blocks of x, blocks of y, what is in no block of x, and what is in none of y.

    Attributes:
        matrix: inner products of their distribution functions, less the first one's: (K + L + 2, K + L + 2) float64.
        in_x: their shares of x.
        in_y: their shares of y.
        slices_error: the standard error of D² from the choice of slices.
        K: blocks of x.
        L: blocks of y.
    """

    matrix: np.ndarray
    in_x: np.ndarray
    in_y: np.ndarray
    slices_error: float
    K: int
    L: int

    @property
    def weights(self) -> np.ndarray:
        """D² is wᵀGw with these."""
        weights: np.ndarray = self.in_x - self.in_y
        return weights

    def squares(self, w: np.ndarray) -> np.ndarray:
        """wᵀGw for every row of w."""
        squares: np.ndarray = ((w @ self.matrix) * w).sum(1)
        return squares

    def points_error(self) -> float:
        """Standard error of D² from the points: Hoeffding's two terms, by the blocks.

        The first is the spread of what every block adds to D², without its distance from itself. The second is there if x and
        y are alike, or all blocks of one of them. It is the spread of products of different blocks, all of them as one sample.
        """
        gram, K, L, variance = self.matrix, self.K, self.L, 0.0
        for mine, theirs, these in (
            (self.in_x, self.in_y, slice(K)),
            (self.in_y, self.in_x, slice(K, K + L)),
        ):
            share = mine[these]
            own = gram[these] @ mine - share * gram.diagonal()[these]
            adds = 2 * (own / (1 - share) - gram[these] @ theirs)
            variance += adds.var(ddof=1) * share[0]
        pooled = gram[: K + L, : K + L]
        centred = pooled - pooled.mean(0) - pooled.mean(1)[:, None] + pooled.mean()
        products = ((centred**2).sum() - (centred.diagonal() ** 2).sum()) / ((K + L) * (K + L - 1))
        return math.sqrt(variance + 2 * (self.in_x[0] + self.in_y[K]) ** 2 * products)


def gram_of(x: Dealt, y: Dealt) -> Gram:
    """The Gram matrix of two clouds that were dealt into blocks of one size on one plan."""
    K, L, size = x.K, y.K, x.size
    in_x = np.array([size] * K + [0] * L + [x.others, 0]) / x.whole.n
    in_y = np.array([0] * K + [size] * L + [0, y.others]) / y.whole.n
    numbers = np.array([size] * (K + L) + [max(1, many) for many in (x.others, y.others)])
    w, slices = in_x - in_y, x.whole.slices
    matrix, each = np.zeros((len(w), len(w))), []
    for part, grid in enumerate(x.whole.plan.random):
        unit = Riesz(1.0).basis_constant(grid.directions.n) / (grid.scale * slices)
        masses = [x.blocks[part], y.blocks[part], np.stack([x.rest(part), y.rest(part)])]
        for some, h in _pieces(grid, len(w)):
            f = np.concatenate([m[:, some] for m in masses]) / numbers[:, None, None]
            F, integrated = _integrated(f, h)
            each.append((np.tensordot(w, F, 1) * np.tensordot(w, integrated, 1)).sum(-1) * unit)
            matrix += unit * (F.reshape(len(w), -1) @ integrated.reshape(len(w), -1).T)
    values = np.concatenate(each) * slices
    return Gram(matrix, in_x, in_y, float(values.std() / math.sqrt(len(values))), K, L)


def _integrated(f: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distribution functions less the first one, and what their products with others have to be summed with for integrals."""
    F = (f - f[0]).cumsum(-1)
    # Differences of distribution functions are linear between edges, so that over a bin of width h from a to b their
    # product with another from c to d has the integral h (ac + bd + (ad + bc)/2) / 3. At both ends all are 0.
    inner = h[:, 1:] / 6
    integrated = F * (h / 3)
    integrated[..., :-1] += F[..., :-1] * (2 * inner) + F[..., 1:] * inner
    integrated[..., 1:] += F[..., :-1] * inner
    return F, integrated


def _pieces(grid: bins.Grid, K: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Some slices at a time, for tables of K rows: which, and the widths of their bins (p, bins)."""
    tail = np.diff([bins.tail_edge(k, grid.B) for k in range(bins.TAIL + 1)])
    widths = np.concatenate([tail[::-1], np.ones(grid.B), tail])
    inverse = np.asarray(grid.inverse.cpu().numpy(), np.float64)
    step = max(1, _TOGETHER // (4 * K * len(widths)))
    for k in range(0, grid.directions.P, step):
        yield slice(k, k + step), widths / inverse[k : k + step, None]
