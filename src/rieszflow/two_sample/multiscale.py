"""A permutation test with Gaussian kernels of every width, on whole points and on columns, and with the energy distance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr
from torch import Tensor

from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.octaves import ABOVE, ENERGY, Octaves
from rieszflow.two_sample.permutations import Gram, draw_splits, give_notice, permuted_weights, shares

_BLOCKS, _MOST_TIMES = 64, 4  # of the smaller sample, and as many times more of the larger one
_WEIGHTS = {"points": 0.6, "energy": 0.2, "columns": 0.2}  # of kinds of kernels
_LEAST_SKEWNESS = 0.02
_TIE = 1e-6  # of −log p, whose rounding errors are smaller
_ROUNDING = 1e-9, 1e-24  # relative to the largest value, and for kernels up to 1: less variation is rounding


class Witness(NamedTuple):
    """Differences of the potentials of two samples at points, and their standard errors; both (n,) float64."""

    values: np.ndarray
    standard_errors: np.ndarray


class FeatureBlocks:
    """The sums of features over blocks of equal size, to which points are dealt at random, and over the points that remain."""

    def __init__(self, octaves: list[Octaves], settings: SliceSettings, n: int, size: int, rng: np.random.Generator) -> None:
        self.octaves, self.settings, self.n, self.size, self.rng = octaves, settings, n, size, rng
        self.K = min(n // size, _MOST_TIMES * _BLOCKS)
        self._needed = np.array([size] * self.K + [n - self.K * size])
        self.counts = np.maximum(self._needed, 1)
        self._sums = [np.zeros((self.K + 1, o.widths.shape[1], 2, o.turns.shape[1])) for o in octaves]

    def add(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield batches of points (n, d), and add their features."""
        for batch in batches:
            x = self.settings.rescale_array(batch.cpu().numpy())  # in float64, so that equal points have equal features
            drawn = self.rng.multivariate_hypergeometric(self._needed, len(x), method="marginals")
            self._needed -= drawn
            rows, starts = self.rng.permutation(len(x)), np.concatenate([[0], np.cumsum(drawn)])
            for octaves, sums in zip(self.octaves, self._sums, strict=True):
                octaves.add(x, rows, starts, sums)
            yield batch

    def means(self, part: int, group: int) -> np.ndarray:
        """Return the mean features of a group of kernels in all blocks, and of the other points last: (K + 1, L, 2 D)."""
        D = self.octaves[part].D
        sums = self._sums[part][..., group * D : (group + 1) * D]
        return sums.reshape(*sums.shape[:2], -1) / self.counts[:, None, None]


@dataclass(frozen=True)
class Kernel:
    """A kernel of a test, with its statistic, and its p-value adjusted for the number of kernels.

    Attributes:
        column: Index of the column that is compared by itself; None for whole points.
        width: h of the Gaussian kernel exp(−‖x − y‖² / 2h²), in units of the scaled columns; None for the energy distance.
        statistic: MMD² of the points in blocks, a V-statistic.
        pvalue: Share of permutations in which any kernel finds a difference that is as improbable (Westfall and Young).
    """

    column: int | None
    width: float | None
    statistic: float
    pvalue: float
    _group: int = field(repr=False)
    _factors: np.ndarray = field(repr=False)  # of the Gaussians that are summed, (L,)
    _samples: tuple[FeatureBlocks, FeatureBlocks] = field(repr=False)

    def witness(self, x: np.ndarray) -> Witness:
        """Return E k(x, X) − E k(x, Y) at points (n, d) in units of the scaled columns."""
        part = 0 if self.column is None else 1
        octaves = self._samples[0].octaves[part]
        potentials = [np.zeros((len(x), sample.K + 1)) for sample in self._samples]
        for octave in np.flatnonzero(self._factors).tolist():
            features = octaves.features(x, self._group, octave) * (self._factors[octave] / octaves.D)
            for potential, sample in zip(potentials, self._samples, strict=True):
                potential += features @ sample.means(part, self._group)[:, octave].T
        values, variances = np.zeros(len(x)), np.zeros(len(x))
        for sign, potential, sample in zip((1, -1), potentials, self._samples, strict=True):
            values += sign * (potential @ (sample.counts / sample.n))
            variances += potential[:, :-1].var(1, ddof=1) * sample.size / sample.n
        return Witness(values, np.sqrt(variances))


class MultiscaleResult(NamedTuple):
    """An exact p-value, the number of permutations, and the kernels, of which the first one decided."""

    pvalue: float
    permutations: int
    kernels: tuple[Kernel, ...]


def block_size(n: int, m: int) -> int:
    """Return the number of points in a block of samples of n and m points."""
    return max(1, min(n, m) // _BLOCKS)


def test_features(x: FeatureBlocks, y: FeatureBlocks, permutations: int, rng: np.random.Generator) -> MultiscaleResult:
    """Permute the blocks of two samples; all kernels have the same permutations."""
    in_x, in_y = shares(x.size, (x.K, y.K), (x.n, y.n))
    splits = draw_splits(x.K, y.K, permutations, rng)
    kernels, tables, weights, kinds = [], [], [], []
    for part, octaves in enumerate(x.octaves):
        for group, widths in enumerate(octaves.widths):
            a, b = x.means(part, group), y.means(part, group)
            means, L = np.concatenate([a[:-1], b[:-1], a[-1:], b[-1:]]), len(widths)
            squares = np.stack([_squares(means[:, k], in_x - in_y, splits) for k in range(L)], 1) / octaves.D
            if part == 0:  # differences that only small widths see need the most weight
                factors = np.concatenate([np.eye(L)[ABOVE:], ENERGY * widths[None]])
                kinds += ["points"] * (L - ABOVE) + ["energy"]
                weights += [*(1 / np.arange(L - ABOVE, 0, -1)), 1.0]
            else:
                factors = np.eye(L)
                kinds += ["columns"] * L
                weights += [1.0] * L
            tables.append(squares @ (factors / factors.sum(1, keepdims=True)).T)
            for factor, statistic in zip(factors, tables[-1][0], strict=True):
                column, width = int(octaves.first[group]) if part else None, float(widths @ factor)
                gaussian = np.count_nonzero(factor) == 1
                kernels.append(Kernel(column, width if gaussian else None, float(statistic * factor.sum()), 1.0, group, factor, (x, y)))
    total = {kind: sum(w for w, k in zip(weights, kinds, strict=True) if k == kind) for kind in set(kinds)}
    share = np.array([w / total[kind] * _WEIGHTS[kind] for w, kind in zip(weights, kinds, strict=True)])
    found = aggregate(np.concatenate(tables, 1), share / share.sum())
    give_notice(found.largest, splits)
    order = np.argsort(-found.scores, kind="stable")
    return MultiscaleResult(
        found.pvalue, len(splits), tuple(replace(kernels[k], pvalue=float(found.adjusted[k])) for k in order.tolist())
    )


def energy_gram(x: FeatureBlocks, y: FeatureBlocks, m: int, slices_error: float) -> Gram:
    """Return the Gram matrix of −‖x − y‖ for two samples, of which the second is from m points that resemble it."""
    octaves, a, b = x.octaves[0], x.means(0, 0), y.means(0, 0)
    if m > y.n:
        b[-1] = np.average(b, 0, y.counts)
    means = np.concatenate([a[:-1], b[:-1], a[-1:], b[-1:]])
    means -= means[:-2].mean(0)
    factors = ENERGY * octaves.widths[0] / octaves.D
    gram = sum(factor * (part @ part.T) for factor, part in zip(factors, means.transpose(1, 0, 2), strict=True))
    return Gram.from_blocks(gram, x.size, (x.K, y.K), (x.n, m), slices_error)


def _squares(features: np.ndarray, w: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return ‖Σ w_k F_k‖² for the features F of blocks, (blocks, 2 D), and all rows of permuted weights."""
    centred = features - features[:-2].mean(0)  # of all blocks; there may be no points that remain
    if centred.shape[1] < len(centred):
        return np.concatenate([((rows @ centred) ** 2).sum(1) for rows in permuted_weights(w, splits)])
    gram = centred @ centred.T
    return np.concatenate([((rows @ gram) * rows).sum(1) for rows in permuted_weights(w, splits)])


class Aggregate(NamedTuple):
    """The p-value of the test, and for every kernel the observed score and the adjusted p-value, (kernels,)."""

    pvalue: float
    scores: np.ndarray
    adjusted: np.ndarray
    largest: np.ndarray  # rows that no row exceeds, (rows,) bool


def aggregate(statistics: np.ndarray, weights: np.ndarray) -> Aggregate:
    """Combine statistics (rows, kernels) of permutations, the observed one first, with weights π (kernels,) of sum one.

    T_b = max_l (log π_l − log p_bl), where p_bl is the tail probability of statistic l in row b, from the moments of the other
    rows. T is symmetric in the rows, which are exchangeable under the null hypothesis, so the p-value #{b: T_b ≥ T_0} / rows is
    exact.

    References:
        Schrab et al., MMD Aggregated Two-Sample Test (2023); on adjusted p-values: Westfall and Young, Resampling-Based
        Multiple Testing (1993).
    """
    scores = np.log(weights) - _log_tails(statistics)
    largest = scores.max(1)
    adjusted = (largest[:, None] >= scores[0] - _TIE).mean(0)
    return Aggregate(float(adjusted.min()), scores[0], adjusted, largest >= largest.max() - _TIE)


def _log_tails(statistics: np.ndarray) -> np.ndarray:
    """Return log P(S ≥ s) for statistics (rows, kernels), by a gamma distribution with the moments of the other rows.

    With moments of all rows, an observed value far from the others would spoil the moments that it is compared with. The gamma
    distribution is that of the cube of a normal number (Wilson and Hilferty 1931).
    """
    n = len(statistics) - 1
    v = statistics - np.median(statistics, 0)
    first, second, third = (((v**k).sum(0) - v**k) / n for k in (1, 2, 3))
    variance = second - first**2
    varies = variance > np.maximum(_ROUNDING[0] * np.abs(statistics).max(0), _ROUNDING[1]) ** 2
    sd = np.sqrt(np.where(varies, variance, 1))
    skewness = np.maximum((third - 3 * first * second + 2 * first**3) / sd**3, _LEAST_SKEWNESS)
    a = 4 / skewness**2  # the shape, with mean a and standard deviation √a
    ratio = np.maximum(1 + (v - first) / (sd * np.sqrt(a)), 0)
    z = (np.cbrt(ratio) - 1 + 1 / (9 * a)) * 3 * np.sqrt(a)
    return np.where(varies, log_ndtr(-z), np.inf)  # a constant one says nothing
