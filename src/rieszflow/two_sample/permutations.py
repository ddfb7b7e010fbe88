"""Exact permutation tests: for any statistic, and for MMD² by Gram matrices of points or of blocks of points.

Under the null hypothesis, what is permuted is exchangeable. So the observed statistic is one of those of permuted weights, each
equally likely, and the share of those that are at least as large is an exact p-value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch

from rieszflow._infra import validate
from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.messages import notice
from rieszflow._infra.numerics import power_of_two

__all__ = ["draw_splits", "permutation_rng", "permutation_test"]

_TIE = 1e-12  # share of a statistic's terms: summing up to 10^8 float64 numbers in another order changes less
_TINY = 1e-300
_LEVEL = 0.05  # of most tests
_MAX_NUMBERS = 1 << 20  # in permuted weights at a time
# Up to these numbers of points and coordinates, brute force with 999 permutations is no slower than slices and blocks.
_FEW_POINTS = 2000
_FEW_NUMBERS = 1 << 22
_CLOSE = 0.01  # share of ‖x‖² + ‖y‖² below which squared distances are summed from differences: cancellation costs ≤ 1e-13
_COLUMNS = 256  # of a Gram matrix at a time; by symmetry half of it is enough


def permutation_rng(seed: int) -> np.random.Generator:
    """Return a random generator that shares no numbers with data made by `default_rng(seed)` or `manual_seed(seed)`."""
    return np.random.default_rng([validate.integer_seed(seed), 0x7E57])


def draw_splits(K: int, L: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random splits of K + L members into K and L, or return all splits if there are fewer than `permutations` + 2.

    A notice is given if no p-value with these splits is as small as 0.05.

    Returns:
        Boolean array of shape (splits, K + L), True for members of the first group.
    """
    ways = math.comb(K + L, K)
    if ways > permutations + 1:
        least, reason = 1 / (permutations + 1), f"the number of permutations is {permutations}"
        splits = rng.permuted(np.tile(np.arange(K + L) < K, (permutations, 1)), axis=1)
    else:  # a split and its opposite have the same statistic
        least, reason = (2 if K == L else 1) / ways, f"there are only {ways} ways to split the points"
        splits = np.zeros((ways, K + L), bool)
        np.put_along_axis(splits, np.array(list(itertools.combinations(range(K + L), K))), True, 1)
    if least > _LEVEL:
        notice(f"p-value: cannot be less than {least:.3g}, whatever the samples look like: {reason}")
    return splits


def permutation_test(
    statistic: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, splits: np.ndarray, scale: float
) -> float:
    """Return the share of permutations whose statistic, which is large if two groups differ, is at least the observed one.

    Args:
        statistic: Function from rows of weights (m, k) to statistics (m,), float64.
        weights: Weights of shape (k,), float64: those of the first group's K members, which are equal, then those of the
            second group's L members, then further ones, which are not permuted.
        splits: Splits of the K + L members, see `draw_splits`.
        scale: Size of the largest terms that a statistic sums, to recognise ties.

    Example:
        >>> values = np.array([5.0, 6.0, 7.0, 1.0, 2.0])
        >>> splits = draw_splits(3, 2, 99, permutation_rng(0))
        >>> permutation_test(lambda w: w @ values, np.array([1, 1, 1, 0, 0]) / 3, splits, scale=7.0)
        0.1
    """
    values = np.concatenate([statistic(rows) for rows in permuted_weights(weights, splits)])
    return float((values >= values[0] - _TIE * scale).mean())


def permuted_weights(weights: np.ndarray, splits: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows of weights, some at a time: the observed ones first, then those of all other splits."""
    members, K = splits.shape[1], int(splits[0].sum())
    for some in _with_observed(splits, len(weights)):
        permuted = np.tile(weights, (len(some), 1))
        permuted[:, :members] = np.where(some, weights[0], weights[K])
        yield permuted


def permuted_shares(weights: np.ndarray, splits: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows of the share of every block in x less that in y, as `permuted_weights` for blocks of different weights.

    Args:
        weights: Weights of the blocks of x and of y, and of the points of x and of y that are not permuted, float64.
        splits: Splits of the blocks, see `draw_splits`.
    """
    for some in _with_observed(splits, len(weights)):
        in_x = np.concatenate([some, np.tile([True, False], (len(some), 1))], 1)
        of_x, of_y = weights * in_x, weights * ~in_x
        total_x, total_y = of_x.sum(1, keepdims=True), of_y.sum(1, keepdims=True)
        both = (total_x > 0) & (total_y > 0)  # otherwise all points of positive weight are on one side: no difference
        yield np.where(both, of_x / np.where(both, total_x, 1) - of_y / np.where(both, total_y, 1), 0.0)


def _with_observed(splits: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield splits for rows of some width, a bounded number at a time, the observed one first."""
    members, K = splits.shape[1], int(splits[0].sum())
    if len(splits) < math.comb(members, K):  # all splits begin with the observed one
        splits = np.concatenate([np.arange(members)[None] < K, splits])
    step = max(1, _MAX_NUMBERS // width)
    for first in range(0, len(splits), step):
        yield splits[first : first + step]


@dataclass(frozen=True)
class Gram:
    """Inner products of K blocks of x, L blocks of y and, unless blocks are single points, the other points of x and of y.

    Up to terms that weights of sum zero cancel, `matrix` holds the inner products G of the blocks' distribution functions, in
    float64. MMD² is wᵀGw, where w is the share of every block in x less that in y.
    """

    matrix: np.ndarray
    in_x: np.ndarray
    in_y: np.ndarray
    K: int
    L: int
    scale: float  # of the largest terms of MMD²
    slices_error: float = 0.0  # standard error of MMD² from the choice of slices

    @classmethod
    def from_distances(cls, distances: np.ndarray, n: int) -> Gram:
        """Return −‖x_i − x_j‖ for single points, of which the first n are those of x."""
        m = len(distances) - n
        in_x, in_y = np.repeat([1 / n, 0.0], [n, m]), np.repeat([0.0, 1 / m], [n, m])
        return cls(-distances, in_x, in_y, n, m, 2 * float(distances.max()))

    @property
    def weights(self) -> np.ndarray:
        return np.asarray(self.in_x - self.in_y)

    def squares(self, w: np.ndarray) -> np.ndarray:
        """Return wᵀGw for every row of w."""
        squares = np.zeros(len(w))
        for k in range(0, len(self.matrix), _COLUMNS):
            own, below = slice(k, k + _COLUMNS), slice(k + _COLUMNS, None)
            products = w[:, own] @ self.matrix[own, own] + 2 * (w[:, below] @ self.matrix[below, own])
            squares += (products * w[:, own]).sum(1)
        return squares

    def pvalue(self, splits: np.ndarray) -> float:
        return permutation_test(self.squares, self.weights, splits, self.scale)

    def standard_error(self) -> float:
        """Return the standard error of MMD² from the points, by Hoeffding's two terms, and from the slices.

        The first term is the variance of the contribution of a block, without its distance from itself. The second one, which
        counts if x and y are alike, is the variance of products of different blocks, taken as one sample.
        """
        gram, K, L, variance, pair = self.matrix, self.K, self.L, 0.0, 0.0
        pooled = np.zeros(K + L)
        for own, other, rows in ((self.in_x, self.in_y, slice(K)), (self.in_y, self.in_x, slice(K, K + L))):
            share = own[rows]
            if (count := np.count_nonzero(share)) < 2:  # one point, which is compared as it is
                continue
            within = (gram[rows] @ own - share * gram.diagonal()[rows]) / np.maximum(1 - share, _TIE)
            change = 2 * (within - gram[rows] @ other)
            change -= (share @ change) / share.sum()
            # The other points, which are in no block, vary as much as these.
            variance += (share**2 @ change**2) / share.sum() * count / (count - 1)
            pair += (share @ share) / share.sum()
            pooled[rows] = share / (share @ share)
        v, blocks = pooled / max(pooled.sum(), _TINY), gram[: K + L, : K + L]
        row_means = blocks @ v
        centred = blocks - row_means - row_means[:, None] + v @ row_means
        weights = np.outer(v, v)
        np.fill_diagonal(weights, 0)
        products = (weights * centred**2).sum() / max(weights.sum(), _TINY)
        points_error = math.sqrt(variance + 2 * pair**2 * products)
        return math.hypot(points_error, self.slices_error)


def are_few(n: int, d: int) -> bool:
    """Return True if n points of dimension d are compared by brute force."""
    return n <= _FEW_POINTS and n * d <= _FEW_NUMBERS


def scaled_distances(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `pair_distances`, scaled so that squares neither overflow nor underflow, and the scale factor."""
    largest = float(np.abs(x).max())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, torch.float64)
    return pair_distances(x.astype(np.float64) * unit), unit


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
