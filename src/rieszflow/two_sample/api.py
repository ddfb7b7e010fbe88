"""`two_sample_test` and `drift_test`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, PointSource, ProgressCallback, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.streams import choose_spreads, common_columns
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts, with_progress
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.multiscale import FeatureBlocks, Kernel, Witness, block_size, test_features
from rieszflow.two_sample.octaves import fit_octaves
from rieszflow.two_sample.permutations import Blocks, Gram, are_few, block_gram, deal_blocks, permutation_rng, scaled_distances

_PLACING = 256, 2048  # random points that determine bins, and widths of kernels
# As many times more blocks of the larger sample. A sketch has 1,024 slices, and so larger histograms than the two-sample test.
_MOST_TIMES, _MOST_TIMES_DRIFT = 8, 4


class _Points(NamedTuple):
    """Both samples, and the points and settings that determine the bins of their sketches."""

    x: Tensor
    y: Tensor
    placed_by: Tensor
    settings: SliceSettings

    @isolated_numerics
    def sketches(self) -> tuple[SliceSketch, SliceSketch]:
        plan = Plan.fit(self.placed_by, self.settings)
        counts = Counts(plan, None), Counts(plan, None)
        for mine, points in zip(counts, (self.x, self.y), strict=True):
            mine.update(points)
        return SliceSketch.from_counts(counts[0]), SliceSketch.from_counts(counts[1])


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of a two-sample test.

    Attributes:
        pvalue: Exact probability of a difference at least as large if both samples come from one distribution.
        kernels: The kernels of an aggregated test, of which the first one decided, and the others follow in the order of their
            adjusted p-values; empty for a test with the energy distance only.
        statistic: Unbiased estimate of the energy distance (MMD²) of all points, which may be negative; on slices if `method`
            is "sliced". With scaled columns it has no unit.
        confidence_interval: Approximate 95 % confidence interval, from the standard errors of points (Hoeffding's two terms)
            and slices. It is too narrow if values that matter are too rare to occur among the points.
        permutations: Number of permutations tried, or of all splits of the points if there are fewer than B + 2.
        blocks, tested: Numbers of blocks of x and y that are permuted, which are single points if there are few, and of points
            in these blocks.
        method: "exact" if the statistic is computed from the distances of all pairs of points, "sliced" if on slices, with bins.
        scale: "columns" if every column was divided by its spread, "none" for raw units.
        x, y: Sketches of all points of x and y. If `method` is "exact", they are made on first access.
    """

    pvalue: float
    statistic: float
    confidence_interval: tuple[float, float]
    permutations: int
    blocks: tuple[int, int]
    tested: tuple[int, int]
    method: Literal["exact", "sliced"]
    scale: Literal["columns", "none"]
    _samples: _Points | tuple[SliceSketch, SliceSketch] = field(repr=False, compare=False)
    kernels: tuple[Kernel, ...] = field(default=(), repr=False, compare=False)

    def witness(self, points: PointSource) -> Witness:
        """Return the difference E k(z, X) − E k(z, Y) at points z for the kernel k that decided.

        It is positive where x has more mass than y at the scale of the kernel, and negative where it has less. Its mean over x
        less its mean over y is MMD².

        Args:
            points: Points z of shape (n, d), in the units of the samples.

        Returns:
            `values` and `standard_errors`, (n,) float64; the errors are those of the choice of x and y, by blocks.

        Raises:
            InputError: Points of another dimension, or a test with the energy distance only.
        """
        if not self.kernels:
            raise InputError('`kernels` must be "auto" in a test that has a witness')
        cloud = stream(points)
        if cloud.d != self.x.d:
            raise InputError(f"`points` must have dimension d = {self.x.d}, as the samples have, got d = {cloud.d}")
        rescale = self.x.plan.settings.rescale
        found = [self.kernels[0].witness(rescale(batch).double().cpu().numpy()) for batch in cloud]
        return Witness(*(np.concatenate(part) for part in zip(*found, strict=True)))

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
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    scale: ScaleName = "auto",
    kernels: Literal["auto", "energy"] = "auto",
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
        y: Points of shape (m, d), m ≥ 2. If one sample has more than 4 times as many points as the other, only a random part
            of it is permuted, but all points enter the statistic.
        slices: Number P of random directions of the energy distance and the sketches, preferably a multiple of d (see `sliced_mmd2`).
        permutations: Number B; the smallest p-value is 1 / (B + 1). All splits are tried if there are fewer than B + 2. A
            notice is given if the p-value cannot be as small as 0.05.
        directions: See `SliceSketch`.
        seed: Seed of directions, blocks and permutations, an integer.
        scale: "columns" divides every column by its robust spread in the pooled points, see `SliceSketch`, which keeps the
            p-value exact; "none" keeps raw units. "auto" is "columns" for tables and frames with named columns.
        kernels: "auto", or "energy" for the energy distance only.
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
    if kernels not in ("auto", "energy"):
        raise InputError(f"`kernels` must be 'auto' or 'energy', got {kernels!r}")
    one, two = stream(x), stream(y)
    one, two = common_columns(one, two) if common else (one, two.align_columns(one.names, one.name, one.skipped))
    if one.d != two.d:
        raise InputError(f"`y` must have points of dimension d = {one.d}, as x has, got d = {two.d}")
    permutations = validate.positive_int("permutations", permutations)
    rng, spreads = permutation_rng(seed), choose_spreads(scale, [one, two])
    settings = SliceSettings(one.d, slices, directions, int(rng.integers(0, 2**63)), one.names or two.names, spreads)
    return _test_points(one, two, settings, permutations, rng, progress, aggregated=kernels == "auto")


def _test_points(
    one: Stream,
    two: Stream,
    settings: SliceSettings,
    permutations: int,
    rng: Generator,
    progress: ProgressCallback | None,
    *,
    aggregated: bool,
) -> TwoSampleTest:
    """Test two clouds with equal columns; the energy distance is computed from all pairs of points or on slices."""
    n, m = _check_count("x", one), _check_count("y", two)
    # Bins and widths are chosen by pooled points: chosen by x alone, they would distinguish its points from those of y.
    rows = np.random.default_rng(0).integers(0, n + m, _PLACING[aggregated])
    parts = ((one, rows[rows < n]), (two, rows[rows >= n] - n))
    drawn = np.concatenate([cloud.rows(chosen) for cloud, chosen in parts if len(chosen)])
    some = settings.rescale(torch.from_numpy(drawn))
    batches = with_progress(one, progress, "x"), with_progress(two, progress, "y")
    features: list[FeatureBlocks] = []
    if aggregated and (octaves := fit_octaves(some.double().numpy(), n + m, rng)):
        features = [FeatureBlocks(octaves, settings, count, block_size(n, m), rng) for count in (n, m)]
        batches = features[0].add(batches[0]), features[1].add(batches[1])
    some = some[:: len(some) // _PLACING[False]]
    if are_few(n + m, one.d):
        x, y = (torch.from_numpy(np.concatenate([batch.cpu().numpy() for batch in cloud])) for cloud in batches)
        return _test_exactly(_Points(x, y, some, settings), permutations, rng, features)
    blocks = deal_blocks((batches[0], n), (batches[1], m), Plan.fit(some, settings), _MOST_TIMES, rng)
    return _test_blocks(*blocks, permutations, rng, features)


@isolated_numerics
def drift_test(
    x: PointSource,
    reference: SliceSketch,
    *,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    progress: ProgressCallback | None = None,
) -> TwoSampleTest:
    """Test whether points come from the distribution of a reference, of which only a sketch is left.

    Blocks of x are permuted with blocks of the sketch's `reservoir`. All points of x and of the reference enter the statistic.
    If x has fewer points than the reservoir, the power is that of a test against all points of the reference. In raw units the
    p-value is exact, as in `two_sample_test`. With scaled columns it is exact if the reservoir holds all points of the
    reference, because spreads are then computed from the pooled points; otherwise it is exact up to the sampling error of the
    reference's spreads, which is small for thousands of points.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators.
        reference: A sketch of points without weights with at least two points in its reservoir.
        permutations, seed, progress: See `two_sample_test`.
        scale: "auto" or the scale of the reference, which is used.

    Raises:
        InputError, InputTypeError, DatasetError: As `two_sample_test`; a sketch that is empty, has weights or no reservoir.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> reference = SliceSketch.from_points(torch.randn(5000, 2, generator=g), slices=64)
        >>> same, other = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 0.5
        >>> drift_test(same, reference).pvalue > 0.05, drift_test(other, reference).pvalue
        (True, 0.001)
    """
    if not isinstance(reference, SliceSketch):
        raise InputTypeError(f"`reference` must be a SliceSketch, got {type(reference).__name__}")
    if reference.n < 2 or reference.weighted:
        raise InputError("`reference` must be a sketch of two or more points without weights")
    cloud = stream(x).align_columns(reference.names, "the reference")
    if cloud.d != reference.d:
        raise InputError(f"`x` must have points of dimension d = {reference.d}, as the reference has, got d = {cloud.d}")
    permutations = validate.positive_int("permutations", permutations)
    reference.plan.settings.check_scale(scale, "reference has")
    points = reference.reservoir
    if points is None or len(points) < 2:
        raise InputError(
            "`reference` must be a sketch with at least two points in its reservoir, got one made with reservoir_size=0 or 1, "
            "by an earlier version, or merged with such a sketch; its distances are right, but a test needs a new sketch"
        )
    n = _check_count("x", cloud)
    # In one dtype: equal points must be in equal bins, whichever sample they are from.
    dtype = torch.promote_types(reference.plan.settings.rescale(cloud.first).dtype, reference.plan.grids[0].shift.dtype)
    points = points.to(dtype) if torch.equal(points.to(dtype).double(), points) else points
    sample, rng = stream(points), permutation_rng(seed)
    plan = replace(reference.plan, grids=tuple(grid.to_dtype(points.dtype) for grid in reference.plan.grids))
    clouds = (with_progress(cloud, progress, "x"), n), (sample, len(points))
    blocks_x, blocks_y = deal_blocks(*clouds, plan, _MOST_TIMES_DRIFT, rng)
    pooled = None
    if reference.scale == "columns" and len(points) == reference.n:
        # Spreads of the reference alone would distinguish its points from those of x.
        pooled_rng, spreads = permutation_rng(seed), choose_spreads("columns", [cloud, sample])
        seed = int(pooled_rng.integers(0, 2**63))
        settings = SliceSettings(cloud.d, reference.slices, reference.directions, seed, None, spreads)
        pooled = _test_points(cloud, sample, settings, permutations, pooled_rng, None, aggregated=False)
    return _test_blocks(blocks_x, replace(blocks_y, sketch=reference), permutations, rng, [], pooled)


def _check_count(name: str, cloud: Stream) -> int:
    if cloud.count() < 2:
        raise InputError(f"`{name}` must have at least two points, got one")
    return cloud.count()


def _test_exactly(points: _Points, permutations: int, rng: Generator, features: list[FeatureBlocks]) -> TwoSampleTest:
    n, settings = len(points.x), points.settings
    distances, unit = scaled_distances(np.concatenate([settings.rescale(part).numpy() for part in (points.x, points.y)]))
    gram = Gram.from_distances(distances, n)
    within = [part.sum() / (len(part) * (len(part) - 1)) for part in (distances[:n, :n], distances[n:, n:])]
    statistic = float(2 * distances[:n, n:].mean() - sum(within)) / unit
    interval = gram.confidence_interval(statistic, float(gram.squares(gram.weights[None])[0]) / unit, unit)
    pvalue, tried, kernels, *counts = _permute(gram, 1, features, permutations, rng)
    return TwoSampleTest(pvalue, statistic, interval, tried, *counts, "exact", settings.scale, points, kernels)


def _test_blocks(
    x: Blocks,
    y: Blocks,
    permutations: int,
    rng: Generator,
    features: list[FeatureBlocks],
    pooled: TwoSampleTest | None = None,
) -> TwoSampleTest:
    """Test blocks; the p-value is that of `pooled` if it is given."""
    gram = block_gram(x, y)
    statistic = y.sketch.distance(x.sketch, statistic="U")
    interval = gram.confidence_interval(statistic, y.sketch.distance(x.sketch))
    sketches = x.sketch, y.sketch
    if pooled is not None:
        return replace(pooled, statistic=statistic, confidence_interval=interval, method="sliced", _samples=sketches)
    pvalue, tried, kernels, *counts = _permute(gram, x.size, features, permutations, rng)
    return TwoSampleTest(pvalue, statistic, interval, tried, *counts, "sliced", x.sketch.scale, sketches, kernels)


def _permute(
    gram: Gram, size: int, features: list[FeatureBlocks], permutations: int, rng: Generator
) -> tuple[float, int, tuple[Kernel, ...], tuple[int, int], tuple[int, int]]:
    """Return the p-value, the number of permutations, the kernels, and the numbers of blocks and of points in them."""
    if features:
        found, (x, y) = test_features(*features, permutations, rng), features
        return *found, (x.K, y.K), (x.K * x.size, y.K * y.size)
    return *gram.permutation_test(permutations, rng), (), (gram.K, gram.L), (gram.K * size, gram.L * size)
