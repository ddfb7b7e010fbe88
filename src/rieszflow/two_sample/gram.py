"""Gram matrices of single points or of blocks of points, from which MMD² of any split and its standard error follow.

Few points are compared by the distances of all pairs; up to about 2,000, this is faster than slices. More points are dealt at
random into blocks of equal size, whose histograms are counted in the same pass as those of the whole sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.numerics import power_of_two
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud
from rieszflow.kernels import Riesz
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts, reservoir_capacity
from rieszflow.two_sample.permutations import PermutationTestResult, permutation_test

__all__ = ["Blocks", "Gram", "are_few", "block_gram", "block_sizes", "in_range", "pair_distances"]

# Up to these numbers of points and coordinates, brute force with 999 permutations is no slower than slices and blocks.
_FEW_POINTS = 2000
_FEW_NUMBERS = 1 << 22
_CLOSE = 0.01  # share of ‖x‖² + ‖y‖² below which squared distances are summed from differences: cancellation costs ≤ 1e-13
_COLUMNS = 256  # of a Gram matrix at a time; by symmetry half of it is enough
_BLOCKS = 32  # of the smaller sample
_COUNTS = Workspace()
_MAX_NUMBERS = 1 << 24  # in the histograms of all blocks at a time


@dataclass(frozen=True)
class Gram:
    """Inner products of K blocks of x, L blocks of y and, unless blocks are single points, the other points of x and of y.

    Attributes:
        matrix: Inner products of the blocks' distribution functions, up to terms that weights of sum zero cancel: float64.
        in_x: Shares of x in the rows of the matrix. MMD² is wᵀGw for w = in_x − in_y.
        in_y: Shares of y.
        K: Number of blocks of x.
        L: Number of blocks of y.
        scale: Size of the largest terms of MMD².
        slices_error: Standard error of MMD² from the choice of slices.
    """

    matrix: np.ndarray
    in_x: np.ndarray
    in_y: np.ndarray
    K: int
    L: int
    scale: float
    slices_error: float = 0.0

    @classmethod
    def from_distances(cls, distances: np.ndarray, n: int) -> Gram:
        """Return −‖x_i − x_j‖ for single points, of which the first n are those of x."""
        m = len(distances) - n
        in_x, in_y = np.repeat([1 / n, 0.0], [n, m]), np.repeat([0.0, 1 / m], [n, m])
        return cls(-distances, in_x, in_y, n, m, 2 * float(distances.max()))

    @classmethod
    def from_blocks(
        cls, matrix: np.ndarray, size: int, blocks: tuple[int, int], points: tuple[int, int], slices_error: float = 0.0
    ) -> Gram:
        """Return the Gram matrix of blocks of `size` points, from samples with these numbers of blocks and of points."""
        in_x, in_y = _shares(size, blocks, points)
        scale = float(matrix.diagonal()[in_x != in_y].max())
        return cls(matrix, in_x, in_y, *blocks, scale, slices_error)

    @property
    def weights(self) -> np.ndarray:
        weights: np.ndarray = self.in_x - self.in_y
        return weights

    def squares(self, w: np.ndarray) -> np.ndarray:
        """Return wᵀGw for every row of w."""
        squares = np.zeros(len(w))
        for k in range(0, len(self.matrix), _COLUMNS):
            own, below = slice(k, k + _COLUMNS), slice(k + _COLUMNS, None)
            products = w[:, own] @ self.matrix[own, own] + 2 * (w[:, below] @ self.matrix[below, own])
            squares += (products * w[:, own]).sum(1)
        return squares

    def permutation_test(self, splits: np.ndarray) -> PermutationTestResult:
        return permutation_test(self.squares, self.weights, splits, self.scale)

    def standard_error(self) -> float:
        """Return the standard error of MMD² from the points, by Hoeffding's two terms, and from the slices.

        The first term is the variance of the contribution of a block, without its distance from itself. The second one, which
        counts if x and y are alike, is the variance of products of different blocks, taken as one sample.
        """
        gram, K, L, variance = self.matrix, self.K, self.L, 0.0
        for own, other, rows in ((self.in_x, self.in_y, slice(K)), (self.in_y, self.in_x, slice(K, K + L))):
            share = own[rows]
            within = (gram[rows] @ own - share * gram.diagonal()[rows]) / (1 - share)
            variance += (2 * (within - gram[rows] @ other)).var(ddof=1) * share[0]
        pooled = gram[: K + L, : K + L]
        centred = pooled - pooled.mean(0) - pooled.mean(1)[:, None] + pooled.mean()
        products = (np.vdot(centred, centred) - (centred.diagonal() ** 2).sum()) / ((K + L) * (K + L - 1))
        points_error = math.sqrt(variance + 2 * (self.in_x[0] + self.in_y[K]) ** 2 * products)
        return math.hypot(points_error, self.slices_error)


def _shares(size: int, blocks: tuple[int, int], points: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    (K, L), (n, m) = blocks, points
    in_x = np.array([size] * K + [0] * L + [n - K * size, 0]) / n
    in_y = np.array([0] * K + [size] * L + [0, m - L * size]) / m
    return in_x, in_y


def are_few(n: int, d: int) -> bool:
    """Return True if n points of dimension d are compared by brute force."""
    return n <= _FEW_POINTS and n * d <= _FEW_NUMBERS


def in_range(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the points in float64, scaled so that squares neither overflow nor underflow, and the scale factor."""
    largest = float(np.abs(x).max())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, torch.float64)
    return x.astype(np.float64) * unit, unit


def pair_distances(x: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances (N, N) of all pairs of points (N, d), float64; equal points have distance zero."""
    centred = np.ascontiguousarray(x - x.mean(0))
    distances: np.ndarray = centred @ centred.T
    parallel_for(_to_distances, len(x), 64, centred, distances.diagonal().copy(), distances)
    return distances


@numba.njit(**OPTIONS)
def _to_distances(first, last, worker, step, x, norms, products):
    for i in range(first, last):
        products[i, i] = 0.0
        for j in range(i):
            norm = norms[i] + norms[j]
            square = norm - 2.0 * products[i, j]
            if square < _CLOSE * norm:
                square = 0.0
                for k in range(x.shape[1]):
                    difference = x[i, k] - x[j, k]
                    square += difference * difference
            products[i, j] = products[j, i] = np.sqrt(square)


@dataclass(frozen=True)
class Blocks:
    """A sample dealt at random into blocks of equal size, with some points left over.

    Attributes:
        sketch: The sketch of all points.
        counts: Number of points in every bin, (K, P, bins) integers for every grid of the random slices.
        size: Number of points in a block.
    """

    sketch: SliceSketch
    counts: list[np.ndarray]
    size: int

    @classmethod
    def deal(cls, batches: Iterable[Tensor], n: int, plan: Plan, size: int, K: int, rng: np.random.Generator) -> Blocks:
        """Deal a cloud of n points into K blocks of `size` points, in one pass."""
        total = Counts(plan, reservoir_capacity(None, plan.settings.d))
        counts = [np.zeros((K, g.directions.P, g.B + 2 * histograms.TAIL), np.min_scalar_type(size)) for g in plan.random_grids]
        # The numbers of points that the blocks still need, and of those left over, determine who gets a point of a batch.
        needed = np.array([size] * K + [n - K * size])
        for batch in batches:
            total.update(plan, batch)
            drawn = rng.multivariate_hypergeometric(needed, len(batch), method="marginals")
            needed -= drawn
            order, scaled = torch.from_numpy(rng.permutation(len(batch))), plan.settings.rescale(batch)
            for k, rows in enumerate(order.split(drawn.tolist())[:K]):
                for grid, table in zip(plan.random_grids, counts, strict=True):
                    _count_block(grid, scaled, rows, table[k])
        return cls(SliceSketch.from_counts(plan, total), counts, size)

    @property
    def K(self) -> int:
        return len(self.counts[0])

    @property
    def tested(self) -> int:
        """Return the number of points in blocks."""
        return self.K * self.size

    def remaining(self, part: int) -> np.ndarray:
        """Return the counts of the points in no block, on a part of the slices: (P, bins)."""
        remaining: np.ndarray = self.sketch.counts[part].cpu().numpy() - self.counts[part].sum(0, dtype=np.float64)
        return remaining


def _count_block(grid: histograms.BinGrid, points: Tensor, rows: Tensor, counts: np.ndarray) -> None:
    if not len(rows):
        return
    # A single point is counted twice: the projection of one point, a product with a vector, is rounded differently from those
    # of several points, and equal points must be in equal bins.
    times = 2 if len(rows) == 1 else 1
    grid, wide = grid.promote(points[rows.repeat(times)])
    new, _ = histograms.select_backend(grid).count(grid, Cloud(wide), scale=1 / times, workspace=_COUNTS)
    counts += new.cpu().numpy().astype(counts.dtype)


def block_sizes(n: int, m: int, most_times: int) -> tuple[int, int, int]:
    """Return the size of a block and the numbers of blocks of samples of n and m points: 32 of the smaller sample."""
    size = max(1, min(n, m) // _BLOCKS)
    K, L = (min(many // size, most_times * _BLOCKS) for many in (n, m))
    return size, K, L


def block_gram(x: Blocks, y: Blocks) -> Gram:
    """Return the Gram matrix of two clouds that were dealt into blocks of one size, with one plan."""
    blocks, points, size, slices = (x.K, y.K), (x.sketch.n, y.sketch.n), x.size, x.sketch.slices
    in_x, in_y = _shares(size, blocks, points)
    w, remaining = in_x - in_y, [max(1, n - K * size) for n, K in zip(points, blocks, strict=True)]
    sizes = np.array([size] * sum(blocks) + remaining)
    matrix, each = np.zeros((len(w), len(w))), []
    for part, grid in enumerate(x.sketch.plan.random_grids):
        unit = 2 * Riesz(1.0).basis_constant(grid.directions.n) / (grid.scale * slices)
        counts = [x.counts[part], y.counts[part], np.stack([x.remaining(part), y.remaining(part)])]
        own, shared = _root(grid.B)
        step = max(1, _MAX_NUMBERS // (4 * len(w) * len(own)))
        for first in range(0, grid.directions.P, step):
            some = slice(first, first + step)
            f = np.concatenate([c[:, some] for c in counts]) / sizes[:, None, None]
            heights = np.sqrt(unit / np.asarray(grid.inverse[some].cpu().numpy(), np.float64))
            parallel_for(_embed, f.shape[1], 1, f, own, shared, heights)
            each.append((np.tensordot(w, f, 1) ** 2).sum(-1))
            rows = f.reshape(len(w), -1)
            matrix += rows @ rows.T  # NumPy recognises the symmetry and computes one half
    values = np.concatenate(each) * slices
    return Gram.from_blocks(matrix, size, blocks, points, float(values.std() / math.sqrt(len(values))))


def _root(B: int) -> tuple[np.ndarray, np.ndarray]:
    """Return r and s with ∫F² = Σ_j (r_j F_j + s_j F_{j+1})² for F at the right edges of the bins, linear between them.

    Over a bin of width h from a to b, F² has the integral h (a² + ab + b²) / 3. In all this is a tridiagonal form in the F_j,
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
    """Turn histograms f (rows, p, bins) into vectors whose products are integrals of F less that of row 0."""
    J = f.shape[2]
    for p in range(first, last):
        for k in range(f.shape[0] - 1, -1, -1):  # row 0 last: the others need its histogram
            own, less, F = f[k, p], f[0, p], 0.0
            for j in range(J):
                following = F + (own[j] - less[j])
                if j > 0:
                    own[j - 1] = heights[p] * (r[j - 1] * F + s[j - 1] * following)
                F = following
            own[J - 1] = heights[p] * r[J - 1] * F
