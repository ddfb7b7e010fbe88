"""`two_sample_test` and `drift_test`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, KernelsName, PointSource, ProgressCallback, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.streams import choose_spreads, common_columns
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts, with_progress
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.multiscale import (
    FeatureBlocks,
    Kernel,
    MultiscaleResult,
    Witness,
    block_size,
    energy_gram,
    test_features,
)
from rieszflow.two_sample.octaves import fit_octaves
from rieszflow.two_sample.permutations import Gram, are_few, permutation_rng, scaled_distances

_PLACING, _PLACING_BINS = 2048, 256  # random points by which widths of kernels are chosen, and bins
_PLACING_NUMBERS = 1 << 15  # in the former


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
        kernels: The kernels of an aggregated test, of which the first one decided, and the others follow in the order of their
            adjusted p-values; empty for a test with the energy distance only.
        statistic: Unbiased estimate of the energy distance (MMD²) of all points, which may be negative; on slices if `method`
            is "sliced". With scaled columns it has no unit.
        confidence_interval: Approximate 95 % confidence interval, from the standard errors of points (Hoeffding's two terms)
            and slices. It is too narrow if values that matter are too rare to occur among the points.
        permutations: Number of permutations tried, or of all splits of the points if there are fewer than B + 2.
        blocks, tested: Numbers of blocks of x and y that are permuted, which are single points if there are few, and of points
            in these blocks.
        method: "exact" if the statistic is computed from the distances of all pairs of points, "sliced" if on slices.
        scale: "columns" if every column was divided by its spread, "none" for raw units.
        x, y: Sketches of all points of x and y. If `method` is "exact", they are made on first access.
        drawn: Some random points of both samples, up to (2048, d), in their units.
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
    drawn: np.ndarray = field(repr=False, compare=False)
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
        rescale = self.x.plan.settings.rescale_array
        found = [self.kernels[0].witness(rescale(batch.cpu().numpy())) for batch in cloud]
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
    kernels: KernelsName = "auto",
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
        slices: Number P of random directions of the statistic and the sketches, preferably a multiple of d (see
            `sliced_mmd2`).
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
    validate.choice("kernels", kernels, ("auto", "energy"))
    one, two = stream(x), stream(y)
    one, two = common_columns(one, two) if common else (one, two.align_columns(one.names, one.name, one.skipped))
    if one.d != two.d:
        raise InputError(f"`y` must have points of dimension d = {one.d}, as x has, got d = {two.d}")
    permutations = validate.positive_int("permutations", permutations)
    rng, spreads = permutation_rng(seed), choose_spreads(scale, [one, two])
    settings = SliceSettings(one.d, slices, directions, int(rng.integers(0, 2**63)), one.names or two.names, spreads)
    return _test((one, two), settings, permutations, rng, progress, kernels)


def _test(
    clouds: tuple[Stream, Stream],
    settings: SliceSettings,
    permutations: int,
    rng: Generator,
    progress: ProgressCallback | None,
    kernels: KernelsName,
    reference: SliceSketch | None = None,
) -> TwoSampleTest:
    """Test two clouds with equal columns, of which the second may be a sample of a reference."""
    counts = _check_count("x", clouds[0]), _check_count("y", clouds[1])
    # Bins and widths are chosen by pooled points: chosen by x alone, they would distinguish its points from those of y.
    placing = max(_PLACING_BINS, min(_PLACING, _PLACING_NUMBERS // clouds[0].d))
    rows = np.random.default_rng(0).integers(0, sum(counts), placing)
    parts = (rows[rows < counts[0]], rows[rows >= counts[0]] - counts[0])
    drawn = np.concatenate([cloud.rows(chosen) for cloud, chosen in zip(clouds, parts, strict=True) if len(chosen)])
    octaves = fit_octaves(settings.rescale_array(drawn), sum(counts), rng)
    blocks = [FeatureBlocks(octaves, settings, n, block_size(*counts), rng) for n in counts]
    few = reference is None and are_few(sum(counts), clouds[0].d)
    some = settings.rescale(torch.from_numpy(drawn[:: placing // _PLACING_BINS]))
    sketched, points = [], ([], [])
    if not few:
        plan = Plan.fit(some, settings) if reference is None else reference.plan
        sketched = [Counts(plan, None) for _ in (clouds if reference is None else clouds[:1])]
    for k, cloud in enumerate(clouds):
        for batch in blocks[k].add(with_progress(cloud, progress, "xy"[k])):
            if few:
                points[k].append(batch.cpu().numpy())
            elif k < len(sketched):
                sketched[k].update(batch)
    samples: _Points | tuple[SliceSketch, SliceSketch]
    if few:
        samples = _Points(np.concatenate(points[0]), np.concatenate(points[1]), some, settings)
        gram, statistic, interval = _from_distances(samples)
    else:
        samples = SliceSketch.from_counts(sketched[0]), reference or SliceSketch.from_counts(sketched[1])
        each = samples[1].slice_distances(samples[0])
        gram = energy_gram(blocks[0], blocks[1], samples[1].n, float(each.std(correction=0) / math.sqrt(max(len(each) - 1, 1))))
        statistic = samples[1].distance(samples[0], statistic="U")
        interval = gram.confidence_interval(statistic, each.mean().item())
    if kernels == "energy":
        pvalue, tried = gram.permutation_test(permutations, rng)
        found, size = MultiscaleResult(pvalue, tried, ()), 1 if few else blocks[0].size
    else:
        found, size = test_features(blocks[0], blocks[1], permutations, rng), blocks[0].size
    K, L = (gram.K, gram.L) if kernels == "energy" else (blocks[0].K, blocks[1].K)
    return TwoSampleTest(
        found.pvalue, statistic, interval, found.permutations, (K, L), (K * size, L * size), "exact" if few else "sliced",
        settings.scale, samples, drawn, found.kernels,
    )  # fmt: skip


@isolated_numerics
def drift_test(
    x: PointSource,
    reference: SliceSketch,
    *,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    kernels: KernelsName = "auto",
    progress: ProgressCallback | None = None,
) -> TwoSampleTest:
    """Test whether points come from the distribution of a reference, of which only a sketch is left.

    The points are compared with those in the sketch's `reservoir`, as in `two_sample_test`, and the power is that of a test
    against so many points. The statistic and its interval compare them with all points of the reference. In raw units the
    p-value is exact. With scaled columns it is exact if the reservoir holds all points of the reference, because spreads are
    then computed from the pooled points; otherwise it is exact up to the sampling error of the reference's spreads, which is
    small for thousands of points.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators.
        reference: A sketch of points without weights with at least two points in its reservoir.
        permutations, seed, kernels, progress: See `two_sample_test`.
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
    sample, rng, settings = stream(points), permutation_rng(seed), reference.plan.settings
    if len(points) < reference.n:
        return _test((cloud, sample), settings, permutations, rng, progress, kernels, reference)
    # All points of the reference are there. Its spreads alone would distinguish its points from those of x.
    spreads = choose_spreads(reference.scale, [cloud, sample])
    settings = SliceSettings(cloud.d, reference.slices, reference.directions, int(rng.integers(0, 2**63)), reference.names, spreads)
    return _test((cloud, sample), settings, permutations, rng, progress, kernels)


def _check_count(name: str, cloud: Stream) -> int:
    if cloud.count() < 2:
        raise InputError(f"`{name}` must have at least two points, got one")
    return cloud.count()


def _from_distances(points: _Points) -> tuple[Gram, float, tuple[float, float]]:
    """Return the Gram matrix of few points, the statistic, and its confidence interval."""
    n = len(points.x)
    distances, unit = scaled_distances(points.settings.rescale_array(np.concatenate([points.x, points.y])))
    gram = Gram.from_distances(distances, n)
    within = [part.sum() / (len(part) * (len(part) - 1)) for part in (distances[:n, :n], distances[n:, n:])]
    statistic = float(2 * distances[:n, n:].mean() - sum(within)) / unit
    return gram, statistic, gram.confidence_interval(statistic, float(gram.squares(gram.weights[None])[0]) / unit, unit)
