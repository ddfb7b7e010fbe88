"""Where the slices and the bins of a sketch are. Sketches of one plan can be compared and added up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow import directions, histograms
from rieszflow._infra import validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.notices import notice
from rieszflow._types import DirectionsName
from rieszflow.data.options import column_difference
from rieszflow.directions import KINDS, Directions
from rieszflow.errors import InputError

__all__ = ["Plan", "SliceSettings", "notice_if_coarse"]

_RANGE = 256  # rows that decide the range
_BYTES = 8 * (histograms.BINS + 2 * histograms.TAIL)  # of the counts of a slice
_FEWEST, _LOOK = 64, 8  # points needed to see that bins are too wide, and slices that are checked
_CROWDED = 8  # distinct points per bin among 256; usually about one
_MOST_AXES = 4096  # columns that are slices of their own; more of them cost more than they tell


def notice_if_coarse(grid: histograms.BinGrid, rows: Tensor) -> None:
    """Give a notice if points share bins because the bins were placed by rows with a much larger spread.

    Args:
        grid: Bins of some random slices.
        rows: Points of shape (m, d), divided by their spreads; only the first ones are checked.
    """
    if len(rows) < _FEWEST:
        return
    grid, wide = grid.promote(rows[:_RANGE])
    projected = grid.project(wide)[:_LOOK].cpu().numpy()
    low, inverse = (v[:_LOOK, None].cpu().numpy() for v in (grid.low, grid.inverse))
    place = np.floor((projected - low) * inverse)
    inside = (place >= 0) & (place < grid.B)
    distinct, filled = (sum(len(np.unique(row[some])) for row, some in zip(v, inside, strict=True)) for v in (projected, place))
    if inside.mean() > 0.5 and distinct > _CROWDED * filled:
        notice(
            f"bins: {distinct / filled:.0f} distinct points share a bin on average, because the bins were placed by rows with "
            "a much larger spread, and distances lose precision; place the bins by rows like those to be counted"
        )


class Axes(Directions):
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
    """What the slices of a sketch follow from.

    Attributes:
        d: dimension of the points.
        slices: random directions P.
        directions: their kind.
        seed: of the directions.
        names: of the d columns, or None.
        spreads: of the d columns, by which points are divided before they are counted; None for raw units.
    """

    d: int
    slices: int
    directions: DirectionsName
    seed: int
    names: Sequence[str] | None = None
    spreads: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        validate.fits_memory("slices", validate.positive_int("slices", self.slices), _BYTES)
        validate.integer_seed(self.seed)
        if self.directions not in ("auto", *KINDS):
            accepted = ", ".join(repr(name) for name in ("auto", *KINDS))
            raise InputError(f"directions: {self.directions!r} given; {accepted} are accepted")
        if self.spreads is not None and not (
            len(self.spreads) == self.d and all(0 < spread < math.inf for spread in self.spreads)
        ):
            raise InputError(f"`spreads` must be {self.d} positive finite numbers, got {len(self.spreads)}")
        names = self.names
        if names is None:
            return
        if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) and len(names) == self.d):
            raise InputError(f"names: {len(names)} given for {self.d} columns; a list of as many strings is accepted")
        if len(set(names)) < self.d:
            raise InputError("names: some are equal; different ones are accepted, for tables are matched by them")
        object.__setattr__(self, "names", tuple(names))

    def divide(self, x: Tensor) -> Tensor:
        """Return points (n, d), or gradients, with every column divided by its spread, in float64; as given in raw units."""
        return x if self.spreads is None else x.double() / torch.tensor(self.spreads, dtype=torch.float64, device=x.device)

    @property
    def columns(self) -> bool:
        """Whether columns are counted by themselves: up to d = 4,096."""
        return self.d <= _MOST_AXES

    def random(self, like: Tensor) -> Directions:
        """Draw the random slices."""
        generator = torch.Generator().manual_seed(self.seed)
        return directions.sample(self.directions, self.slices, self.d, like.float(), generator)

    def kinds(self, like: Tensor) -> list[Directions]:
        """The random slices, and the columns."""
        random = self.random(like)
        return [random, Axes(self.d)] if self.columns else [random]


@dataclass(frozen=True)
class Plan:
    """The slices and their bins.

    Attributes:
        settings: what the slices follow from.
        grids: the bins, of one part of the slices after another: first the random ones, then the columns if they are counted.
    """

    settings: SliceSettings
    grids: tuple[histograms.BinGrid, ...]

    @classmethod
    @isolated_numerics
    def fit(cls, rows: Tensor, drawn: SliceSettings) -> Plan:
        """Place the bins where some rows (m, d), already divided by their spreads, lie."""
        chosen = np.random.default_rng(0).permutation(len(rows))[:_RANGE]
        some = rows.cpu().numpy()[chosen]
        frames = [frame for kind in drawn.kinds(rows) for frame in histograms.make_projectors(kind, some, rows)]
        return cls(drawn, tuple(histograms.choose_bins(frame, some) for frame in frames))

    @classmethod
    @isolated_numerics
    def from_spans(cls, spans: Sequence[Mapping[str, Tensor]], drawn: SliceSettings) -> Plan:
        """The bins whose `Grid.span` these were."""
        like = spans[0]["shift"]
        parts = [part for kind in drawn.kinds(like) for part in histograms.split_directions(kind)]
        pairs = zip(parts, spans, strict=True)
        return cls(
            drawn,
            tuple(histograms.BinGrid.from_tensors(part, {**span, "shift": span["shift"].to(like)}) for part, span in pairs),
        )

    @property
    def random(self) -> tuple[histograms.BinGrid, ...]:
        """The bins of the random slices."""
        return self.grids[: len(self.grids) - self.settings.columns]

    @property
    def dtype(self) -> torch.dtype:
        """In which points are centred: that of the rows that say where the bins are."""
        return self.grids[0].shift.dtype

    def of_dtype(self, dtype: torch.dtype) -> Plan:
        """The same slices and bins, for points of another dtype."""
        return dataclasses.replace(self, grids=tuple(grid.to_dtype(dtype) for grid in self.grids))

    def difference(self, other: Plan) -> str | None:
        """How another plan differs, in words that follow "a sketch"; None where sketches of both can be compared."""
        for what in ("d", "slices", "directions", "seed"):
            mine, theirs = getattr(self.settings, what), getattr(other.settings, what)
            if mine != theirs:
                return f"a sketch with {what} = {theirs!r} given, this one has {mine!r}; they must be equal"
        mine, theirs = self.settings.names, other.settings.names
        advice = "make sketches that are to be compared by `empty()`"
        if mine is not None and theirs is not None and mine != theirs:
            how = "the same columns in another order"
            if set(mine) != set(theirs):
                how = "other columns: it " + column_difference(theirs, mine, "this one has")
            return f"a sketch of {how}; {advice}"
        if self.settings.spreads != other.settings.spreads:
            return f"a sketch whose columns are divided by other spreads; {advice}"
        for a, b in zip(self.grids, other.grids, strict=True):
            one, two = a.to_tensors(), b.to_tensors()
            if any(not torch.equal(one[key].cpu().double(), two[key].cpu().double()) for key in one):
                return f"its bins lie elsewhere; {advice}"
        return None
