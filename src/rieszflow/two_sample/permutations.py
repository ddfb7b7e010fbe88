"""The p-value of a permutation test, whatever its statistic is: the one machine that all our tests use.

Under the null hypothesis what is permuted is exchangeable. So the statistic of the weights as they are is one of those of
permuted weights, each as likely, and the share of those that are at least as large is an exact p-value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rieszflow._infra import validate
from rieszflow._infra.notices import notice

__all__ = ["PValue", "pvalue", "source", "splits"]

_TIE = 1e-12
"""Statistics that differ by less than this share of the terms they sum are equal.

The same float64 numbers added up in another order differ by some 1e-16 times the square root of their number. There are up to
10^8 of them: less than 1e-12 of the largest term.
"""
_LEVEL = 0.05  # of tests, usually
_TOGETHER = 1 << 22  # numbers in memory at a time


@dataclass(frozen=True)
class PValue:
    """What came out.

    Attributes:
        value: the share of permutations whose statistic is at least as large as the one that was found.
        tried: how many permutations that were.
    """

    value: float
    tried: int


def source(seed: int) -> np.random.Generator:
    """Random numbers for a test.

    Not `default_rng(seed)`: data made with that, or with torch.manual_seed(seed), would meet the same numbers here again.
    """
    return np.random.default_rng([validate.integer_seed(seed), 0x7E57])


def splits(K: int, L: int, permutations: int, random: np.random.Generator) -> np.ndarray:
    """Ways to split K + L members into K and L, (ways, K + L) truth values: random ones, or all where those are fewer."""
    ways = math.comb(K + L, K)
    if ways > permutations + 1:
        return random.permuted(np.tile(np.arange(K + L) < K, (permutations, 1)), axis=1)
    chosen = np.zeros((ways, K + L), bool)
    for row, members in zip(chosen, itertools.combinations(range(K + L), K), strict=True):
        row[list(members)] = True
    return chosen


def pvalue(
    statistic: Callable[[np.ndarray], np.ndarray],
    weights: np.ndarray,
    sizes: tuple[int, int],
    *,
    permutations: int,
    scale: float,
    random: np.random.Generator | np.ndarray,
) -> PValue:
    """The p-value of a statistic that is large where two groups differ. A notice says so if it cannot be small.

    Args:
        statistic: from rows of weights (m, k) to their statistics, (m,) float64.
        weights: (k,) float64. First those of one group's K members, which are equal, then the L of the other one's. Further
            ones keep their place.
        sizes: K and L.
        permutations: B random ones. Where there are less than B + 2 ways to split K + L members, all of them are tried.
        scale: size of the largest terms that a statistic sums; see `_TIE`.
        random: where permutations come from; or the `splits` to try, which tests of groups of one size can share.

    Example:
        >>> values = np.array([5.0, 6.0, 7.0, 1.0, 2.0])
        >>> first_mean = lambda w: w @ values
        >>> pvalue(first_mean, np.array([1, 1, 1, 0, 0]) / 3, (3, 2), permutations=99, scale=7.0, random=source(0)).value
        0.1
    """
    K, L = sizes
    ways = math.comb(K + L, K)
    all_of_them = ways <= permutations + 1
    split = splits(K, L, permutations, random) if isinstance(random, np.random.Generator) else random
    step = max(1, _TOGETHER // len(weights))
    null = np.concatenate([statistic(_permuted(weights, split[k : k + step], K)) for k in range(0, len(split), step)])
    tie = _TIE * scale
    found = int((null >= statistic(weights[None])[0] - tie).sum())
    # All ways contain the one that was found; random ones do not.
    share = found / ways if all_of_them else (1 + found) / (permutations + 1)
    least = float((null >= null.max() - tie).mean()) if all_of_them else 1 / (permutations + 1)
    if least > _LEVEL:
        why = f"there are {ways} ways to split so few points" if all_of_them else f"{permutations} permutations are tried"
        notice(f"p-value: cannot be less than {least:.3g}, whatever the samples look like: {why}")
    return PValue(share, len(split))


def _permuted(weights: np.ndarray, split: np.ndarray, K: int) -> np.ndarray:
    permuted = np.tile(weights, (len(split), 1))
    permuted[:, : split.shape[1]] = np.where(split, weights[0], weights[K])
    return permuted
