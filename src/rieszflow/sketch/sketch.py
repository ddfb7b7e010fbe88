"""`SliceSketch`: a summary of a cloud that is made in one pass, adds up, is saved, compared, and gives gradients towards it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra import ranks, validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.notices import notice
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, DirectionsName, Points, Progress, ProgressCallback, ScaleName, Statistic
from rieszflow.data import as_points, stream
from rieszflow.data.scale import choose_spreads, spreads_of_rows
from rieszflow.engines.base import Result
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import files
from rieszflow.sketch.counts import Counts
from rieszflow.sketch.plan import Plan, SliceSettings, notice_if_coarse
from rieszflow.sketch.reservoir import capacity

__all__ = ["SliceSketch"]

_COUNTS = Workspace()


class SliceSketch:
    """How many points of a cloud lie in every bin of every slice: all that the sliced energy distance needs to know of them.

    Its size is 1,152 numbers a slice, whatever the number of points. Sketches of parts add up to the sketch of the whole,
    exactly for points without weights. Only sketches with the same slices and bins can be compared or added up: make them by
    `empty`. On every slice a distribution function is wrong by at most the mass of the bin.

    Args:
        points: some points (m, d), m ≥ 1, that say where the bins should be. They are not counted. Tensor or array, float32 or
            float64. Points outside fall into bins that grow geometrically. Or the `plan` of another sketch, for one that can
            be compared with it; then all but `reservoir_size` is as there.
        slices: random directions P.
        directions: "auto", "orthogonal", "hadamard", "sobol" or "independent", as in `sliced_mmd2`.
        seed: of the directions; a whole number.
        names: of the d columns, to go with the sketch.
        scale: "columns" divides every column by its robust spread: its interquartile range in `points`, or its standard deviation
            if that is 0; constant columns stay as they are. The sketch stores the spreads, and distances have no unit. "none"
            keeps raw units. "auto" is "columns" if there are names; otherwise it keeps raw units and gives a notice if the
            spreads of the columns differ more than tenfold.
        reservoir_size: random points to keep as they came, for `drift_test`. They are saved, too. 0 for none, where points must not be
            kept: then there is no drift test. None for 2,048, or fewer where they were more than 2^20 numbers, but 64.

    Attributes:
        plan: where the slices and bins are.
        n: points counted.
        weight: the sum of their weights; n without weights.

    Raises:
        InputTypeError (a TypeError): a wrong kind or dtype.
        InputError (a ValueError): a wrong shape, NaN or infinity, an unknown name, a number out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> day, night = torch.randn(5000, 3, generator=g), torch.randn(5000, 3, generator=g) + 1
        >>> reference = SliceSketch.from_points(day[:3000])
        >>> reference = reference + reference.empty().update(day[3000:])
        >>> reference.n, round(reference.distance(night, statistic="U"), 2)
        (5000, 0.52)
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
                raise InputError(
                    "with a plan as `points`, `slices`, `directions`, `seed`, `names` and `scale` must be left out"
                )
            self.plan = points
        else:
            rows = validate.points("points", points).detach()
            if rows.ndim != 2:
                raise InputError(f"points: shape {tuple(rows.shape)} given; (m, d) is accepted")
            spreads = spreads_of_rows(scale, rows, names is not None, False)
            drawn = SliceSettings(rows.shape[1], slices, directions, seed, names, spreads)
            self.plan = Plan.fit(drawn.divide(rows), drawn)
        self._counts = Counts(self.plan, capacity(reservoir_size, self.d))

    @classmethod
    def counted(cls, plan: Plan, counts: Counts) -> SliceSketch:
        """A sketch of what has been counted in the bins of a plan."""
        sketch = cls(plan, reservoir_size=counts.reservoir.size)
        sketch._counts = counts
        return sketch

    @classmethod
    def from_points(
        cls,
        x: Any,
        *,
        slices: int = 1024,
        directions: DirectionsName = "auto",
        seed: int = 0,
        scale: ScaleName = "auto",
        progress: ProgressCallback | None = None,
        reservoir_size: int | None = None,
    ) -> SliceSketch:
        """Return the sketch of a cloud, its bins where the first batch lies.

        Args:
            x: all that `rieszflow.stream` takes.
            slices: as above.
            directions: as above.
            seed: as above.
            scale: as above, with spreads from all points of x, or from the first batch if x is an iterator.
            progress: as in `update`.
            reservoir_size: as above.
        """
        points = stream(x)
        drawn = SliceSettings(points.d, slices, directions, seed, points.names, choose_spreads(scale, [points]))
        return cls(Plan.fit(drawn.divide(points.first), drawn), reservoir_size=reservoir_size).update(points, progress=progress)

    def empty(self) -> SliceSketch:
        """A sketch of nothing with the same slices and bins, to be filled, compared and added to this one."""
        return SliceSketch(self.plan, reservoir_size=self.reservoir_size)

    # What it is.

    @property
    def n(self) -> int:
        return self._counts.n

    @property
    def weight(self) -> float:
        return self._counts.weight

    @property
    def weighted(self) -> bool:
        """Whether points were counted with weights."""
        return self._counts.weighted

    @property
    def d(self) -> int:
        """Dimension of the points."""
        return self.plan.settings.d

    @property
    def slices(self) -> int:
        """Number of random slices."""
        return self.plan.settings.slices

    @property
    def directions(self) -> DirectionsName:
        """The kind of the random directions."""
        return self.plan.settings.directions

    @property
    def seed(self) -> int:
        """Of the random directions."""
        return self.plan.settings.seed

    @property
    def names(self) -> list[str] | None:
        """Of the columns."""
        return None if self.plan.settings.names is None else list(self.plan.settings.names)

    @property
    def scale(self) -> Literal["columns", "none"]:
        """Return "columns" if columns are divided by their spreads `plan.settings.spreads`, "none" for raw units."""
        return "none" if self.plan.settings.spreads is None else "columns"

    @property
    def columns(self) -> bool:
        """Whether columns are counted by themselves: up to d = 4,096."""
        return self.plan.settings.columns

    @property
    def counts(self) -> tuple[Tensor, ...]:
        """Points in every bin, (P, bins) float64 for every grid of `plan.grids`."""
        return tuple(self._counts.masses)

    @property
    def reservoir_size(self) -> int:
        """How many random points are kept at most."""
        return self._counts.reservoir.size

    @property
    def reservoir(self) -> Tensor | None:
        """Random points of all that were counted, each as likely: (k, d) float64, k = min(reservoir_size, n).

        None where there are none: with reservoir_size = 0 or weights, and from files of versions that kept none.
        """
        reservoir = self._counts.reservoir
        return torch.from_numpy(reservoir.rows) if reservoir.size > 0 and reservoir.seen == self.n else None

    # Counting.

    @isolated_numerics
    def update(self, x: Any, *, x_weights: Any = None, progress: ProgressCallback | None = None) -> SliceSketch:
        """Counts more points.

        Args:
            x: points (n, d) in batches, on the device of the sketch: all that `rieszflow.stream` takes. A table's columns are
                matched by name with those that the sketch was made of.
            x_weights: (n,), non-negative, for a single tensor or array. They need not sum to one. None for one each.
            progress: called after every batch with a `Progress` that counts the points of this call.

        Returns:
            This sketch.

        Raises:
            InputError, InputTypeError, DatasetError: what `stream` refuses, another d, wrong weights. The sketch is then as it
                was before.
        """
        points = stream(x).align_columns(self.names, "the sketch")
        if points.d != self.d:
            raise InputError(f"x: points of dimension {points.d} given, the sketch has d = {self.d}; they must be equal")
        w = None if x_weights is None else _weights(x_weights, x)
        if self.n and self.weighted != (w is not None):
            raise InputError("x_weights: a sketch holds points with weights or points without, not both")
        notice_if_coarse(self.plan.random[0], self.plan.settings.divide(points.first))
        # Counts of its own until the pass has come to its end: an error in the middle leaves the sketch as it was.
        new = Counts(self.plan, self.reservoir_size, w is not None)
        for batch in points:
            new.see(self.plan, batch, None if w is None else w[new.n : new.n + len(batch)])
            if progress is not None:
                progress(Progress("points", new.n, points.n))
        self._counts.add(new)
        return self

    def merge(self, other: SliceSketch) -> SliceSketch:
        """Adds another sketch's points to this one, which is returned.

        Raises:
            InputError: it has other slices or bins, or weights where this one has none.
        """
        self._check_like(other)
        if self.n and other.n and self.weighted != other.weighted:
            raise InputError("other: one sketch is of points with weights and the other is not; they cannot be merged")
        if self.n and other.n and not self.weighted and (self.reservoir is None) != (other.reservoir is None):
            which = "this sketch" if self.reservoir is None else "the other sketch"
            notice(f"merge: {which} keeps no sample of its points, so the sum keeps none, and drift_test will refuse it")
        self._counts.add(other._counts)
        return self

    def __add__(self, other: SliceSketch) -> SliceSketch:
        if not isinstance(other, SliceSketch):
            return NotImplemented
        return self.empty().merge(self).merge(other)

    def reduce(self, group: Group) -> SliceSketch:
        """Adds up the sketches of all ranks of a torch.distributed group, on every one of them; this sketch is returned.

        Every rank needs the same bins: make the sketch from the same rows everywhere, or send it round first.
        """
        self._counts.reduce(ranks.check(group))
        return self

    # Comparing.

    @isolated_numerics
    def distance(self, other: Any, *, statistic: Statistic = "V") -> float:
        """D² between the points of two sketches, as `sliced_mmd2` with these slices gives it (half the energy distance).

        Args:
            other: a sketch with the same slices and bins, or points: all that `rieszflow.stream` takes.
            statistic: "V" (non-negative) or "U" (unbiased).

        Raises:
            InputError: an empty sketch, one with other slices or bins, points of another dimension.
        """
        return sum(each.sum().item() for each in self._distances(other, statistic)) / self.slices

    @isolated_numerics
    def slice_distances(self, other: Any, *, statistic: Statistic = "V") -> Tensor:
        """D² on every random slice, (P,) float64; their mean is `distance`."""
        return torch.cat(self._distances(other, statistic))

    @isolated_numerics
    def feature_distances(self, other: Any) -> Tensor:
        """How much every column differs by itself, (d,) float64 in [0, 1]: D² / E|X − Y|, free of the column's unit.

        0 for equal distributions, 1 for two different constants. Up to d = 4,096. Source: Székely and Rizzo, the energy
        coefficient of inhomogeneity.
        """
        other = self._other(other)
        if not self.columns:
            raise InputError(f"columns of d = {self.d} are not counted by themselves; up to 4,096 are")
        both = histograms.CdfEvaluator(other._tables()[-1], self._tables()[-1], False)
        distance, spread_x, spread_y = both.integrals()
        mean = distance + spread_x + spread_y  # E|X − Y|
        return torch.where(mean > 0, distance / mean, 0)

    @isolated_numerics
    def gradient(self, x: Points, *, statistic: Statistic = "V", x_weights: Points | None = None) -> Any:
        """Gradient of D²(x, sketch) by x, (N, d): tensor for tensor, array for array.

        Args:
            x: points (N, d), float32 or float64, on the sketch's device.
            statistic: "V" or "U".
            x_weights: (N,), non-negative, of sum one; None for 1/N each.
        """
        points = validate.points("x", x).detach()
        if points.shape[1:] != (self.d,):
            raise InputError(f"x: shape {tuple(points.shape)} given; (N, {self.d}) is accepted")
        a = validate.weights("x_weights", x_weights, points)
        unbiased = validate.statistic(statistic, ("x", points, a)) == "U" and self._unbiased("U")
        scaled, total = self.plan.settings.divide(points), Result()
        for mine in self._tables()[: len(self.plan.random)]:
            grid, wide = mine.grid.promote(scaled)
            cloud = Cloud(wide, a)
            theirs = histograms.Histogram.from_points(grid, cloud, workspace=_COUNTS)
            mine = dataclasses.replace(mine, grid=grid)
            total += Result(x=histograms.CdfEvaluator(theirs, mine, unbiased).gradient_x(cloud, self.slices))
        found = total.x
        assert found is not None
        gradient = self.plan.settings.divide(found).to(points.dtype)
        return gradient.numpy() if isinstance(x, np.ndarray) else gradient

    def histogram(self, k: int, column: bool = False, bars: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Edges (bars + 1,) in the points' unit, and density (bars,), of the equal bins of slice k, or of column k.

        On a slice positions are relative to the sketch's origin; with scaled columns they have no unit.
        """
        part, row = (len(self.plan.random), k) if column else (0, k)
        while row >= self.plan.grids[part].directions.P:
            row -= self.plan.grids[part].directions.P
            part += 1
        grid, many = self.plan.grids[part], self.counts[part][row].cpu().numpy()
        inside = many[histograms.TAIL : histograms.TAIL + grid.B].reshape(bars, -1).sum(1) / max(self.weight, 1e-300)
        low, inverse = float(grid.low[row]), float(grid.inverse[row])
        origin = float(grid.shift[row]) if column else 0.0
        spread = self.plan.settings.spreads[row] if column and self.plan.settings.spreads is not None else 1.0
        edges = (origin + (low + np.arange(bars + 1) * (grid.B / bars) / inverse) / grid.scale) * spread
        return edges, inside / np.diff(edges)

    def _other(self, other: Any) -> SliceSketch:
        if not isinstance(other, SliceSketch):
            return self.empty().update(other)
        self._check_like(other)
        return other

    def _check_like(self, other: Any) -> None:
        if not isinstance(other, SliceSketch):
            raise InputTypeError(f"other: {type(other).__name__} given; a SliceSketch is accepted")
        if (difference := self.plan.difference(other.plan)) is not None:
            raise InputError(f"other: {difference}")

    def _tables(self) -> list[histograms.Histogram]:
        if self.n == 0:
            raise InputError("the sketch is empty; count points with `update` first")
        return self._counts.tables(self.plan)

    def _unbiased(self, statistic: Statistic, *others: SliceSketch) -> bool:
        if statistic not in ("V", "U"):
            raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
        if statistic == "U" and min(s.n for s in (self, *others)) < 2:
            raise InputError('statistic: "U" needs at least two points in every cloud')
        return statistic == "U"

    def _distances(self, other: Any, statistic: Statistic) -> list[Tensor]:
        """D² on every random slice, part by part, times the constant of slicing."""
        other = self._other(other)
        unbiased, random = self._unbiased(statistic, other), len(self.plan.random)
        pairs = zip(other._tables()[:random], self._tables()[:random], strict=True)
        return [histograms.CdfEvaluator(theirs, mine, unbiased).values() for theirs, mine in pairs]

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file that appears whole or not at all."""
        files.write(Path(path), self.plan, self._counts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SliceSketch:
        """Reads what `save` wrote.

        Raises:
            FileError (a ValueError): missing, damaged, foreign, or of another version.
        """
        return cls.counted(*files.read(Path(path)))

    def __repr__(self) -> str:
        scaled = "" if self.scale == "none" else ", scaled columns"
        return f"SliceSketch({self.n} points, d = {self.d}, {self.slices} slices{scaled})"


def _weights(x_weights: Any, x: Any) -> Tensor:
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError("x_weights: given with batches; they are accepted with one tensor or array of points")
    given = as_points(x_weights, "x_weights")
    w = torch.from_numpy(given) if isinstance(given, np.ndarray) else given  # not `as_tensor`: a default device is no place
    if w.shape != (len(x),):
        raise InputError(f"x_weights: shape {tuple(w.shape)} given; ({len(x)},) is accepted, one weight per point")
    if not torch.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise InputError("x_weights: must be finite and non-negative, and not all zero")
    return w.detach()
