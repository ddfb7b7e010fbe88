"""The slices and bins of a sketch. Sketches with the same plan can be compared and merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rieszflow import directions, histograms
from rieszflow._infra import validate
from rieszflow._infra.messages import notice
from rieszflow._types import DirectionsName, PointSource, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.encoding import TableEncoding
from rieszflow.data.paths import column_difference
from rieszflow.data.streams import open_table
from rieszflow.directions import KINDS, Directions
from rieszflow.errors import InputError

_SAMPLE = 256  # points that determine the range of the bins
_BYTES = 8 * (histograms.BINS + 2 * histograms.TAIL)  # of the counts of a slice
_MIN_POINTS, _CHECKED_SLICES = 64, 8  # points needed to notice that bins are too wide, and slices that are checked
_CROWDED = 8  # distinct points per bin among 256; usually about one
_MAX_COLUMNS = 4096  # columns that are slices of their own


def notice_if_coarse(grid: histograms.BinGrid, points: Tensor) -> None:
    """Give a notice if points (m, d), divided by their spreads, share bins because the bins were placed by much wider ones."""
    if len(points) < _MIN_POINTS:
        return
    grid, points = grid.promote(points[:_SAMPLE])
    projected = grid.project(points)[:_CHECKED_SLICES].cpu().numpy()
    low, inverse = (v[:_CHECKED_SLICES, None].cpu().numpy() for v in (grid.low, grid.inverse))
    bins = np.floor((projected - low) * inverse)
    inside = (bins >= 0) & (bins < grid.B)
    distinct, filled = (sum(len(np.unique(row[some])) for row, some in zip(v, inside, strict=True)) for v in (projected, bins))
    if inside.mean() > 0.5 and distinct > _CROWDED * filled:
        notice(
            f"bins: {distinct / filled:.0f} distinct points share a bin on average, because the bins were placed by points of "
            "much larger spread, and distances lose precision; place the bins by points like those to be counted"
        )


class AxisDirections(Directions):
    """The coordinate axes as slices: every column by itself."""

    def __init__(self, d: int) -> None:
        self.P, self.n = d, 1

    def _project(self, x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous()

    def adjoint(self, g: Tensor) -> Tensor:
        return g.transpose(-1, -2)

    def split(self, size: int) -> list[Directions]:
        return [self]

    def to_float32(self) -> Directions:
        return self


@dataclass(frozen=True)
class SliceSettings:
    """The settings that determine the slices of a sketch of points of dimension d.

    Columns are divided by their `spreads` before points are counted; None for raw units. Tables are encoded by `encoding`.
    """

    d: int
    slices: int
    directions: DirectionsName
    seed: int
    names: Sequence[str] | None = None
    spreads: tuple[float, ...] | None = None
    encoding: TableEncoding | None = None

    def __post_init__(self) -> None:
        validate.fits_memory("slices", validate.positive_int("slices", self.slices), _BYTES)
        validate.integer_seed(self.seed)
        validate.choice("directions", self.directions, ("auto", *KINDS))
        if self.spreads is not None and not (len(self.spreads) == self.d and all(0 < v < math.inf for v in self.spreads)):
            raise InputError(f"`spreads` must be {self.d} positive finite numbers, got {len(self.spreads)}")
        if self.names is not None:
            if not isinstance(self.names, (list, tuple)) or not all(isinstance(name, str) for name in self.names):
                raise InputError(f"`names` must be a list of strings, got {type(self.names).__name__}")
            if not len(self.names) == len(set(self.names)) == self.d:
                raise InputError(f"`names` must be {self.d} different names, one per column, got {len(set(self.names))}")
            object.__setattr__(self, "names", tuple(self.names))

    def open(self, x: PointSource, whose: str) -> Stream:
        """Return points in the columns of these settings, which belong to `whose` in messages."""
        table = None if self.encoding is None else open_table(x)
        if table is not None and self.encoding is not None:
            return self.encoding.stream(table)
        cloud = stream(x).align_columns(None if self.names is None else list(self.names), whose)
        if cloud.d != self.d:
            raise InputError(f"`x` must have points of dimension d = {self.d}, as {whose} has, got d = {cloud.d}")
        return cloud

    def check_scale(self, scale: ScaleName, owner: str) -> None:
        """Raise InputError unless `scale` is "auto" or the scale of these settings."""
        validate.choice("scale", scale, get_args(ScaleName))
        if scale not in ("auto", self.scale):
            raise InputError(f"`scale` must be 'auto' or {self.scale!r}, which the {owner}, got {scale!r}")

    def rescale(self, x: Tensor) -> Tensor:
        """Divide the columns of points, or of gradients, by their spreads, in float64; return x unchanged in raw units."""
        return x if self.spreads is None else x.double() / torch.tensor(self.spreads, dtype=torch.float64, device=x.device)

    def rescale_array(self, x: np.ndarray) -> np.ndarray:
        """Divide the columns of points by their spreads; the result is float64 in raw units also."""
        return x.astype(np.float64) if self.spreads is None else x / np.array(self.spreads)

    @property
    def scale(self) -> Literal["columns", "none"]:
        return "none" if self.spreads is None else "columns"

    @property
    def has_columns(self) -> bool:
        """True if every column is also counted by itself: up to d = 4,096."""
        return self.d <= _MAX_COLUMNS

    def draw(self, like: Tensor) -> Directions:
        """Draw the random slices."""
        return directions.sample(self.directions, self.slices, self.d, like.float(), self.seed)

    def all_directions(self, like: Tensor) -> list[Directions]:
        """Return the random slices and, if they are counted, the columns."""
        return [self.draw(like), AxisDirections(self.d)] if self.has_columns else [self.draw(like)]


@dataclass(frozen=True)
class Plan:
    """The slices of a sketch and their bins: those of the random slices, then those of the columns if they are counted."""

    settings: SliceSettings
    grids: tuple[histograms.BinGrid, ...]

    @classmethod
    def fit(cls, points: Tensor, settings: SliceSettings) -> Plan:
        """Place the bins where some points (m, d), divided by their spreads, lie."""
        chosen = np.random.default_rng(0).permutation(len(points))[:_SAMPLE]
        some = torch.from_numpy(points.cpu().numpy()[chosen])
        kinds = settings.all_directions(points)
        projectors = (projector for kind in kinds for projector in histograms.make_projectors(kind, some, points))
        return cls(settings, tuple(histograms.choose_bins(projector, some) for projector in projectors))

    @classmethod
    def from_tensors(cls, tensors: Sequence[Mapping[str, Tensor]], settings: SliceSettings) -> Plan:
        """Restore the plan from `BinGrid.to_tensors` of its grids."""
        like = tensors[0]["shift"]
        parts = [part for kind in settings.all_directions(like) for part in histograms.split_directions(kind)]
        pairs = zip(parts, tensors, strict=True)
        grids = (histograms.BinGrid.from_tensors(part, {**grid, "shift": grid["shift"].to(like)}) for part, grid in pairs)
        return cls(settings, tuple(grids))

    @property
    def random_grids(self) -> tuple[histograms.BinGrid, ...]:
        """The bins of the random slices."""
        return self.grids[: len(self.grids) - self.settings.has_columns]

    def dense_slices(self) -> np.ndarray:
        """Return the random slices as an array (P, d), float64."""
        parts = [grid.directions.adjoint(torch.eye(grid.directions.P, device=grid.shift.device)) for grid in self.random_grids]
        return torch.cat(parts).double().cpu().numpy()

    def check_equal(self, other: Plan) -> None:
        """Raise InputError if sketches of the two plans cannot be compared."""
        mine, theirs = self.settings, other.settings
        for name in ("d", "slices", "directions", "seed"):
            ours, got = getattr(mine, name), getattr(theirs, name)
            if ours != got:
                raise InputError(f"`other` must be a sketch with {name} = {ours!r}, as this one, got {name} = {got!r}")
        pairs = [(a.to_tensors(), b.to_tensors()) for a, b in zip(self.grids, other.grids, strict=True)]
        if mine.names and theirs.names and mine.names != theirs.names:
            problem = "the columns in the same order, got the same columns in another order"
            if set(mine.names) != set(theirs.names):
                problem = f"the same columns; it {column_difference(theirs.names, mine.names, 'this one has')}"
        elif mine.spreads != theirs.spreads or (mine.encoding is None) != (theirs.encoding is None):
            problem = "columns divided by the same spreads, got other spreads"
        elif any(not torch.equal(a[key].cpu().double(), b[key].cpu().double()) for a, b in pairs for key in a):
            problem = "the same bins, got bins that lie elsewhere"
        else:
            return
        raise InputError(f"`other` must be a sketch with {problem}; make sketches that are to be compared with `empty()`")
