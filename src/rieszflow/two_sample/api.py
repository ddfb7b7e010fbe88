"""`two_sample_test` and `drift_test`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.special
import torch
from numpy.random import Generator
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, PointSource, ProgressCallback, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.streams import check_scale, choose_spreads, common_columns
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import with_progress
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.gram import Blocks, Gram, are_few, block_gram, block_sizes, in_range, pair_distances
from rieszflow.two_sample.permutations import draw_splits, permutation_rng

__all__ = ["TwoSampleTest", "check_scale_of", "drift_test", "two_sample_test"]

_MOST_TIMES = 8  # as many blocks of the larger sample; its other points are not permuted
_MOST_TIMES_DRIFT = 4  # a sketch has 1,024 slices, and so larger histograms than the two-sample test


@dataclass(frozen=True)
class _Points:
    """Both samples, and what is needed to make their sketches: points that the bins are placed by, and the settings."""

    x: Tensor
    y: Tensor
    placed_by: Tensor
    settings: SliceSettings

    @isolated_numerics
    def sketches(self) -> tuple[SliceSketch, SliceSketch]:
        plan = Plan.fit(self.placed_by, self.settings)
        return SliceSketch(plan).update(self.x), SliceSketch(plan).update(self.y)


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of a two-sample test.

    Attributes:
        pvalue: Exact probability of a statistic at least as large if both samples come from one distribution.
        statistic: Unbiased estimate of the energy distance (MMD²) of all points, which may be negative; on slices if `method`
            is "sliced". With scaled columns it has no unit.
        confidence_interval: Approximate 95 % confidence interval of the energy distance, from the standard errors of points
            (Hoeffding's two terms) and slices and Student's quantile for the number of blocks. It is too narrow if values that
            matter are too rare to occur among the points.
        permutations: Number of permutations tried, or of all splits of the points if there are fewer than B + 2.
        blocks: Numbers of blocks of x and y that are permuted; single points if `method` is "exact".
        tested: Numbers of points of x and y in these blocks; the other points are not permuted.
        method: "exact" if computed from the distances of all pairs of points, "sliced" if on slices, with bins and blocks.
        x: Sketch of all points of x. If `method` is "exact", it is made on first access.
        y: Sketch of all points of y.
    """

    pvalue: float
    statistic: float
    confidence_interval: tuple[float, float]
    permutations: int
    blocks: tuple[int, int]
    tested: tuple[int, int]
    method: Literal["exact", "sliced"]
    _samples: _Points | tuple[SliceSketch, SliceSketch] = field(repr=False, compare=False)

    @property
    def x(self) -> SliceSketch:
        return self._sketches[0]

    @property
    def y(self) -> SliceSketch:
        return self._sketches[1]

    @cached_property
    def _sketches(self) -> tuple[SliceSketch, SliceSketch]:
        return self._samples.sketches() if isinstance(self._samples, _Points) else self._samples

    @property
    def scale(self) -> Literal["columns", "none"]:
        """Return "columns" if every column was divided by its spread, "none" for raw units."""
        settings = self._samples.settings if isinstance(self._samples, _Points) else self._samples[0].plan.settings
        return "none" if settings.spreads is None else "columns"


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
    progress: ProgressCallback | None = None,
    common: bool = False,
) -> TwoSampleTest:
    """Test whether two samples come from one distribution, with the energy distance and permutations.

    Up to 2,000 points in all (fewer for d > 2,000) are tested by the distances of all pairs, and single points are permuted.
    More points are tested on slices, and blocks of points are permuted, in time that is linear in the number of points.

    The p-value is exact for independent points of any distribution and any n and m, including ties, constants and heavy tails:
    under the null hypothesis it is at most α with a probability of at most α.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators.
        y: Points of shape (m, d), m ≥ 2. If one sample has more than 8 times as many points as the other, only a random part of
            it is permuted, but all points enter the statistic.
        slices: Number P of random directions of the test and its sketches, preferably a multiple of d (see `sliced_mmd2`).
        permutations: Number B; the smallest p-value is 1 / (B + 1). All splits are tried if there are fewer than B + 2. A
            notice says so if the p-value cannot be as small as 0.05.
        directions: See `SliceSketch`.
        seed: Seed of directions, blocks and permutations, an integer.
        scale: "columns" divides every column by its robust spread in the pooled points (interquartile range, or standard
            deviation if that is 0), which keeps the p-value exact; "none" keeps raw units. "auto" is "columns" for tables and
            frames with named columns; arrays keep raw units, with a notice if spreads differ more than tenfold.
        progress: Called after every batch with a `Progress` that counts the points of "x" or "y".
        common: Compare the columns that both tables have. Otherwise both must have the same columns, in any order.

    Raises:
        InputError, InputTypeError, DatasetError: Points that `rieszflow.stream` refuses, of different dimensions, or fewer
            than two.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g)
        >>> two_sample_test(a, b).pvalue > 0.05, two_sample_test(a, b + 0.5).pvalue
        (True, 0.001)

    References:
        Székely and Rizzo, Testing for Equal Distributions in High Dimension (2004); on blocks: Domingo-Enrich, Dwivedi and
        Mackey, Cheap Permutation Testing (2025).
    """
    one, two = stream(x), stream(y)
    one, two = common_columns(one, two) if common else (one, two.align_columns(one.names, one.name, one.skipped))
    if one.d != two.d:
        raise InputError(f"`y` must have points of dimension d = {one.d}, as x has, got d = {two.d}")
    permutations = validate.positive_int("permutations", permutations)
    rng, spreads = permutation_rng(seed), choose_spreads(scale, [one, two])
    settings = SliceSettings(one.d, slices, directions, _draw_seed(rng), one.names or two.names, spreads)
    return _test_points(one, two, settings, permutations, rng, progress)


def _draw_seed(rng: Generator) -> int:
    return int(rng.integers(0, 2**63))


def _test_points(
    one: Stream, two: Stream, settings: SliceSettings, permutations: int, rng: Generator, progress: ProgressCallback | None
) -> TwoSampleTest:
    """Test two clouds with matched columns."""
    n, m = _count_two("x", one), _count_two("y", two)
    # Bins are placed by the pooled points: bins that know the points of x would tell them from those of y.
    rows = np.random.default_rng(0).integers(0, n + m, 256)
    parts = ((one, rows[rows < n]), (two, rows[rows >= n] - n))
    some = torch.from_numpy(np.concatenate([cloud.rows(chosen) for cloud, chosen in parts if len(chosen)]))
    some = settings.rescale(some)
    batches_x, batches_y = with_progress(one, progress, "x"), with_progress(two, progress, "y")
    if are_few(n + m, one.d):
        return _test_exactly(_Points(_gather(batches_x), _gather(batches_y), some, settings), permutations, rng)
    plan = Plan.fit(some, settings)
    size, K, L = block_sizes(n, m, _MOST_TIMES)
    x, y = Blocks.deal(batches_x, n, plan, size, K, rng), Blocks.deal(batches_y, m, plan, size, L, rng)
    return _test_blocks(x, y, permutations, rng)


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
    As long as x has fewer points than the reservoir, the power is that of a test against all points of the reference.

    In raw units the p-value is exact, as that of `two_sample_test`. With scaled columns it is exact if the reservoir holds all
    points of the reference, whose spreads are then computed from the pooled points; otherwise it is exact up to the sampling
    error of the reference's spreads, which is small for thousands of points.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators.
        reference: A sketch of points without weights with at least two points in its reservoir.
        permutations: See `two_sample_test`.
        seed: Seed of blocks and permutations, an integer.
        scale: "auto" uses the scale of the reference; another scale is refused.
        progress: Called after every batch with a `Progress` that counts the points of "x".

    Raises:
        InputError, InputTypeError, DatasetError: Points that `rieszflow.stream` refuses or of another dimension; a sketch that
            is empty, has weights or no reservoir.

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
    check_scale_of(reference, scale, "reference has")
    kept = reference.reservoir
    if kept is None or len(kept) < 2:
        raise InputError(
            "`reference` must be a sketch with at least two points in its reservoir, got one made with reservoir_size=0 or 1, "
            "by an earlier version, or merged with such a sketch; its distances are right, but a test needs a new sketch"
        )
    n = _count_two("x", cloud)
    # In one dtype: equal points must be in equal bins, whichever sample they are from.
    dtype = torch.promote_types(reference.plan.settings.rescale(cloud.first).dtype, reference.plan.dtype)
    kept = kept.to(dtype) if torch.equal(kept.to(dtype).double(), kept) else kept
    sample, rng, plan = stream(kept), permutation_rng(seed), reference.plan.with_dtype(kept.dtype)
    size, K, L = block_sizes(n, len(kept), _MOST_TIMES_DRIFT)
    blocks_x = Blocks.deal(with_progress(cloud, progress, "x"), n, plan, size, K, rng)
    blocks_y = Blocks(reference, Blocks.deal(sample, len(kept), plan, size, L, rng).counts, size)
    pooled = None
    if reference.scale == "columns" and len(kept) == reference.n:
        # Spreads of the reference alone would tell its points from those of x.
        pooled_rng, spreads = permutation_rng(seed), choose_spreads("columns", [cloud, sample])
        settings = SliceSettings(cloud.d, reference.slices, reference.directions, _draw_seed(pooled_rng), None, spreads)
        pooled = _test_points(cloud, sample, settings, permutations, pooled_rng, None)
    return _test_blocks(blocks_x, blocks_y, permutations, rng, pooled)


def _count_two(name: str, cloud: Stream) -> int:
    """Return the number of points of a cloud if there are at least two."""
    if cloud.count() < 2:
        raise InputError(f"`{name}` must have at least two points, got one")
    return cloud.count()


def check_scale_of(sketch: SliceSketch, scale: ScaleName, owner: str) -> None:
    """Raise InputError unless `scale` is "auto" or that of a sketch."""
    check_scale(scale)
    if scale not in ("auto", sketch.scale):
        raise InputError(f"`scale` must be 'auto' or {sketch.scale!r}, which the {owner}, got {scale!r}")


def _gather(batches: Iterable[Tensor]) -> Tensor:
    return torch.from_numpy(np.concatenate([batch.cpu().numpy() for batch in batches]))


def _test_exactly(points: _Points, permutations: int, rng: Generator) -> TwoSampleTest:
    n, m = len(points.x), len(points.y)
    both, unit = in_range(np.concatenate([points.settings.rescale(part).numpy() for part in (points.x, points.y)]))
    distances = pair_distances(both)
    gram = Gram.from_distances(distances, n)
    found = gram.permutation_test(draw_splits(n, m, permutations, rng))
    within = [part.sum() / (len(part) * (len(part) - 1)) for part in (distances[:n, :n], distances[n:, n:])]
    statistic = float(2 * distances[:n, n:].mean() - sum(within)) / unit
    interval = _interval(gram, statistic, float(gram.squares(gram.weights[None])[0]) / unit, unit)
    return TwoSampleTest(found.pvalue, statistic, interval, found.permutations, (n, m), (n, m), "exact", points)


def _test_blocks(x: Blocks, y: Blocks, permutations: int, rng: Generator, pooled: TwoSampleTest | None = None) -> TwoSampleTest:
    """Test blocks; the p-value is that of `pooled` if it is given."""
    gram = block_gram(x, y)
    statistic = y.sketch.distance(x.sketch, statistic="U")
    interval = _interval(gram, statistic, y.sketch.distance(x.sketch))
    if pooled is not None:
        permuted = pooled.pvalue, pooled.permutations, pooled.blocks, pooled.tested
    else:
        found = gram.permutation_test(draw_splits(x.K, y.K, permutations, rng))
        permuted = found.pvalue, found.permutations, (x.K, y.K), (x.tested, y.tested)
    pvalue, tried, blocks, tested = permuted
    return TwoSampleTest(pvalue, statistic, interval, tried, blocks, tested, "sliced", (x.sketch, y.sketch))


def _interval(gram: Gram, statistic: float, biased: float, unit: float = 1.0) -> tuple[float, float]:
    half = float(scipy.special.stdtrit(min(gram.K, gram.L) - 1, 0.975)) * gram.standard_error() / unit
    # If nothing varies, the interval must still include the V-statistic, which differs by the bias only.
    return statistic - half, max(statistic + half, biased)
