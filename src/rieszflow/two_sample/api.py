"""`two_sample_test`, and the test that `drift_test` shares with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import scipy.special
import torch
from numpy.random import Generator
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, Kernels, Points, PointSource, ProgressCallback, ScaleName
from rieszflow.data import Stream
from rieszflow.data.encoding import open_clouds
from rieszflow.errors import InputError
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts, with_progress
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.multiscale import FeatureBlocks, Kernel, PairedSums, Witness, block_size
from rieszflow.two_sample.octaves import FITTED, FITTED_NUMBERS, check_kernels, fit_octaves
from rieszflow.two_sample.permutations import Gram, are_few, draw_splits, permutation_rng, scaled_distances
from rieszflow.two_sample.units import Units, read_groups, read_weights

_MAX_POINTS = 10**9  # of NumPy's hypergeometric distribution
_PLACING = 256  # random points by which bins are placed


class _Points(NamedTuple):
    """Both samples, and the points and settings that their sketches are fitted by."""

    x: np.ndarray
    y: np.ndarray
    some: Tensor
    settings: SliceSettings

    @isolated_numerics
    def sketches(self) -> tuple[SliceSketch, SliceSketch]:
        plan = Plan.fit(self.some, self.settings)
        counts = Counts(plan, None), Counts(plan, None)
        for mine, points in zip(counts, (self.x, self.y), strict=True):
            mine.update(torch.from_numpy(points))
        return SliceSketch.from_counts(counts[0]), SliceSketch.from_counts(counts[1])


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of a two-sample test.

    Attributes:
        pvalue: Exact probability of a difference at least as large if both samples come from one distribution.
        kernels: The kernels of the test, sorted by adjusted p-value: the first one decided. Empty for the energy
            distance of few points.
        statistic: Unbiased estimate of the energy distance (MMD²) of all points, which may be negative; on slices if `method`
            is "sliced". With scaled columns it has no unit. For one point and a reference larger than its reservoir it is the
            V-statistic.
        standard_error: Standard error of the statistic from the points (Hoeffding's two terms) and the slices.
        confidence_interval: Approximate 95 % confidence interval, from the standard error. It is too narrow if values that
            matter are too rare to occur among the points.
        effect_size: Estimate of the energy coefficient D² / 2E‖X − Y‖, which is 0 for equal distributions and at most 1.
        permutations: Number of permutations tried, or of all splits of the blocks if there are fewer than B + 2.
        blocks, tested: Numbers of blocks of x and y that are permuted, which are single points if there are few, and of points
            (of groups, if there are some) in these blocks.
        method: "exact" if the statistic is computed from the distances of all pairs of points, "sliced" if on slices.
        scale: "columns" if every column was divided by its spread, "none" for raw units.
        x, y: Sketches of all points of x and y. If `method` is "exact", they are made on first access.
        drawn: Some random points of both samples, up to (2048, d), in their units.
    """

    pvalue: float
    statistic: float
    standard_error: float
    confidence_interval: tuple[float, float]
    effect_size: float
    permutations: int
    blocks: tuple[int, int]
    tested: tuple[int, int]
    method: Literal["exact", "sliced"]
    scale: Literal["columns", "none"]
    _samples: _Points | tuple[SliceSketch, SliceSketch] = field(repr=False, compare=False)
    drawn: np.ndarray = field(repr=False, compare=False)
    _df: int = field(repr=False)  # of the standard error
    _unit: float = field(repr=False)  # of the effect size, 2E‖X − Y‖
    kernels: tuple[Kernel, ...] = field(default=(), repr=False, compare=False)

    def witness(self, points: PointSource) -> Witness:
        """Return the difference E k(z, X) − E k(z, Y) at points z for the kernel k that decided.

        It is positive where x is denser than y at the scale of the kernel. Its mean over x less its mean over y is MMD².

        Args:
            points: Points z of shape (n, d), in the units of the samples.

        Returns:
            `values` and `standard_errors`, (n,) float64; the errors are those of the choice of x and y, by blocks.

        Raises:
            InputError: Points of another dimension, or a test of few points with `kernels="energy"`.
        """
        if not self.kernels:
            raise InputError('`kernels` must be "auto" or a list in a test of few points that has a witness, got "energy"')
        cloud = self.x.plan.settings.open(points, "the sample")
        rescale = self.x.plan.settings.rescale_array
        found = [self.kernels[0].scaled_witness(rescale(batch.cpu().numpy())) for batch in cloud]
        return Witness(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def pvalue_above(self, effect_size: float) -> float:
        """Return an approximate p-value of the hypothesis that the effect size is at most the given one.

        Among many points every difference is significant, however small. This p-value is small if the difference is larger
        than one that matters. It is that of Student's t, from the standard error of the confidence interval.
        """
        if not (least := validate.real(effect_size)) >= 0:
            raise InputError(f"`effect_size` must be a non-negative number, got {effect_size!r}")
        excess = self.effect_size - least
        if not self.standard_error:
            return float(excess <= 0)
        return float(scipy.special.stdtr(self._df, -excess * self._unit / self.standard_error))

    @property
    def x(self) -> SliceSketch:
        return self._sketches[0]

    @property
    def y(self) -> SliceSketch:
        return self._sketches[1]

    @cached_property
    def _sketches(self) -> tuple[SliceSketch, SliceSketch]:
        return self._samples.sketches() if isinstance(self._samples, _Points) else self._samples


@isolated_numerics
def two_sample_test(
    x: PointSource,
    y: PointSource,
    *,
    groups: object = None,
    x_weights: Points | None = None,
    y_weights: Points | None = None,
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    scale: ScaleName = "auto",
    kernels: Kernels = "auto",
    progress: ProgressCallback | None = None,
    common: bool = False,
) -> TwoSampleTest:
    """Test whether two samples come from one distribution, with kernels of all widths and permutations.

    The test combines the energy distance, which sees shifts and heavy tails, with Gaussian kernels whose widths halve from one
    to the next, on whole points and on columns, which see local differences. Blocks of points are permuted (single points if
    there are few), in time that is linear in the number of points. The p-value is exact for independent points of any
    distribution and any n and m, including ties, constants and heavy tails: under the null hypothesis it is at most α with a
    probability of at most α.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators.
        y: Points of shape (m, d), m ≥ 2. If one sample has more than eight times as many points, only a random part of it
            is permuted, but all points enter the statistic.
        groups: Points that belong together, such as those of a patient or a day: the name of a column of labels that both
            tables have, or a pair of sequences of labels, one for each point of x and of y. Whole groups are then permuted; the
            p-value is exact for independent groups, each of which is in one sample only.
        x_weights, y_weights: Non-negative weights (n,) and (m,) on one scale, for arrays, both or none. The p-value is exact if
            points and weights together have one distribution in both samples.
        slices: Number P of random directions of the statistic and the sketches, preferably a multiple of d (see
            `sliced_mmd2`).
        permutations: Number B; the smallest p-value is 1 / (B + 1). All splits are tried if there are fewer than B + 2. A
            notice is given if the p-value cannot be as small as 0.05.
        directions: See `SliceSketch`.
        seed: Seed of directions, blocks and permutations, an integer.
        scale: "columns" divides every column by its robust spread in the pooled points, see `SliceSketch`, which keeps the
            p-value exact; "none" keeps raw units. "auto" is "columns" for tables and frames with named columns.
        kernels: "auto", "energy" for the energy distance only, or a list of `Gaussian` kernels, and `Riesz` with r = 1.
        progress: Called after every batch with a `Progress` that counts the points of "x" or "y".
        common: Compare the columns that both tables have. Otherwise both must have the same columns, in any order.

    Raises:
        InputError, InputTypeError, DatasetError: Points that `stream` refuses, of different dimensions, or fewer than two.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g)
        >>> two_sample_test(a, b).pvalue > 0.05, two_sample_test(a, b + 0.5).pvalue
        (True, 0.001)

    References:
        Székely and Rizzo, Testing for Equal Distributions in High Dimension (2004); Schrab et al., MMD Aggregated Two-Sample
        Test (2023); on blocks: Domingo-Enrich, Dwivedi and Mackey, Cheap Permutation Testing (2025).
    """
    (x, of_x), (y, of_y) = read_groups(x, y, groups)
    w = read_weights((x, y), (x_weights, y_weights))
    (one, two), columns = open_clouds([x, y], scale, common)
    for name, cloud in (("x", one), ("y", two)):
        if cloud.count() < 2:
            raise InputError(f"`{name}` must have at least two points, got one")
    permutations = validate.positive_int("permutations", permutations)
    rng, names = permutation_rng(seed), one.names or two.names
    seed = int(rng.integers(0, 2**63))
    settings = SliceSettings(one.d, slices, directions, seed, names, columns.spreads, columns.encoding)
    units = None
    if groups is not None or x_weights is not None:
        counts = [cloud.count() if of is None else int(of.max()) + 1 for cloud, of in ((one, of_x), (two, of_y))]
        units = Units(counts[0], of_x, w[0]), Units(counts[1], of_y, w[1])
    return run_test((one, two), settings, permutations, rng, progress, kernels, units=units)


def run_test(
    clouds: tuple[Stream, Stream],
    settings: SliceSettings,
    permutations: int,
    rng: Generator,
    progress: ProgressCallback | None,
    kernels: Kernels,
    *,
    reference: SliceSketch | None = None,
    units: tuple[Units, Units] | None = None,
) -> TwoSampleTest:
    """Test two clouds with equal columns, of which the second may be a sample of a reference, and the first one point."""
    check_kernels(kernels)
    counts = clouds[0].count(), clouds[1].count()
    if max(counts) >= _MAX_POINTS:
        raise InputError(f"`x` and `y` must have fewer than {_MAX_POINTS:,} points each, got {max(counts):,}")
    # Bins and widths are chosen by random pooled points: chosen by x alone, they would distinguish its points from those of y.
    fitted = max(_PLACING, min(FITTED, FITTED_NUMBERS // clouds[0].d))
    rows = rng.integers(0, sum(counts), fitted)
    parts = (rows[rows < counts[0]], rows[rows >= counts[0]] - counts[0])
    drawn = np.concatenate([cloud.rows(chosen) for cloud, chosen in zip(clouds, parts, strict=True) if len(chosen)])
    few = reference is None and units is None and are_few(sum(counts), clouds[0].d)
    units = units or (Units(counts[0]), Units(counts[1]))
    size = block_size(units[0].n, units[1].n)
    blocks: list[FeatureBlocks] = []
    if not (few and kernels == "energy"):
        slices = None if reference is None else reference.plan.dense_slices()
        octaves = fit_octaves(settings.rescale_array(drawn), sum(counts), rng, kernels, slices)
        blocks = [FeatureBlocks(octaves, settings, mine, size, rng) for mine in units]
    some = settings.rescale(torch.from_numpy(drawn[:: fitted // _PLACING]))
    sketched: list[Counts] = []
    points: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    if not few:
        plan = Plan.fit(some, settings) if reference is None else reference.plan
        weighted = units[0].weights is not None
        sketched = [Counts(plan, None, weighted) for _ in clouds]
    for k, cloud in enumerate(clouds):
        batches = with_progress(cloud, progress, "xy"[k])
        for batch in blocks[k].add(batches) if blocks else batches:
            if few:
                points[k].append(batch.cpu().numpy())
            else:
                n, w = sketched[k].n, units[k].weights
                sketched[k].update(batch, None if w is None else torch.from_numpy(w[n : n + len(batch)]).to(batch.device))
    if reference is not None and settings.has_columns:
        blocks[1].add_rest(reference, SliceSketch.from_counts(sketched[1]))
    pair = PairedSums.of(blocks[0], blocks[1]) if blocks else None
    samples: _Points | tuple[SliceSketch, SliceSketch]
    if few:
        samples = _Points(np.concatenate(points[0]), np.concatenate(points[1]), some, settings)
        gram, statistic, biased, mean_distance, unit = _from_distances(samples)
    else:
        assert pair is not None
        samples = SliceSketch.from_counts(sketched[0]), reference or SliceSketch.from_counts(sketched[1])
        each = samples[1].slice_distances(samples[0])
        slices_error = float(each.std(correction=0) / math.sqrt(max(len(each) - 1, 1)))
        gram = pair.energy_gram(slices_error)
        statistic, biased = samples[1].distance(samples[0], statistic="U" if counts[0] > 1 else "V"), each.mean().item()
        mean_distance, unit = samples[1].mean_distance(samples[0]), 1.0
    df, error = (min(gram.K, gram.L) if gram.K > 1 else gram.L) - 1, gram.standard_error() / unit
    half = float(scipy.special.stdtrit(df, 0.975)) * error
    # If nothing varies, the interval must still include the V-statistic, which differs by the bias only.
    interval = statistic - half, max(statistic + half, biased)
    K, L = counts if pair is None else (pair.x.K, pair.y.K)
    splits = draw_splits(K, L, permutations, rng)
    tested: list[Kernel] = []
    if pair is None:
        pvalue, size = gram.pvalue(splits), 1
    else:
        pvalue, tested = pair.test(kernels, splits)
        small = blocks[0].condensed(), blocks[1].condensed()
        tested = [replace(kernel, _samples=small) for kernel in tested]
    effect = statistic / (2 * mean_distance) if mean_distance else 0.0
    return TwoSampleTest(
        pvalue, statistic, error, interval, effect, len(splits), (K, L), (K * size, L * size), "exact" if few else "sliced",
        settings.scale, samples, drawn, df, 2 * mean_distance, tuple(tested),
    )  # fmt: skip


def _from_distances(points: _Points) -> tuple[Gram, float, float, float, float]:
    """Return the Gram matrix of few points, MMD² as U- and V-statistic, the mean distance, and the unit of the matrix."""
    n = len(points.x)
    distances, unit = scaled_distances(points.settings.rescale_array(np.concatenate([points.x, points.y])))
    gram = Gram.from_distances(distances, n)
    within = [part.sum() / max(1, len(part) * (len(part) - 1)) for part in (distances[:n, :n], distances[n:, n:])]
    apart = float(distances[:n, n:].mean())
    biased = float(gram.squares(gram.weights[None])[0])
    return gram, (2 * apart - float(sum(within))) / unit, biased / unit, apart / unit, unit
