"""An exact permutation test for any statistic, which all tests of this package use.

Under the null hypothesis, what is permuted is exchangeable. So the observed statistic is one of those of permuted weights, each
equally likely, and the share of those that are at least as large is an exact p-value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rieszflow._infra import validate
from rieszflow._infra.messages import notice

__all__ = ["PermutationTestResult", "draw_splits", "permutation_rng", "permutation_test"]

_TIE = 1e-12
"""Statistics that differ by less than this share of the terms they sum are equal.

Summed in another order, up to 10^8 float64 numbers differ by some 1e-16 times the square root of their number.
"""
_LEVEL = 0.05  # of most tests
_MAX_NUMBERS = 1 << 22  # in memory at a time


@dataclass(frozen=True)
class PermutationTestResult:
    """The result of a permutation test.

    Attributes:
        pvalue: Share of permutations whose statistic is at least as large as the observed one.
        permutations: Number of permutations tried.
    """

    pvalue: float
    permutations: int


def permutation_rng(seed: int) -> np.random.Generator:
    """Return a random generator for tests that shares no numbers with data made by default_rng(seed) or manual_seed(seed)."""
    return np.random.default_rng([validate.integer_seed(seed), 0x7E57])


def draw_splits(K: int, L: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random splits of K + L members into K and L, or return all splits if there are fewer than `permutations` + 2.

    Returns:
        Boolean array of shape (splits, K + L), True for members of the first group.
    """
    ways = math.comb(K + L, K)
    if ways > permutations + 1:
        return rng.permuted(np.tile(np.arange(K + L) < K, (permutations, 1)), axis=1)
    splits = np.zeros((ways, K + L), bool)
    np.put_along_axis(splits, np.array(list(itertools.combinations(range(K + L), K))), True, 1)
    return splits


def permutation_test(
    statistic: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, splits: np.ndarray, scale: float
) -> PermutationTestResult:
    """Test with a statistic that is large if two groups differ, and give a notice if the p-value cannot be small.

    Args:
        statistic: Function from rows of weights (m, k) to statistics (m,), float64.
        weights: Weights of shape (k,), float64: those of the first group's K members, which are equal, then those of the
            second group's L members, then further ones, which are not permuted.
        splits: Splits of the K + L members, see `draw_splits`.
        scale: Size of the largest terms that a statistic sums, to recognise ties.

    Example:
        >>> values = np.array([5.0, 6.0, 7.0, 1.0, 2.0])
        >>> splits = draw_splits(3, 2, 99, permutation_rng(0))
        >>> permutation_test(lambda w: w @ values, np.array([1, 1, 1, 0, 0]) / 3, splits, scale=7.0).pvalue
        0.1
    """
    members, K = splits.shape[1], int(splits[0].sum())
    ways, step = math.comb(members, K), max(1, _MAX_NUMBERS // len(weights))
    null = []
    for first in range(0, len(splits), step):
        some = splits[first : first + step]
        permuted = np.tile(weights, (len(some), 1))
        permuted[:, :members] = np.where(some, weights[0], weights[K])
        null.append(statistic(permuted))
    values, tie = np.concatenate(null), _TIE * scale
    found = int((values >= statistic(weights[None])[0] - tie).sum())
    if len(splits) == ways:  # all splits, among them the observed one
        pvalue, least = found / ways, float((values >= values.max() - tie).mean())
        reason = f"there are {ways} ways to split so few points"
    else:
        pvalue, least = (1 + found) / (len(splits) + 1), 1 / (len(splits) + 1)
        reason = f"{len(splits)} permutations are tried"
    if least > _LEVEL:
        notice(f"p-value: cannot be less than {least:.3g}, whatever the samples look like: {reason}")
    return PermutationTestResult(pvalue, len(splits))
