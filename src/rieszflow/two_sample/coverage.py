"""`coverage_test`: test whether true values are distributed as the samples of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import Points
from rieszflow.errors import InputError
from rieszflow.two_sample.multiscale import aggregate
from rieszflow.two_sample.permutations import permutation_rng, scaled_distances

_COORDINATES = 64  # that are ranked on their own, at random if there are more


@dataclass(frozen=True, eq=False)
class CoverageTest:
    """The result of `coverage_test`.

    Attributes:
        pvalue: Exact p-value of the hypothesis that every true value is distributed as its samples are.
        names: The quantities that are ranked: "mean distance", and coordinates.
        ranks: (Number of samples below the true value + ½) / (S + 1), (n, quantities): uniform for a correct model. The mean
            distance is that from all other members: if most of its ranks are near 1, the model is overconfident.
        adjusted_pvalues: P-values of the quantities, adjusted for their number.
    """

    pvalue: float
    names: tuple[str, ...]
    ranks: np.ndarray = field(repr=False)
    adjusted_pvalues: np.ndarray

    def coverage(self, levels: np.ndarray) -> np.ndarray:
        """Return the share of true values inside central regions of probabilities (k,), of shape (k, quantities).

        The regions are intervals between two quantiles for a coordinate, and the samples of the smallest mean distances.
        """
        inside = np.abs(2 * self.ranks - 1)
        inside[:, 0] = self.ranks[:, 0]
        return np.asarray((inside <= np.atleast_1d(levels)[:, None, None]).mean(1))


@isolated_numerics
def coverage_test(samples: Points, truth: Points, *, permutations: int = 999, seed: int = 0) -> CoverageTest:
    """Test whether true values are distributed as a model's samples: simulation-based calibration in any dimension.

    For a correct posterior, the true value and the samples of one simulation are exchangeable, whatever the posterior is. So
    the true value has a uniform rank among them in every coordinate, and in its mean distance from the others. The test
    compares these ranks with those of samples in its place, drawn at random in every simulation; the p-value is exact.

    Args:
        samples: Samples of shape (n, S, d): S from the posterior of each of n simulations or observations, S ≥ 2. The mean
            distances take O(n·S²·d). Divide coordinates of different units by their spreads first.
        truth: The true values (n, d), n ≥ 2.
        permutations: Number B; the smallest p-value is 1 / (B + 1).
        seed: Seed of the permutations, an integer.

    Raises:
        InputError, InputTypeError: Other shapes, values that are not finite, or fewer than two simulations or samples.

    Example:
        >>> g = np.random.default_rng(0)
        >>> means = g.normal(size=(300, 2))
        >>> truth, samples = means + g.normal(size=(300, 2)), means[:, None] + g.normal(size=(300, 99, 2))
        >>> narrow = means[:, None] + 0.7 * g.normal(size=(300, 99, 2))
        >>> coverage_test(samples, truth).pvalue > 0.05, coverage_test(narrow, truth).pvalue
        (True, 0.001)

    References:
        Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration (2018); Lemos et al.,
        Sampling-Based Accuracy Testing of Posterior Estimators (2023).
    """
    x, y = (validate.points(name, v).detach().cpu().double().numpy() for name, v in (("samples", samples), ("truth", truth)))
    if x.ndim != 3 or min(x.shape) < 1 or min(x.shape[:2]) < 2:
        raise InputError(f"`samples` must have shape (n, S, d) with n, S ≥ 2, got {x.shape}")
    n, S, d = x.shape
    if y.shape != (n, d):
        raise InputError(f"`truth` must have shape {(n, d)}, one value per row of samples, got {y.shape}")
    permutations, rng = validate.positive_int("permutations", permutations), permutation_rng(seed)
    # The true value has a random place: then ties that rounding breaks do not depend on what is true.
    members, place = np.concatenate([y[:, None], x], 1), rng.integers(0, S + 1, n)
    every = np.arange(n)
    members[every, 0], members[every, place] = members[every, place], y
    coordinates = np.sort(rng.permutation(d)[:_COORDINATES])
    distances = np.stack([scaled_distances(those)[0].sum(1) for those in members])
    values = np.concatenate([distances[..., None], members[..., coordinates]], 2)
    # Ties are broken at random, so that all ranks are equally likely.
    order = np.lexsort((rng.random(values.shape), values), axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.broadcast_to((np.arange(S + 1) + 0.5)[:, None] / (S + 1), values.shape), 1)
    chosen = rng.integers(0, S + 1, (permutations + 1, n))
    chosen[0] = place
    uniform = (every[:, None] + 0.5) / n
    statistics = np.stack([((np.sort(ranks[every, row], 0) - uniform) ** 2).sum(0) for row in chosen])  # Cramér and von Mises
    found = aggregate(statistics, np.full(statistics.shape[1], 1 / statistics.shape[1]))
    names = ("mean distance", *(f"coordinate {k}" for k in coordinates))
    return CoverageTest(found.pvalue, names, ranks[every, place], found.adjusted)
