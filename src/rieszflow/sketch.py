"""The table of bins as an object: a summary of a point cloud that adds up, is saved, compared, and pulls points to itself."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import _ranks, _validate, directions
from rieszflow._files import Format, load_tensors, one_line, save_tensors
from rieszflow._notices import notice
from rieszflow._ranks import Group
from rieszflow._reservoir import Reservoir, capacity
from rieszflow._surroundings import plain
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import as_points
from rieszflow.directions import KINDS, Directions
from rieszflow.engines import bins
from rieszflow.engines._result import Result
from rieszflow.errors import FileError, InputError, InputTypeError
from rieszflow.kernels import Riesz
from rieszflow.stream import stream
from rieszflow.tables import difference

__all__ = ["SKETCH", "SliceSketch"]

SKETCH = Format("sketch", 3)

_PASS = 1 << 22  # points counted in one go: whole numbers of this size are exact in float32
_RANGE = 256  # rows that decide the range
_MOST_AXES = 4096  # columns that are slices of their own; more of them cost more than they tell
_RIESZ = Riesz(1.0)


class Axes(Directions):
    """The coordinate axes as slices."""

    def __init__(self, d: int) -> None:
        self.P, self.n = d, 1

    def _project(self, x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous()

    def adjoint(self, g: Tensor) -> Tensor:
        return g.transpose(-1, -2)

    def split(self, rows: int) -> list[Directions]:
        return [self]

    def single(self) -> Directions:
        return self


def _tensor(v: Any) -> Tensor:
    """Not `as_tensor`, which would take an array to a default device."""
    return torch.from_numpy(v) if isinstance(v, np.ndarray) else v


def met(t: bins.Tables, x: Tensor) -> tuple[bins.Tables, Tensor]:
    """Tables and points in the wider of their two dtypes: an origin far away is subtracted before anything is rounded."""
    dtype = torch.promote_types(t.shift.dtype, x.dtype)
    return dataclasses.replace(t, shift=t.shift.to(dtype)), x.to(dtype)


class SliceSketch:
    """How many points of a cloud lie in every bin of every slice: all that the sliced energy distance needs to know of them.

    Its size is 1,152 numbers a slice whatever the number of points. Sketches of parts add up to the sketch of the whole,
    exactly for points without weights. Only sketches with the same slices and bins can be compared or merged: make them
    by `empty`. On every slice a distribution function is wrong by at most the mass of the bin (engines/bins.py).

    Args:
        rows: some points (m, d), m ≥ 1, that say where the bins should be, and are not counted; tensor or array, float32 or
            float64. Points outside fall into bins that grow geometrically.
        slices: random directions P.
        directions: "auto", "orthogonal", "hadamard", "sobol" or "independent", as in `sliced_mmd2`.
        seed: of the directions.
        names: of the d columns, to go with the sketch.
        sample: random points to keep as they came, for `drift_test`; they are saved, too. 0 for none, where points must not be
            kept: then there is no drift test. None for 2,048, or fewer where they were more than 2^20 numbers, but 64.

    Attributes:
        n: points counted. weight: their weights' sum, n without weights.
        d, slices, directions, seed, names, sample: as given.

    Raises:
        TypeError, ValueError: wrong kind, shape or dtype, NaN or infinity, an unknown name.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> day, night = torch.randn(5000, 3, generator=g), torch.randn(5000, 3, generator=g) + 1
        >>> reference = SliceSketch.of(day[:3000])
        >>> reference = reference + reference.empty().update(day[3000:])
        >>> reference.n, round(reference.distance(night, statistic="U"), 2)
        (5000, 0.52)
    """

    @plain
    def __init__(
        self,
        rows: Any,
        *,
        slices: int = 1024,
        directions: str = "auto",
        seed: int = 0,
        names: list[str] | None = None,
        sample: int | None = None,
    ) -> None:
        rows = _validate.points("rows", rows).detach()
        if rows.ndim != 2:
            raise InputError(f"rows: shape {tuple(rows.shape)} given; (m, d) is accepted")
        chosen = np.random.default_rng(0).permutation(len(rows))[:_RANGE]
        some = rows.cpu().numpy()[chosen]
        self._settle(rows.shape[1], slices, directions, seed, names)
        self.sample = capacity(sample, self.d)
        self._parts = [t for xi in self._directions(rows) for t in bins.empties(xi, some, rows)]
        for t in self._parts:
            bins.settle(t, some)
        self._clear()

    def _settle(self, d: int, slices: Any, kind: Any, seed: Any, names: Any) -> None:
        self.d, self.slices, self.seed = d, _validate.positive_int("slices", slices), _validate.whole_seed(seed)
        if kind not in ("auto", *KINDS):
            accepted = ", ".join(repr(name) for name in ("auto", *KINDS))
            raise InputError(f"directions: {kind!r} given; {accepted} are accepted")
        self.directions = kind
        listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        if names is not None and not (listed and len(names) == d):
            raise InputError(f"names: {len(names)} given for {d} columns; a list of as many strings is accepted")
        if names is not None and len(set(names)) < d:
            raise InputError("names: some are equal; different ones are accepted, for tables are matched by them")
        self.names = None if names is None else list(names)

    @property
    def columns(self) -> bool:
        """Whether columns are counted by themselves: up to d = 4,096."""
        return self.d <= _MOST_AXES

    def _directions(self, like: Tensor) -> list[Directions]:
        """The random slices, and the columns."""
        generator = torch.Generator().manual_seed(self.seed)
        random = directions.sample(self.directions, self.slices, self.d, like.float(), generator)
        return [random, Axes(self.d)] if self.columns else [random]

    def _clear(self) -> None:
        self.n, self.weight, self._squares, self._weighted = 0, 0.0, 0.0, False
        shapes = [(t.xi.P, t.B + 2 * bins.TAIL) for t in self._parts]
        device = self._parts[0].shift.device
        self._counts = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
        self._sums = [torch.zeros(P, 2 * bins.TAIL, dtype=torch.float64, device=device) for P, _ in shapes]
        self._reservoir = Reservoir(self.sample, self.d, self.seed)

    @classmethod
    def of(
        cls,
        x: Any,
        *,
        slices: int = 1024,
        directions: str = "auto",
        seed: int = 0,
        progress: ProgressCallback | None = None,
        sample: int | None = None,
    ) -> SliceSketch:
        """The sketch of all that `rieszflow.stream` takes, its bins where the first batch lies. Args: above, and `update`."""
        points = stream(x)
        empty = cls(points.first, slices=slices, directions=directions, seed=seed, names=points.names, sample=sample)
        return empty.update(points, progress=progress)

    def empty(self) -> SliceSketch:
        """A sketch of nothing with the same slices and bins, to be filled, compared and merged with this one."""
        other = object.__new__(SliceSketch)
        other._settle(self.d, self.slices, self.directions, self.seed, self.names)
        other.sample = self.sample
        other._parts = [dataclasses.replace(t, mass=None, moments=None) for t in self._parts]
        other._clear()
        return other

    @property
    def dtype(self) -> torch.dtype:
        """In which points are centred: that of the rows that the sketch was made from."""
        return self._parts[0].shift.dtype

    def wider(self, dtype: torch.dtype) -> SliceSketch:
        """A sketch of nothing with the same slices and bins, for points of another dtype."""
        other = self.empty()
        other._parts = [dataclasses.replace(t, shift=t.shift.to(dtype)) for t in other._parts]
        return other

    @property
    def kept(self) -> Tensor | None:
        """Random points of all that were counted, each as likely, (k, d) float64, k = min(sample, n).

        None if there are none to be had: with sample = 0 or weights, and from files of versions that kept none.
        """
        known = self._reservoir.size > 0 and self._reservoir.seen == self.n
        return torch.from_numpy(self._reservoir.rows) if known else None

    # Counting.

    @plain
    def update(self, x: Any, *, x_weights: Any = None, progress: ProgressCallback | None = None) -> SliceSketch:
        """Counts more points: all that `rieszflow.stream` takes.

        Args:
            x: points (n, d) in batches, on the device of the sketch. A table's columns are matched by name with those
                that the sketch was made of.
            x_weights: (n,), non-negative, for a single tensor or array; None for one each. They need not sum to one.
            progress: called after every batch with a `Progress` that counts the points of this call.

        Returns:
            This sketch.
        """
        points = stream(x).matched(self.names, "the sketch")
        if points.d != self.d:
            raise InputError(f"x: points of dimension {points.d} given, the sketch has d = {self.d}; they must be equal")
        w = None if x_weights is None else self._checked_weights(x_weights, x)
        if self.n and self._weighted != (w is not None):
            raise InputError("x_weights: a sketch holds points with weights or points without, not both")
        # Its own counts until the pass has come to its end: an error in the middle leaves the sketch as it was.
        fresh = self.empty()
        fresh._weighted = w is not None
        done = 0
        for batch in points:
            for part in batch.split(_PASS):
                fresh._count(part, None if w is None else w[done : done + len(part)])
                done += len(part)
            if progress is not None:
                progress(Progress("points", done, points.n))
        self._add(fresh)
        return self

    def _checked_weights(self, x_weights: Any, x: Any) -> Tensor:
        if not isinstance(x, (Tensor, np.ndarray)):
            raise InputError("x_weights: given with batches; they are accepted with one tensor or array of points")
        w = _tensor(as_points(x_weights, "x_weights"))
        if w.shape != (len(x),):
            raise InputError(f"x_weights: shape {tuple(w.shape)} given; ({len(x)},) is accepted, one weight per point")
        if not torch.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
            raise InputError("x_weights: must be finite and non-negative, and not all zero")
        return w.detach()

    def _count(self, x: Tensor, w: Tensor | None) -> None:
        x = x.detach()
        if w is None:
            self._reservoir.see(x)
        for t, counts, sums in zip(self._parts, self._counts, self._sums, strict=True):
            t, x = met(t, x)
            mass, moments = t.passes.count(t, x, w, True, 1.0, "sketch")
            counts += _tensor(mass)
            sums += _tensor(moments)
        self.n += len(x)
        self.weight += float(len(x) if w is None else w.double().sum())
        self._squares += float(len(x) if w is None else (w.double() ** 2).sum())

    def _add(self, other: SliceSketch) -> None:
        for mine, theirs in zip([*self._counts, *self._sums], [*other._counts, *other._sums], strict=True):
            mine += theirs
        self.n, self.weight = self.n + other.n, self.weight + other.weight
        self._squares, self._weighted = self._squares + other._squares, self._weighted or other._weighted
        self._reservoir.add(other._reservoir)
        self.sample = self._reservoir.size

    def merge(self, other: SliceSketch) -> SliceSketch:
        """Adds another sketch's points to this one, which is returned.

        Raises:
            ValueError: it has other slices or bins, or weights where this one has none.
        """
        self._like("other", other)
        if self.n and other.n and self._weighted != other._weighted:
            raise InputError("other: one sketch is of points with weights and the other is not; they cannot be merged")
        self._say_if_unsampled(other)
        self._add(other)
        return self

    def _say_if_unsampled(self, other: SliceSketch) -> None:
        if self.n and other.n and not self._weighted and (self.kept is None) != (other.kept is None):
            which = "this sketch" if self.kept is None else "the other sketch"
            notice(f"merge: {which} keeps no sample of its points, so the sum keeps none, and drift_test will refuse it")

    def __add__(self, other: SliceSketch) -> SliceSketch:
        if not isinstance(other, SliceSketch):
            return NotImplemented
        return self.empty().merge(self).merge(other)

    def reduce(self, group: Group) -> SliceSketch:
        """Adds up the sketches of all ranks of a torch.distributed group, on every one of them; this sketch is returned.

        Every rank needs the same bins: make the sketch from the same rows everywhere, or send it round first.
        """
        group = _ranks.check(group)
        for table in (*self._counts, *self._sums):
            _ranks.summed(table, group)
        numbers = _ranks.summed(np.array([self.n, self.weight, self._squares], np.float64), group)
        self.n, self.weight, self._squares = int(numbers[0]), float(numbers[1]), float(numbers[2])
        self._reservoir.reduce(group)
        return self

    def _like(self, name: str, other: Any) -> None:
        if not isinstance(other, SliceSketch):
            raise InputTypeError(f"{name}: {type(other).__name__} given; a SliceSketch is accepted")
        for what in ("d", "slices", "directions", "seed"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise InputError(f"{name}: a sketch with {what} = {theirs!r} given, this one has {mine!r}; they must be equal")
        if self.names is not None and other.names is not None and self.names != other.names:
            how = "the same columns in another order"
            if set(self.names) != set(other.names):
                how = "other columns: it " + difference(other.names, self.names, "this one has")
            raise InputError(f"{name}: a sketch of {how}; make sketches that are to be compared by `empty()`")
        for a, b in zip(self._parts, other._parts, strict=True):
            one, two = a.span(), b.span()
            if any(not torch.equal(one[key].cpu().double(), two[key].cpu().double()) for key in one if key != "outside"):
                raise InputError(f"{name}: its bins lie elsewhere; make sketches that are to be compared by `empty()`")

    # Comparing.

    def _tables(self) -> list[bins.Tables]:
        """As the engine wants them: masses that sum to one."""
        if self.n == 0:
            raise InputError("the sketch is empty; count points with `update` first")
        parts = []
        for t, counts, sums in zip(self._parts, self._counts, self._sums, strict=True):
            normal: list[Any] = [(counts / self.weight).float(), sums / self.weight]
            mass, moments = normal if t.shift.device.type != "cpu" else (v.numpy() for v in normal)
            parts.append(dataclasses.replace(t, mass=mass, moments=moments, self_weight=self._squares / self.weight**2))
        return parts

    def _other(self, other: Any) -> SliceSketch:
        if not isinstance(other, SliceSketch):
            return self.empty().update(other)
        self._like("other", other)
        return other

    @plain
    def distance(self, other: Any, *, statistic: str = "V") -> float:
        """D² between the points of two sketches, as `sliced_mmd2` with these slices gives it (half the energy distance).

        Args:
            other: a sketch with the same slices and bins, or points: all that `rieszflow.stream` takes.
            statistic: "V" (non-negative) or "U" (unbiased).

        Raises:
            ValueError: an empty sketch, one with other slices or bins, points of another dimension.
        """
        other = self._other(other)
        unbiased = self._unbiased(statistic, other)
        return sum(each.sum().item() for each in self._distances(other, unbiased)[: self._random]) / self.slices

    @property
    def _random(self) -> int:
        """Parts of the tables that belong to random slices."""
        return len(self._parts) - self.columns

    def _unbiased(self, statistic: Any, *others: SliceSketch) -> bool:
        if statistic not in ("V", "U"):
            raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
        if statistic == "U" and min(s.n for s in (self, *others)) < 2:
            raise InputError('statistic: "U" needs at least two points in every cloud')
        return statistic == "U"

    def _distances(self, other: SliceSketch, unbiased: bool) -> list[Tensor]:
        """D² on every slice of every part, times the constant of slicing."""
        found = []
        for t, s in zip(self._tables(), other._tables(), strict=True):
            alpha, beta = (1 / (1 - v.self_weight) if unbiased else 1.0 for v in (s, t))
            found.append(bins.Cumulated(t, _RIESZ, s.mass, s.moments, s.self_weight).values(alpha, beta))
        return found

    @plain
    def slice_distances(self, other: Any, *, statistic: str = "V") -> Tensor:
        """D² on every random slice, (P,) float64; their mean is `distance`."""
        other = self._other(other)
        return torch.cat(self._distances(other, self._unbiased(statistic, other))[: self._random])

    @plain
    def feature_distances(self, other: Any) -> Tensor:
        """How much every column differs by itself, (d,) float64 in [0, 1]: D² / E|X − Y|, free of the column's unit.

        0 for equal distributions, 1 for two different constants. Source: Székely and Rizzo, the energy coefficient of
        inhomogeneity. Up to d = 4,096.
        """
        other = self._other(other)
        if not self.columns:
            raise InputError(f"columns of d = {self.d} are not counted by themselves; up to {_MOST_AXES} are")
        t, s = self._tables()[-1], other._tables()[-1]
        distance, spread_x, spread_y = bins.Cumulated(t, _RIESZ, s.mass, s.moments, s.self_weight).integrals()
        mean = distance + spread_x + spread_y  # E|X − Y|
        return torch.where(mean > 0, distance / mean, 0)

    @plain
    def gradient(self, x: Any, *, statistic: str = "V", x_weights: Any = None) -> Any:
        """Gradient of D²(x, sketch) by x, (N, d): tensor for tensor, array for array.

        Args:
            x: points (N, d), float32 or float64, on the sketch's device. statistic: "V" or "U". x_weights: of x, (N,),
                which sum to one; None for 1/N.
        """
        numpy = isinstance(x, np.ndarray)
        x = _validate.points("x", x).detach()
        if x.shape[1:] != (self.d,):
            raise InputError(f"x: shape {tuple(x.shape)} given; (N, {self.d}) is accepted")
        a = _validate.weights("x_weights", x_weights, x)
        unbiased = _validate.statistic(statistic, ("x", x, a)) == "U" and self._unbiased("U")
        result, need = Result(), (False, True, False, False, False)
        for t in self._tables()[: self._random]:
            t, wide = met(t, x)
            result += bins.against(t, wide, None, a, None, _RIESZ, unbiased, need, self.slices)
        assert result.x is not None
        gradient = result.x.to(x.dtype)
        return gradient.numpy() if numpy else gradient

    def histogram(self, k: int, column: bool = False, bars: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Edges (bars + 1,) in the points' unit, and density (bars,), of the equal bins of slice k, or of column k.

        On a slice positions are relative to the sketch's origin.
        """
        part, row = (self._random, k) if column else (0, k)
        while row >= self._parts[part].xi.P:
            row -= self._parts[part].xi.P
            part += 1
        t, many = self._parts[part], self._counts[part][row].cpu().numpy()
        inside = many[bins.TAIL : bins.TAIL + t.B].reshape(bars, -1).sum(1) / max(self.weight, 1e-300)
        low, inverse = float(t.low[row]), float(t.inverse[row])
        origin = float(t.shift[row]) if column else 0.0
        edges = origin + (low + np.arange(bars + 1) * (t.B / bars) / inverse) / t.scale
        return edges, inside / np.diff(edges)

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file that appears whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for k, (t, counts, sums) in enumerate(zip(self._parts, self._counts, self._sums, strict=True)):
            small = not self._weighted and self.weight < 2**31
            tensors |= {f"{k}.counts": counts.int() if small else counts, f"{k}.sums": sums}
            tensors |= {f"{k}.{name}": v for name, v in t.span().items()}
        meta = {
            "d": self.d, "slices": self.slices, "directions": self.directions, "seed": self.seed, "names": self.names,
            "n": self.n, "weight": self.weight, "squares": self._squares, "weighted": self._weighted,
        }  # fmt: skip
        tensors, meta = tensors | self._reservoir.tensors(), meta | {"sample": self.sample, "seen": self._reservoir.seen}
        save_tensors(Path(path), SKETCH, tensors, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SliceSketch:
        """Reads what `save` wrote. Raises ValueError for a damaged or foreign file, or one of another version."""
        tensors, meta = load_tensors(Path(path), SKETCH)
        sketch = object.__new__(cls)
        try:
            sketch._settle(meta["d"], meta["slices"], meta["directions"], meta["seed"], meta["names"])
            rows = sum(len(t) for name, t in tensors.items() if name.endswith(".counts"))
            if rows != sketch.slices + sketch.d * sketch.columns:  # before as many directions are drawn
                raise InputError(f"tables of {rows} slices, {sketch.slices} and {sketch.d} columns are named")
            xi = [part for kind in sketch._directions(tensors["0.shift"]) for part in bins.parts(kind)]
            sketch._parts = []
            for k, part in enumerate(xi):
                span = {name: tensors[f"{k}.{name}"] for name in bins.SPAN}
                sketch._parts.append(bins.known(part, tensors["0.shift"], span))
            sketch.sample = capacity(meta.get("sample"), sketch.d)
            sketch._clear()
            if "seen" in meta:  # else of a version that kept no points
                sketch._reservoir.fill(tensors, meta["seen"])
            sketch.n, sketch.weight, sketch._squares = meta["n"], meta["weight"], meta["squares"]
            sketch._weighted = meta["weighted"]
            sums = (sketch.n, sketch.weight, sketch._squares)
            if type(sketch.n) is not int or type(sketch._weighted) is not bool or not all(0 <= v < math.inf for v in sums):
                raise InputError(f"{sketch.n!r} points of weight {sketch.weight!r}")
            for k in range(len(xi)):
                for mine, name in ((sketch._counts[k], "counts"), (sketch._sums[k], "sums")):
                    theirs = tensors[f"{k}.{name}"]
                    if theirs.shape != mine.shape or not theirs.isfinite().all():
                        raise InputError(
                            f"{name} of shape {tuple(theirs.shape)}, finite ones of {tuple(mine.shape)} are needed"
                        )
                    mine += theirs
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise FileError(f"{path}: damaged: its parts do not fit together ({one_line(error)})") from None
        return sketch

    def __repr__(self) -> str:
        return f"SliceSketch({self.n} points, d = {self.d}, {self.slices} slices)"
