"""The Gram matrix of blocks, and what follows from it: D² of any weights, and the standard error of D²."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from rieszflow import histograms
from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow.kernels import Riesz
from rieszflow.two_sample.blocks import Dealt

__all__ = ["Gram", "gram_of"]

_TOGETHER = 1 << 24  # numbers of all rows at a time
_COLUMNS = 256  # of a Gram matrix at a time; by symmetry half of it is enough


@dataclass(frozen=True)
class Gram:
    """Blocks of x, blocks of y, and on slices the points in no block of x and those in no block of y.

    Attributes:
        matrix: inner products of their distribution functions, minus the first one's: (K + L + 2, K + L + 2) float64. For
            single points see `exact_gram`.
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
        squares = np.zeros(len(w))
        for k in range(0, len(self.matrix), _COLUMNS):
            own, below = slice(k, k + _COLUMNS), slice(k + _COLUMNS, None)
            products = w[:, own] @ self.matrix[own, own] + 2 * (w[:, below] @ self.matrix[below, own])
            squares += (products * w[:, own]).sum(1)
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
            parallel_for = mine[these]
            own = gram[these] @ mine - parallel_for * gram.diagonal()[these]
            adds = 2 * (own / (1 - parallel_for) - gram[these] @ theirs)
            variance += adds.var(ddof=1) * parallel_for[0]
        pooled = gram[: K + L, : K + L]
        centred = pooled - pooled.mean(0) - pooled.mean(1)[:, None] + pooled.mean()
        products = (np.vdot(centred, centred) - (centred.diagonal() ** 2).sum()) / ((K + L) * (K + L - 1))
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
        unit = 2 * Riesz(1.0).basis_constant(grid.directions.n) / (grid.scale * slices)  # and of a slice: over `inverse`
        masses = [x.blocks[part], y.blocks[part], np.stack([x.rest(part), y.rest(part)])]
        own, shared = _root(grid.B)
        for some in _pieces(grid, len(w)):
            f = np.concatenate([m[:, some] for m in masses]) / numbers[:, None, None]
            heights = np.sqrt(unit / np.asarray(grid.inverse[some].cpu().numpy(), np.float64))
            parallel_for(_embed, f.shape[1], 1, f, own, shared, heights)
            each.append((np.tensordot(w, f, 1) ** 2).sum(-1))
            rows = f.reshape(len(w), -1)
            matrix += rows @ rows.T  # of a matrix and itself: NumPy computes one half
    values = np.concatenate(each) * slices
    return Gram(matrix, in_x, in_y, float(values.std() / math.sqrt(len(values))), K, L)


def _root(B: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers r and s with ∫F² = Σ_j (r_j F_j + s_j F_{j+1})²; F is at the right edges of the bins, and linear between them.

    Over a bin of width h from a to b, F² has the integral h (a² + ab + b²) / 3. Together this is a tridiagonal form in the F_j,
    and r and s are its Cholesky factor. At both ends F, a difference of distribution functions, is 0.
    """
    tail = np.diff([histograms.tail_edge(k, B) for k in range(histograms.TAIL + 1)])
    h = np.concatenate([tail[::-1], np.ones(B), tail])
    r, s = np.empty(len(h)), np.zeros(len(h))
    before = 0.0
    for j in range(len(h)):
        after = h[j + 1] if j + 1 < len(h) else 0.0
        r[j] = math.sqrt((h[j] + after) / 3 - before**2)
        before = s[j] = after / 6 / r[j]
    return r, s


@numba.njit(**OPTIONS)
def _embed(first, last, worker, step, f, r, s, heights):
    """Turns masses f (rows, p, bins) into vectors whose products are integrals of F less row 0's; slices first … last − 1."""
    J = f.shape[2]
    for p in range(first, last):
        for k in range(f.shape[0] - 1, -1, -1):  # row 0 last: the others need its masses
            mass, less, F = f[k, p], f[0, p], 0.0
            for j in range(J):
                following = F + (mass[j] - less[j])
                if j > 0:
                    mass[j - 1] = heights[p] * (r[j - 1] * F + s[j - 1] * following)
                F = following
            mass[J - 1] = heights[p] * r[J - 1] * F


def _pieces(grid: histograms.BinGrid, K: int) -> Iterator[slice]:
    """Some slices at a time, for tables of K rows."""
    step = max(1, _TOGETHER // (4 * K * (grid.B + 2 * histograms.TAIL)))
    for k in range(0, grid.directions.P, step):
        yield slice(k, k + step)
