"""`SliceSketch`: a summary of a point cloud."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra import ranks, validate
from rieszflow._infra.messages import notice
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, DirectionsName, Points, PointSource, PointsT, ProgressCallback, ScaleName, Statistic
from rieszflow.data import stream
from rieszflow.data.encoding import open_clouds
from rieszflow.data.streams import choose_spreads
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch.counts import Counts, point_weights, read, with_progress, write
from rieszflow.sketch.plan import Plan, SliceSettings, notice_if_coarse

_COUNTS = Workspace()


class SliceSketch:
    r"""A summary of a point cloud: its histogram on every slice, from which energy distances and their gradients follow.

    The size is 1,152 numbers per slice, whatever the number of points. Sketches of parts add up to the sketch of the whole,
    exactly for points without weights. Only sketches with the same slices and bins can be compared or merged: make them with
    `empty`. With the distribution functions F and G of two clouds on P random directions ξ, their distance is

    .. math:: \mathrm{MMD}^2 \approx \frac{2 c_d}{P} \sum_\xi \int (F_\xi - G_\xi)^2 dt,
              \qquad c_d = \frac{\sqrt\pi \, \Gamma((d + 1) / 2)}{\Gamma(d / 2)}.

    A distribution function is wrong by at most the share of points in the bin.

    Args:
        points: Points of shape (m, d) that determine where the bins are, float32 or float64; they are not counted. Points
            outside fall into bins that grow geometrically. Or the `plan` of another sketch, to use its slices and bins.
        slices: Number P of random directions. A sketch is made once and used often, hence more than the 256 of the tests.
        directions: "auto", "orthogonal", "hadamard", "sobol" or "independent", as in `sliced_mmd2`.
        seed: Seed of the directions, an integer.
        names: Names of the d columns, stored with the sketch.
        scale: "columns" divides every column by its robust spread, which the sketch stores: its interquartile range in
            `points`, or its standard deviation if that is 0. "none" keeps raw units. "auto" is "columns" if there are names;
            otherwise it keeps raw units and gives a notice if the spreads differ more than tenfold.
        reservoir_size: Number of random points to keep and save for `drift_test`; 0 if points must not be kept. None for
            2,048, or fewer if they hold more than 2^20 numbers, but at least 64.

    Attributes:
        plan: The slices and their bins.
        d: Dimension of the points.
        slices, directions, seed, names: As passed.
        scale: "columns" if columns are divided by their spreads `plan.settings.spreads`, "none" for raw units.
        n: Number of points counted.
        weight: Sum of their weights; n without weights.
        weighted: True if points were counted with weights.
        reservoir_size: Largest number of random points that are kept.

    Raises:
        InputTypeError, InputError: A wrong type, dtype or shape, NaN or infinity, an unknown name, a number out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> day, night = torch.randn(5000, 3, generator=g), torch.randn(5000, 3, generator=g) + 1
        >>> reference = SliceSketch.from_points(day[:3000])
        >>> reference = reference + reference.empty().update(day[3000:])
        >>> reference.n, round(reference.distance(night, statistic="U"), 2)
        (5000, 1.04)
    """

    @isolated_numerics
    def __init__(
        self,
        points: Points | Plan,
        *,
        slices: int = 1024,
        directions: DirectionsName = "auto",
        seed: int = 0,
        names: list[str] | None = None,
        scale: ScaleName = "auto",
        reservoir_size: int | None = None,
    ) -> None:
        if isinstance(points, Plan):
            if (slices, directions, seed, names, scale) != (1024, "auto", 0, None, "auto"):
                raise InputError("`slices`, `directions`, `seed`, `names` and `scale` must be left out if `points` is a plan")
            plan = points
        else:
            x = validate.points("points", points).detach()
            if x.ndim != 2:
                raise InputError(f"`points` must have shape (m, d), got {tuple(x.shape)}")
            cloud = stream(x)
            cloud.names = names
            settings = SliceSettings(cloud.d, slices, directions, seed, names, choose_spreads(scale, [cloud]))
            plan = Plan.fit(settings.rescale(x), settings)
        self._set(Counts(plan, reservoir_size))

    def _set(self, counts: Counts) -> None:
        self.plan, self._counts, settings = counts.plan, counts, counts.plan.settings
        self.d, self.slices, self.directions, self.seed = settings.d, settings.slices, settings.directions, settings.seed
        self.names = None if settings.names is None else list(settings.names)
        self.scale = settings.scale

    @classmethod
    def from_counts(cls, counts: Counts) -> SliceSketch:
        """Return the sketch of points that have been counted in the bins of a plan."""
        sketch = cls.__new__(cls)
        sketch._set(counts)
        return sketch

    @classmethod
    @isolated_numerics
    def from_points(
        cls,
        x: PointSource,
        *,
        slices: int = 1024,
        directions: DirectionsName = "auto",
        seed: int = 0,
        scale: ScaleName = "auto",
        progress: ProgressCallback | None = None,
        reservoir_size: int | None = None,
    ) -> SliceSketch:
        """Return the sketch of a point cloud, with bins placed by its first batch.

        Args:
            x: Points of shape (n, d): anything that `rieszflow.stream` accepts.
            slices, directions, seed, reservoir_size, progress: See `SliceSketch` and `update`.
            scale: See `SliceSketch`. Spreads are those of all points, or of the first batch if x is an iterator.
        """
        (cloud,), units = open_clouds([x], scale)
        settings = SliceSettings(cloud.d, slices, directions, seed, cloud.names, units.spreads, units.encoding)
        sketch = cls(Plan.fit(settings.rescale(cloud.first), settings), reservoir_size=reservoir_size)
        return sketch.update(cloud, progress=progress)

    def empty(self) -> SliceSketch:
        """Return an empty sketch with the same slices and bins."""
        return SliceSketch(self.plan, reservoir_size=self.reservoir_size)

    @property
    def n(self) -> int:
        return self._counts.n

    @property
    def weight(self) -> float:
        return self._counts.weight

    @property
    def weighted(self) -> bool:
        return self._counts.weighted

    @property
    def counts(self) -> tuple[Tensor, ...]:
        """Return the number of points in every bin, (P, bins) float64 for every grid of `plan.grids`."""
        return tuple(self._counts.counts)

    @property
    def reservoir_size(self) -> int:
        return self._counts.reservoir.size

    @property
    def reservoir(self) -> Tensor | None:
        """Return a uniform random sample (k, d) of the points, float64, k = min(reservoir_size, n).

        None if `reservoir_size` is 0, if points have weights, and for files of versions that did not keep points.
        """
        reservoir = self._counts.reservoir
        return torch.from_numpy(reservoir.rows) if reservoir.size > 0 and reservoir.seen == self.n else None

    @isolated_numerics
    def update(
        self, x: PointSource, *, x_weights: Points | None = None, progress: ProgressCallback | None = None
    ) -> SliceSketch:
        """Count more points.

        Args:
            x: Points of shape (n, d), on the sketch's device: anything that `rieszflow.stream` accepts. Columns of a table are
                matched by name with those that the sketch was made of.
            x_weights: Non-negative weights of shape (n,) and of any sum, for a single tensor or array. None for one each.
            progress: Called after every batch with a `Progress` that counts the points of this call.

        Returns:
            This sketch. If an error is raised, it is left as it was.
        """
        cloud = self.plan.settings.open(x, "the sketch")
        w = None if x_weights is None else point_weights(x_weights, x)
        if self.n and self.weighted != (w is not None):
            raise InputError("`x_weights` must be given for all points of a sketch or for none, got both")
        notice_if_coarse(self.plan.random_grids[0], self.plan.settings.rescale(cloud.first))
        new = Counts(self.plan, self.reservoir_size, w is not None)
        for batch in with_progress(cloud, progress):
            new.update(batch, None if w is None else w[new.n : new.n + len(batch)])
        self._counts.merge(new)
        return self

    def merge(self, other: SliceSketch) -> SliceSketch:
        """Add the points of another sketch, which must have the same slices and bins, to this one, and return this one."""
        if not isinstance(other, SliceSketch):
            raise InputTypeError(f"`other` must be a SliceSketch, got {type(other).__name__}")
        self.plan.check_equal(other.plan)
        if self.n and other.n and self.weighted != other.weighted:
            raise InputError("`other` must have weights if this sketch has weights, and none otherwise")
        if self.n and other.n and not self.weighted and (self.reservoir is None) != (other.reservoir is None):
            which = "this sketch" if self.reservoir is None else "the other sketch"
            notice(f"merge: {which} keeps no sample of its points, so the sum keeps none, and drift_test will refuse it")
        self._counts.merge(other._counts)
        return self

    def __add__(self, other: SliceSketch) -> SliceSketch:
        if not isinstance(other, SliceSketch):
            return NotImplemented
        return self.empty().merge(self).merge(other)

    def reduce(self, group: Group) -> SliceSketch:
        """Merge the sketches of all ranks of a torch.distributed group, on every rank, and return this sketch.

        All ranks need the same bins: make the sketch from the same points everywhere, or broadcast it first.
        """
        self._counts.reduce(ranks.check(group))
        return self

    @isolated_numerics
    def distance(self, other: PointSource, *, statistic: Statistic = "V") -> float:
        """Return the energy distance (MMD²) to another point cloud, as `sliced_mmd2` on the slices of this sketch.

        Args:
            other: A sketch with the same slices and bins, or points: anything that `rieszflow.stream` accepts.
            statistic: "V" (non-negative) or "U" (unbiased).
        """
        return self.slice_distances(other, statistic=statistic).mean().item()

    @isolated_numerics
    def slice_distances(self, other: PointSource, *, statistic: Statistic = "V") -> Tensor:
        """Return the share of every random slice in `distance`, (P,) float64, whose mean is `distance`."""
        sketch = self._as_sketch(other)
        return torch.cat([pair.values() for pair in self._evaluators(sketch, self._is_unbiased(statistic, sketch))])

    @isolated_numerics
    def mean_distance(self, other: SliceSketch) -> float:
        """Return E‖X − Y‖ on the slices, from a sketch with the same slices and bins."""
        return float(torch.cat([pair.mean_distances() for pair in self._evaluators(other, False)]).mean())

    def _evaluators(self, other: SliceSketch, unbiased: bool) -> Iterator[histograms.CdfEvaluator]:
        random = len(self.plan.random_grids)
        for theirs, mine in zip(other._counts.to_histograms()[:random], self._counts.to_histograms()[:random], strict=True):
            yield histograms.CdfEvaluator(theirs, mine, unbiased)

    @isolated_numerics
    def feature_distances(self, other: PointSource) -> Tensor:
        r"""Return the energy coefficient of every column by itself, in [0, 1], which does not depend on units, as float64.

        .. math:: H = \frac{2 E|X - Y| - E|X - X'| - E|Y - Y'|}{2 E|X - Y|}

        is 0 for equal distributions and 1 for two different constants. For a category of a table, numerator and denominator are
        sums over its coordinates. It is available up to d = 4,096.

        References:
            Székely and Rizzo, Energy statistics: A class of statistics based on distances (2013).
        """
        sketch = self._as_sketch(other)
        if not self.plan.settings.has_columns:
            raise InputError(f"points must have at most 4,096 columns for distances by column, got d = {self.d}")
        columns = histograms.CdfEvaluator(sketch._counts.to_histograms()[-1], self._counts.to_histograms()[-1], False)
        distance, spread_x, spread_y = columns.integrals()
        mean = distance + spread_x + spread_y  # E|X − Y|
        if (encoding := self.plan.settings.encoding) is not None:
            sizes = [len(column.coordinates) for column in encoding.columns]
            distance, mean = (torch.stack([part.sum() for part in v.split(sizes)]) for v in (distance, mean))
        return torch.where(mean > 0, distance / mean, 0)

    @isolated_numerics
    def gradient(self, x: PointsT, *, statistic: Statistic = "V", x_weights: PointsT | None = None) -> PointsT:
        """Return the gradient of MMD²(x, sketch) with respect to x, of shape (N, d): a tensor for a tensor, else an array.

        Args:
            x: Points of shape (N, d), float32 or float64, on the sketch's device.
            statistic: "V" (non-negative) or "U" (unbiased).
            x_weights: Non-negative weights of shape (N,) that sum to one; None for 1/N each.
        """
        points = validate.points("x", x).detach()
        if points.shape[1:] != (self.d,):
            raise InputError(f"`x` must have shape (N, {self.d}), got {tuple(points.shape)}")
        a = validate.weights("x_weights", x_weights, points)
        unbiased = validate.statistic(statistic, ("x", points, a)) == "U" and self._is_unbiased("U")
        scaled, total = self.plan.settings.rescale(points), None
        for own in self._counts.to_histograms()[: len(self.plan.random_grids)]:
            grid, wide = own.grid.promote(scaled)
            cloud = Cloud(wide, a)
            other = histograms.Histogram.from_points(grid, cloud, workspace=_COUNTS)
            evaluator = histograms.CdfEvaluator(other, dataclasses.replace(own, grid=grid), unbiased)
            part = evaluator.gradient(cloud, self.slices)
            total = part if total is None else total.add_(part)
        assert total is not None
        gradient = self.plan.settings.rescale(total).to(points.dtype)
        return gradient.numpy() if isinstance(x, np.ndarray) else gradient

    def histogram(self, k: int, column: bool = False, bars: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Return edges (bars + 1,), in the points' unit, and density (bars,) of the equal bins of slice k, or of column k.

        Positions on a slice are relative to the sketch's origin; with scaled columns they have no unit.
        """
        part, row = (len(self.plan.random_grids), k) if column else (0, k)
        while row >= self.plan.grids[part].directions.P:
            row -= self.plan.grids[part].directions.P
            part += 1
        grid, counts = self.plan.grids[part], self.counts[part][row].cpu().numpy()
        inside = counts[histograms.TAIL : histograms.TAIL + grid.B].reshape(bars, -1).sum(1) / max(self.weight, 1e-300)
        low, inverse = float(grid.low[row]), float(grid.inverse[row])
        origin, spreads = float(grid.shift[row]) if column else 0.0, self.plan.settings.spreads
        unit = spreads[row] if column and spreads is not None else 1.0
        edges = (origin + (low + np.arange(bars + 1) * (grid.B / bars) / inverse) / float(grid.scale)) * unit
        return edges, inside / np.diff(edges)

    def rest(self, kept: SliceSketch, columns: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bins of those points that another sketch does not have, see `Counts.rest`."""
        return self._counts.rest(kept._counts, columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sketch to a safetensors file, which appears as a whole or not at all."""
        write(Path(path), self._counts)

    @classmethod
    @isolated_numerics
    def load(cls, path: str | os.PathLike[str]) -> SliceSketch:
        """Read a sketch from a file of `save`; raise FileError if it is missing, damaged, foreign, or of another version."""
        return cls.from_counts(read(Path(path)))

    def __repr__(self) -> str:
        scaled = "" if self.scale == "none" else ", scaled columns"
        return f"SliceSketch({self.n} points, d = {self.d}, {self.slices} slices{scaled})"

    def _as_sketch(self, other: PointSource) -> SliceSketch:
        """Return the sketch of points, or a sketch if it can be compared with this one."""
        if not isinstance(other, SliceSketch):
            return self.empty().update(other)
        self.plan.check_equal(other.plan)
        return other

    def _is_unbiased(self, statistic: Statistic, *others: SliceSketch) -> bool:
        if validate.statistic(statistic) == "U" and min(sketch.n for sketch in (self, *others)) < 2:
            raise InputError('every cloud must have at least two points for statistic="U", got fewer')
        return statistic == "U"
