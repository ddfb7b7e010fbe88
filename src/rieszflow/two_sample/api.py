"""`two_sample_test` and `drift_test`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.special
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import DirectionsName, Progress, ProgressCallback, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.scale import check_scale, choose_spreads
from rieszflow.data.streams import common_columns
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts
from rieszflow.sketch.plan import SliceSettings
from rieszflow.sketch.reservoir import capacity
from rieszflow.two_sample.blocks import Dealt, deal, sizes
from rieszflow.two_sample.exact import are_few, exact_gram, in_range, pair_distances
from rieszflow.two_sample.gram import Gram, gram_of
from rieszflow.two_sample.permutations import pvalue, source

__all__ = ["TwoSampleTest", "drift_test", "two_sample_test"]

_MOST_TIMES = 8  # as many blocks of the larger sample; what it has more than that keeps its place
_MOST_TIMES_DRIFT = 4  # a sketch has 1,024 slices, and so larger tables than the two-sample test


@dataclass(frozen=True)
class _Points:
    """Both samples, from which sketches are made when needed.

    Attributes:
        x: Points of shape (n, d).
        y: Points of shape (m, d).
        around: The points that determine the bins, divided by their spreads.
        drawn: The slices.
    """

    x: Tensor
    y: Tensor
    around: Tensor
    drawn: SliceSettings

    def sketches(self) -> tuple[SliceSketch, SliceSketch]:
        plan = Plan.fit(self.around, self.drawn)
        x, y = (Counts(plan, capacity(None, self.drawn.d)) for _ in range(2))
        x.see(plan, self.x)
        y.see(plan, self.y)
        return SliceSketch.counted(plan, x), SliceSketch.counted(plan, y)


@dataclass(frozen=True)
class TwoSampleTest:
    """The result of a test.

    Attributes:
        pvalue: probability of a statistic as large if both samples are of one distribution; exact.
        statistic: D² (half the energy distance) of all points, unbiased: it may be below 0. If `method` is "sliced", it is the
            distance on slices. With scaled columns it has no unit.
        confidence_interval: approximate 95 % confidence interval of D²: the standard errors of the points (Hoeffding's two terms, from
            the variance of blocks or single points) and of the slices, times Student's quantile for the number of blocks. It
            is too narrow if values that matter are too rare to occur among the points.
        permutations: B; or the number of all ways to split the points, where that is less than B + 2: then all are tried.
        blocks: blocks of x and of y that are permuted; single points if `method` is "exact".
        tested: points of x and of y in them; the others keep their place.
        method: "exact" if computed from the distances of all pairs of points, "sliced" if on slices, with bins and blocks.
        x: sketch of all points of x, for `feature_distances`, `slice_distances` and more. Made when it is first used if
            `method` is "exact".
        y: sketch of all points of y.
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
        drawn = self._samples.drawn if isinstance(self._samples, _Points) else self._samples[0].plan.settings
        return "none" if drawn.spreads is None else "columns"


@isolated_numerics
def two_sample_test(
    x: Any,
    y: Any,
    *,
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    scale: ScaleName = "auto",
    progress: ProgressCallback | None = None,
    common: bool = False,
) -> TwoSampleTest:
    """Test whether two samples come from one distribution, by the energy distance and permutations.

    For up to 2,000 points in all (fewer for d > 2,000), the distances of all pairs are computed and single points are permuted.
    For more, the distance is that on slices and blocks of points are permuted, in time that is linear in the points.

    The p-value is exact for independent points of any distribution and any n and m: ties, constants and heavy tails included.
    If the null hypothesis holds, it is at most α with a probability of at most α. The interval is approximate.

    Args:
        x: points (n, d), n ≥ 2: all that `rieszflow.stream` takes, but iterators.
        y: points (m, d), m ≥ 2, likewise. Where one has more than 8 times as many as the other, a random part of it is
            permuted; all of it enters the statistic and the distance.
        slices: random directions P of the test and of the sketches. Prefer whole orthogonal blocks (see `sliced_mmd2`).
        permutations: B; the least p-value is 1 / (B + 1). Where the points can be split in less than B + 2 ways, all are tried.
            A notice says so if the p-value cannot be as small as 0.05.
        directions: as in `SliceSketch`.
        seed: of directions, blocks and permutations; a whole number.
        scale: "columns" divides every column by its robust spread in the pooled points (interquartile range, or standard
            deviation if that is 0), which keeps the p-value exact; "none" keeps raw units. "auto" is "columns" for tables and
            frames with named columns; arrays keep raw units, with a notice if spreads differ more than tenfold.
        progress: called after every batch with a `Progress` that counts the points of "x" or "y".
        common: of tables with different columns, compare those that both have. Without it different columns are refused;
            equal ones in another order are matched by name.

    Raises:
        InputError, InputTypeError, DatasetError: what `rieszflow.stream` refuses, different d, fewer than two points.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g)
        >>> two_sample_test(a, b).pvalue > 0.05, two_sample_test(a, b + 0.5).pvalue
        (True, 0.001)
    """
    one, two = stream(x), stream(y)
    one, two = common_columns(one, two) if common else (one, two.align_columns(one.names, one.name, one.skipped))
    if one.d != two.d:
        raise InputError(f"y: points of dimension d = {two.d} given, x has d = {one.d}; they must be equal")
    permutations = validate.positive_int("permutations", permutations)
    spreads = choose_spreads(scale, [one, two])
    return _test_points(one, two, (slices, directions), spreads, permutations, source(seed), progress)


def _test_points(
    one: Stream,
    two: Stream,
    of: tuple[int, DirectionsName],
    spreads: tuple[float, ...] | None,
    permutations: int,
    random: np.random.Generator,
    progress: ProgressCallback | None = None,
) -> TwoSampleTest:
    """Test two clouds with matched columns; `of` is the number of slices and their kind."""
    n, m = _at_least_two("x", one), _at_least_two("y", two)
    drawn = SliceSettings(one.d, *of, int(random.integers(0, 2**63)), one.names or two.names, spreads)
    # Drawn from all points alike: bins that know which points are of x would tell them from those of y.
    rows = np.random.default_rng(0).integers(0, n + m, 256)
    clouds = ((one, rows[rows < n]), (two, rows[rows >= n] - n))
    some = drawn.divide(torch.from_numpy(np.concatenate([cloud.rows(mine) for cloud, mine in clouds if len(mine)])))
    passes = _told(progress, "x", n), _told(progress, "y", m)
    if are_few(n + m, one.d):
        points = _Points(_gathered(one, passes[0]), _gathered(two, passes[1]), some, drawn)
        return _test_exactly(points, permutations, random)
    plan = Plan.fit(some, drawn)
    size, K, L = sizes(n, m, _MOST_TIMES)
    of_x = deal(one, plan, (size, K), random, passes[0])
    of_y = deal(two, plan, (size, L), random, passes[1])
    return _test(of_x, of_y, permutations, random)


@isolated_numerics
def drift_test(
    x: Any,
    reference: SliceSketch,
    *,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    progress: ProgressCallback | None = None,
) -> TwoSampleTest:
    """Tests whether points are of the distribution that a sketch was made of: for drift, where the reference's points are gone.

    Blocks of x are permuted with blocks of the random points that the sketch has kept (`SliceSketch.reservoir`). All points of x and
    of the reference enter the statistic. As long as x has fewer points than were kept, the power is that of a test against all
    points of the reference. For more, it grows with the number kept.

    The p-value is exact, as that of `two_sample_test` is, in raw units and where the sketch has kept all its points: then the
    points of both sides, pooled, give the spreads of the columns that are permuted. Else these are the reference's own spreads,
    which know its points from those of x: for the thousands of points of such a reference the p-value is exact up to the
    sampling error of a spread.

    Args:
        x: points (n, d), n ≥ 2: all that `rieszflow.stream` takes, but iterators.
        reference: a sketch of points without weights that keeps at least two of them.
        permutations: as in `two_sample_test`.
        seed: of blocks and permutations; a whole number.
        scale: "auto" uses the spreads of the reference, if it stores any; a scale other than the reference's is refused.
        progress: as in `two_sample_test`, of x.

    Raises:
        InputError, InputTypeError, DatasetError: what `rieszflow.stream` refuses, another d, an empty or weighted sketch, one
            without points kept.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> reference = SliceSketch.from_points(torch.randn(5000, 2, generator=g), slices=64)
        >>> same, other = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 0.5
        >>> drift_test(same, reference).pvalue > 0.05, drift_test(other, reference).pvalue
        (True, 0.001)
    """
    if not isinstance(reference, SliceSketch):
        raise InputTypeError(f"reference: {type(reference).__name__} given; a SliceSketch is accepted")
    if reference.n < 2 or reference.weighted:
        raise InputError("reference: a sketch of two or more points without weights is needed")
    cloud = stream(x).align_columns(reference.names, "the reference")
    if cloud.d != reference.d:
        raise InputError(f"x: points of dimension d = {cloud.d} given, the reference has d = {reference.d}; they must be equal")
    permutations = validate.positive_int("permutations", permutations)
    check_scale(scale)
    if scale not in ("auto", reference.scale):
        raise InputError(f"`scale` must be 'auto' or {reference.scale!r}, which the reference has, got {scale!r}")
    kept = reference.reservoir
    if kept is None or len(kept) < 2:
        raise InputError(
            "reference: a sketch that keeps a sample of its points is needed for a test; this one was made with reservoir_size=0 or 1, "
            "or by an earlier version, or merged with one that was. Its distances are right; for a test make it again"
        )
    n = _at_least_two("x", cloud)
    size, K, L = sizes(n, len(kept), _MOST_TIMES_DRIFT)
    random = source(seed)
    # In one dtype: equal points must be in equal bins, whichever side they are on.
    dtype = torch.promote_types(reference.plan.settings.divide(cloud.first).dtype, reference.plan.dtype)
    kept = kept.to(dtype) if torch.equal(kept.to(dtype).double(), kept) else kept
    plan = reference.plan.of_dtype(kept.dtype)
    of_x = deal(cloud, plan, (size, K), random, _told(progress, "x", n))
    of_kept = deal(stream(kept), plan, (size, L), random)
    pooled = None
    if reference.scale == "columns" and len(kept) == reference.n:
        # Spreads of the reference alone tell its points from those of x; spreads of all of them do not.
        spreads = choose_spreads("columns", [cloud, stream(kept)])
        pooled = _test_points(
            cloud, stream(kept), (reference.slices, reference.directions), spreads, permutations, source(seed)
        )
    return _test(of_x, Dealt(reference, of_kept.blocks, size), permutations, random, pooled)


def _at_least_two(name: str, cloud: Stream) -> int:
    """Return the number of points of a cloud; raise InputError if it is less than two."""
    if cloud.count() < 2:
        raise InputError(f"{name}: one point given; at least two are needed")
    return cloud.count()


def _gathered(cloud: Stream, told: Callable[[int], object] | None) -> Tensor:
    points = torch.from_numpy(np.concatenate([batch.cpu().numpy() for batch in cloud]))
    if told is not None:
        told(len(points))
    return points


def _told(progress: ProgressCallback | None, what: str, total: int) -> Callable[[int], object] | None:
    return None if progress is None else lambda done: progress(Progress(what, done, total))


def _test_exactly(points: _Points, permutations: int, random: np.random.Generator) -> TwoSampleTest:
    n, m = len(points.x), len(points.y)
    both, unit = in_range(np.concatenate([points.drawn.divide(part).numpy() for part in (points.x, points.y)]))
    distances = pair_distances(both)
    gram = exact_gram(distances, n)
    found = pvalue(
        gram.squares, gram.weights, (n, m), permutations=permutations, scale=2 * float(distances.max()), random=random
    )
    between = distances[:n, n:].mean()
    within = [part.sum() / (len(part) * (len(part) - 1)) for part in (distances[:n, :n], distances[n:, n:])]
    distance = float(2 * between - sum(within)) / unit
    interval = _interval(distance, float(gram.squares(gram.weights[None])[0]) / unit, gram, gram.points_error() / unit)
    return TwoSampleTest(found.value, distance, interval, found.tried, (n, m), (n, m), "exact", points)


def _test(
    x: Dealt, y: Dealt, permutations: int, random: np.random.Generator, pooled: TwoSampleTest | None = None
) -> TwoSampleTest:
    """Test blocks; the p-value is that of `pooled` if it is given."""
    gram = gram_of(x, y)
    distance = y.whole.distance(x.whole, statistic="U")
    error = math.hypot(gram.points_error(), gram.slices_error)
    interval = _interval(distance, y.whole.distance(x.whole), gram, error)
    if pooled is not None:
        permuted = {name: getattr(pooled, name) for name in ("pvalue", "permutations", "blocks", "tested")}
        return TwoSampleTest(
            statistic=distance, confidence_interval=interval, method="sliced", _samples=(x.whole, y.whole), **permuted
        )
    largest = float(gram.matrix.diagonal()[gram.weights != 0].max())
    found = pvalue(gram.squares, gram.weights, (x.K, y.K), permutations=permutations, scale=largest, random=random)
    blocks, tested = (x.K, y.K), (x.tested, y.tested)
    return TwoSampleTest(found.value, distance, interval, found.tried, blocks, tested, "sliced", (x.whole, y.whole))


def _interval(distance: float, biased: float, gram: Gram, error: float) -> tuple[float, float]:
    half = float(scipy.special.stdtrit(min(gram.K, gram.L) - 1, 0.975)) * error
    # If nothing varies, the interval must still include the plain distance, from which only the bias correction differs.
    return distance - half, max(distance + half, biased)
