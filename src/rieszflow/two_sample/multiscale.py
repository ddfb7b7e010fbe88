"""A permutation test with Gaussian kernels of every width, on whole points and on columns, and with the energy distance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr
from torch import Tensor

from rieszflow._types import Kernels
from rieszflow.kernels import Riesz
from rieszflow.sketch import SliceSketch
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.octaves import ENERGY, Octaves
from rieszflow.two_sample.permutations import Gram, permuted_shares
from rieszflow.two_sample.units import Units

_BLOCKS, _MAX_RATIO = 64, 8  # of the smaller sample, and as many times more of the larger one
# Weights of kernels of whole points, and of each of these: the energy distance, all columns, a given kernel.
_WHOLE_WEIGHT, _OTHER_WEIGHT = 0.6, 0.2
_LEAST_SKEWNESS = 0.02
_MAX_NUMBERS = 1 << 22  # scores at a time
_TIE = 1e-6  # of −log p, whose rounding errors are smaller
_ROUNDING = 1e-9, 1e-24  # relative to the largest value, and for kernels up to 1: less variation is rounding


class Witness(NamedTuple):
    """Differences of the potentials of two samples at points, and their standard errors; both (n,) float64."""

    values: np.ndarray
    standard_errors: np.ndarray


@dataclass
class BlockSums:
    """Sums of features over blocks of points, and over the points that remain."""

    octaves: list[Octaves]
    weights: np.ndarray  # of the K blocks and of what remains, (K + 1,)
    sums: list[np.ndarray]  # for each of the octaves, (K + 1, L, 2, subspaces · D)

    @property
    def K(self) -> int:
        return len(self.weights) - 1

    @property
    def shares(self) -> np.ndarray:
        """Return the shares of the blocks, and of what remains, in the weight of all."""
        return np.asarray(self.weights / self.weights.sum())

    def means(self, k: int, subspace: int, octave: int) -> np.ndarray:
        """Return the mean features of octaves k in all blocks and in the remainder, less those of the origin: (K + 1, 2 D)."""
        D = self.octaves[k].D
        sums = self.sums[k][:, octave, :, subspace * D : (subspace + 1) * D]
        return sums.reshape(len(sums), -1) / np.where(self.weights > 0, self.weights, 1)[:, None]

    def condensed(self) -> BlockSums:
        """Return sums over at most 16 blocks, in float32, which suffice for witnesses."""
        at = [*np.unique(np.linspace(0, self.K, 17).astype(int)[:-1]), self.K]
        sums = [np.add.reduceat(mine, at).astype(np.float32) for mine in self.sums]
        return BlockSums(self.octaves, np.add.reduceat(self.weights, at), sums)


class FeatureBlocks(BlockSums):
    """Sums of features over random blocks of equally many units, and over the units that remain."""

    def __init__(
        self, octaves: list[Octaves], settings: SliceSettings, units: Units, size: int, rng: np.random.Generator
    ) -> None:
        K = min(units.n // size, _MAX_RATIO * _BLOCKS)
        sums = [np.zeros((K + 1, o.widths.shape[1], 2, o.frequencies.shape[1])) for o in octaves]
        super().__init__(octaves, np.zeros(K + 1), sums)
        self.settings, self.units, self.rng = settings, units, rng
        self._needed, self._done = np.array([size] * K + [units.n - K * size]), 0
        self._block = None if units.group is None else rng.permutation(np.repeat(np.arange(K + 1), self._needed))[units.group]

    def add(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield batches of points (n, d), and add their features."""
        for batch in batches:
            own = slice(self._done, self._done + len(batch))
            self._done = own.stop
            if self._block is None:
                drawn = self.rng.multivariate_hypergeometric(self._needed, len(batch), method="marginals")
                self._needed -= drawn
                rows = self.rng.permutation(len(batch))
            else:
                drawn = np.bincount(self._block[own], minlength=self.K + 1)
                rows = np.argsort(self._block[own], kind="stable")
            x = self.settings.rescale_array(batch.cpu().numpy())[rows]  # in float64, so that equal points have equal features
            w = np.ones(len(batch)) if self.units.weights is None else self.units.weights[own][rows]
            starts = np.concatenate([[0], np.cumsum(drawn)])
            self.weights += np.bincount(np.repeat(np.arange(self.K + 1), drawn), w, self.K + 1)
            for octaves, sums in zip(self.octaves, self.sums, strict=True):
                octaves.add(x, w, starts, sums)
            yield batch

    def add_rest(self, points: SliceSketch, kept: SliceSketch) -> None:
        """Add the points of a sketch that are not kept, by their bins, to those that remain."""
        for octaves, sums in zip(self.octaves, self.sums, strict=True):
            octaves.add_rest(points, kept, sums[-1])
        self.weights[-1] += points.weight - kept.weight


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel of a test, with its statistic, and its p-value adjusted for the number of kernels.

    Attributes:
        column: Index of the column that is compared by itself; None for whole points.
        width: h of the Gaussian kernel exp(−‖x − y‖² / 2h²), in units of the scaled columns; None for the energy distance.
        statistic: MMD², a V-statistic.
        pvalue: Share of permutations in which any kernel finds a difference that is as improbable (Westfall and Young).
    """

    column: int | None
    width: float | None
    statistic: float
    pvalue: float
    _octaves: int = field(repr=False)
    _subspace: int = field(repr=False)
    _factors: np.ndarray = field(repr=False)  # of the Gaussians that are summed, (L,)
    _samples: tuple[BlockSums, BlockSums] = field(repr=False)

    def scaled_witness(self, x: np.ndarray) -> Witness:
        """Return E k(x, X) − E k(x, Y) at points (n, d) whose columns are scaled as those of the samples."""
        octaves = self._samples[0].octaves[self._octaves]
        phases = octaves.phases(x, self._subspace)
        potentials = [np.zeros((len(x), sample.K + 1)) for sample in self._samples]
        for octave in np.flatnonzero(self._factors).tolist():
            features = octaves.features(phases, octave) * (self._factors[octave] / octaves.D)
            for potential, sample in zip(potentials, self._samples, strict=True):
                potential += features @ sample.means(self._octaves, self._subspace, octave).T
        values, variances = np.zeros(len(x)), np.zeros(len(x))
        for sign, potential, sample in zip((1, -1), potentials, self._samples, strict=True):
            values += sign * (potential @ sample.shares)
            share, change = sample.shares[:-1], potential[:, :-1]
            change = change - (change @ share)[:, None] / share.sum()
            variances += (change**2 @ share**2) / share.sum() * sample.K / max(1, sample.K - 1)
        return Witness(values, np.sqrt(variances))


def block_size(n: int, m: int) -> int:
    """Return the number of points in a block of samples of n and m points."""
    return max(1, min(n, m) // _BLOCKS)


class PairedSums(NamedTuple):
    """The sums of two samples over blocks of one size, and the Gram matrices of whole points."""

    x: BlockSums
    y: BlockSums
    grams: np.ndarray  # for each width, (L, blocks, blocks): blocks of x and of y, and then what remains

    @classmethod
    def of(cls, x: BlockSums, y: BlockSums) -> PairedSums:
        octaves = x.octaves[0]
        features = (_centred(x, y, 0, 0, octave) for octave in range(octaves.widths.shape[1]))
        return cls(x, y, np.stack([mine @ mine.T for mine in features]) / octaves.D)

    def test(self, kernels: Kernels, splits: np.ndarray) -> tuple[float, list[Kernel]]:
        """Permute the blocks by `splits`, see `draw_splits`.

        Returns:
            An exact p-value, and the kernels, sorted by their scores. All kernels have the same permutations.
        """
        x, y = self.x, self.y
        of_blocks = np.concatenate([x.weights[:-1], y.weights[:-1], x.weights[-1:], y.weights[-1:]])
        forms: list[Callable[[np.ndarray], np.ndarray]] = []
        weights: list[float] = []
        found = []
        for k, octaves in enumerate(x.octaves):
            for subspace, widths in enumerate(octaves.widths):
                factors = np.eye(L := len(widths))  # of the Gaussians of each kernel
                if k == 0:
                    factors = factors[octaves.above if kernels == "auto" else L :]
                    harmonic = 1 / np.arange(len(factors), 0, -1)  # small widths see what no other kernel does
                    weights += list(_WHOLE_WEIGHT / harmonic.sum() * harmonic)
                    if isinstance(kernels, str) or Riesz(1.0) in kernels:
                        factors = np.concatenate([factors, ENERGY * widths[None]])
                        weights.append(_OTHER_WEIGHT)
                    forms.append(partial(_gram_forms, np.tensordot(factors, self.grams, 1)))
                else:
                    weights += [_OTHER_WEIGHT / octaves.widths.size] * L
                    features = [_centred(x, y, k, subspace, octave) for octave in range(L)]
                    forms.append(partial(_feature_forms, np.stack(features, 1) / octaves.D**0.5))
                column = int(octaves.first[subspace]) if k and kernels == "auto" else None
                for factor in factors:
                    width = float(widths @ factor) if np.count_nonzero(factor) == 1 else None
                    found.append(Kernel(column, width, 0.0, 1.0, k, subspace, factor, (x, y)))
        share = np.array(weights)
        shares = permuted_shares(of_blocks, splits)
        statistics = np.concatenate([np.concatenate([form(w) for form in forms], 1) for w in shares])
        result = aggregate(statistics, share / share.sum())
        order = np.argsort(-result.scores, kind="stable").tolist()
        ordered = [replace(found[k], statistic=float(statistics[0, k]), pvalue=float(result.adjusted[k])) for k in order]
        return result.pvalue, ordered

    def energy_gram(self, slices_error: float) -> Gram:
        """Return the Gram matrix of −‖x − y‖."""
        x, y, blocks = self.x, self.y, len(self.grams[0])
        gram = np.tensordot(ENERGY * x.octaves[0].widths[0], self.grams, 1)
        in_x, in_y = np.zeros(blocks), np.zeros(blocks)
        in_x[[*range(x.K), blocks - 2]] = x.shares
        in_y[[*range(x.K, x.K + y.K), blocks - 1]] = y.shares
        return Gram(gram, in_x, in_y, x.K, y.K, 1.0, slices_error)


def _centred(x: BlockSums, y: BlockSums, k: int, subspace: int, octave: int) -> np.ndarray:
    """Return mean features of blocks of x and of y, and then those of what remains, less the mean of all blocks."""
    a, b = x.means(k, subspace, octave), y.means(k, subspace, octave)
    features = np.concatenate([a[:-1], b[:-1], a[-1:], b[-1:]])
    return np.asarray(features - features[:-2].mean(0))  # there may be nothing that remains


def _gram_forms(grams: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return wᵀGw for matrices G (kernels, blocks, blocks) and rows of w, (rows, kernels)."""
    return np.asarray(np.einsum("lrk,rk->rl", w @ grams, w))


def _feature_forms(features: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return ‖Σ w_k F_k‖² for few features F of blocks (blocks, kernels, 2 D) and rows of w, (rows, kernels)."""
    blocks, L, width = features.shape
    return np.asarray(((w @ features.reshape(blocks, -1)) ** 2).reshape(-1, L, width).sum(2))


class Aggregate(NamedTuple):
    """The p-value of the test, and for every kernel the observed score and the adjusted p-value, (kernels,)."""

    pvalue: float
    scores: np.ndarray
    adjusted: np.ndarray


def aggregate(statistics: np.ndarray, weights: np.ndarray) -> Aggregate:
    """Combine statistics (rows, kernels) of permutations, the observed one first, with weights π (kernels,) of sum one.

    T_b = max_l (log π_l − log p_bl), where p_bl is the tail probability of statistic l in row b, from the moments of the other
    rows. T is symmetric in the rows, which are exchangeable under the null hypothesis, so the p-value #{b: T_b ≥ T_0} / rows is
    exact.

    References:
        Schrab et al., MMD Aggregated Two-Sample Test (2023); on adjusted p-values: Westfall and Young, Resampling-Based
        Multiple Testing (1993).
    """
    observed, largest, step = [], np.full(len(statistics), -np.inf), max(1, _MAX_NUMBERS // len(statistics))
    for first in range(0, len(weights), step):
        part = slice(first, first + step)
        scores = np.log(weights[part]) - _log_tails(statistics[:, part])
        observed.append(scores[0].copy())
        largest = np.maximum(largest, scores.max(1))
    found = np.concatenate(observed)
    adjusted = np.searchsorted(np.sort(-largest), _TIE - found, "right") / len(largest)
    return Aggregate(float(adjusted.min()), found, adjusted)


def _log_tails(statistics: np.ndarray) -> np.ndarray:
    """Return log P(S ≥ s) for statistics (rows, kernels), by a gamma distribution with the moments of the other rows.

    With moments of all rows, an observed value far from the others would spoil the moments that it is compared with. The gamma
    distribution is that of the cube of a normal variable (Wilson and Hilferty 1931).
    """
    n = len(statistics) - 1
    v = statistics - np.median(statistics, 0)
    first, second, third = ((power.sum(0) - power) / n for power in (v, v * v, v * v * v))
    variance = second - first**2
    least = np.maximum(_ROUNDING[0] * np.abs(statistics).max(0), _ROUNDING[1])
    varies = variance > least**2
    sd = np.sqrt(np.where(varies, variance, 1))
    skewness = np.maximum((third - 3 * first * second + 2 * first**3) / sd**3, _LEAST_SKEWNESS)
    a = 4 / skewness**2  # the shape, with mean a and standard deviation √a
    ratio = np.maximum(1 + (v - first) / (sd * np.sqrt(a)), 0)
    z = (np.cbrt(ratio) - 1 + 1 / (9 * a)) * 3 * np.sqrt(a)
    alone = np.where(v - first > 1e3 * least, -np.inf, np.inf)  # if the others are equal; a constant one never decides
    return np.where(varies, log_ndtr(-z), alone)
