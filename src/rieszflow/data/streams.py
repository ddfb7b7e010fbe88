"""Streams: points that are read in batches, and the spreads that their columns are divided by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.messages import notice
from rieszflow._types import Progress, ProgressCallback, ScaleName
from rieszflow.data.dataset import column_spreads
from rieszflow.data.options import column_difference
from rieszflow.data.paths import quoted
from rieszflow.data.points import as_points
from rieszflow.errors import InputError, InputTypeError

BATCH_ROWS = 1 << 16
BATCH_NUMBERS = 1 << 24  # at most
_ENTRIES = ("x", "image", "images", "pixel_values", "data")

_SAMPLE_ROWS = 1 << 14  # the quartiles of this many rows are off by 1 % of the spread
_SAMPLE_NUMBERS = 1 << 24  # upper limit for wide tables
_LOOK = 256  # rows of an array that decide if a notice is given
_UNEQUAL = 10.0  # ratio of an array's spreads above which a notice is given
_FEWEST = 30  # rows; with fewer, spreads differ by chance


class Stream:
    """Points (n, d) in batches, float32 or float64 and finite; made by `stream`. Iterating is a pass over all points.

    Attributes:
        name: Name of the source, for messages.
        first: The first batch (m, d).
        d: Dimension; points with several axes are flattened.
        n: Number of points, or None if only a pass can tell.
        names: Names of the d columns, or None.
        once: True if the points can be read only once.
        common_unit: True if all columns have one unit, as those of images and cells do.
        progress: Callback for every batch of every pass, or None; see `stream`.
    """

    def __init__(
        self,
        name: str,
        batches: Callable[[], Iterable[object]],
        n: int | None = None,
        names: list[str] | None = None,
        *,
        rows: Callable[[np.ndarray], object] | None = None,
        once: bool = False,
    ) -> None:
        self.name, self._batches, self.n, self.names = name, batches, n, names
        self._rows, self.once = rows, once
        self.progress: ProgressCallback | None = None
        self._shape: tuple[int, ...] | None = None  # of a point before it is flattened
        if (first := next(iter(self), None)) is None:
            raise InputError(f"{self.name}: must have at least one point, got none")
        self.first, self.d = first, first.shape[1]
        self.common_unit = len(self._shape or ()) > 1

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for number, batch in enumerate(self._batches()):
            name = f"{self.name}, batch {number}"
            points = _batch_points(batch, name)
            if not len(points):
                continue
            shape = tuple(points.shape[1:])
            self._shape = self._shape or shape
            if shape != self._shape:
                raise InputError(f"{name}: points must have shape {self._shape} as earlier ones, got {shape}")
            flat = validate.points(name, points.reshape(len(points), -1))
            yield flat
            done += len(flat)
            if self.progress is not None:
                self.progress(Progress("points", done, self.n))
        if self.n not in (None, done):
            advice = "give a source that can be read more than once, and a file that does not change"
            raise InputError(f"{self.name}: must have the same points in every pass, got {done} after {self.n}; {advice}")
        self.n = done

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return points (len(indices), d) by their indices; if that is expensive, points of the first batch instead."""
        if self._rows is None:
            return np.asarray(self.first.cpu().numpy()[indices % len(self.first)])
        found = _batch_points(self._rows(indices), f"{self.name}, some rows")
        return np.asarray(found.reshape(len(found), -1).cpu().numpy())

    def count(self) -> int:
        """Return the number of points, after a pass if it is unknown."""
        if self.n is None:
            self.n = sum(len(batch) for batch in self)
        return self.n

    def align_columns(self, names: list[str] | None, whose: str) -> Stream:
        """Return the same points with their columns in the order `names` of another cloud, called `whose` in messages.

        Clouds without names are matched by position, with a notice if only one of the two has names. Raises InputError if the
        two clouds have different columns.
        """
        if names is None or self.names is None:
            if (names is None) != (self.names is None):
                unnamed, named = (self.name, whose) if self.names is None else (whose, self.name)
                notice(f"{unnamed}: has no column names, {named} has; columns are matched by position")
            return self
        if names == self.names:
            return self
        if set(names) == set(self.names):
            return self._select(names)
        difference = column_difference(self.names, names, f"{whose} has")
        raise InputError(f"{self.name}: {difference}; columns are matched by name: choose those to compare")

    def scale_columns(self, spreads: Sequence[float] | np.ndarray | None) -> Stream:
        """Return the same points in float64 with every column divided by its spread (d,); unchanged if `spreads` is None."""
        if spreads is None:
            return self
        divisor = torch.as_tensor(spreads, dtype=torch.float64, device="cpu")
        return self._map(lambda x: x.double() / divisor.to(x.device), self.names)

    def _select(self, names: list[str]) -> Stream:
        places = {name: k for k, name in enumerate(self.names or [])}
        order = [places[name] for name in names]
        return self._map(lambda x: x[:, order], names)

    def _map(self, function: Callable[[Tensor], Tensor], names: list[str] | None) -> Stream:
        found = copy.copy(self)
        found._batches, found.names, found.first = (lambda: map(function, self)), names, function(self.first)
        found._rows = None if self._rows is None else lambda indices: function(torch.from_numpy(self.rows(indices)))
        found.d, found.common_unit = found.first.shape[1], False
        found._shape = found.progress = None
        return found


def rows_per_batch(d: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_NUMBERS // max(1, d)))


def _batch_points(batch: object, name: str) -> Tensor:
    """Convert a batch to a float32 or float64 tensor (m, …), images with the channels first."""
    points = as_points(_points_entry(batch, name), name)
    if points.ndim < 2:
        raise InputError(f"{name}: must have shape (m, d), got {tuple(points.shape)}, which can be one point or many")
    return validate.plain_tensor(name, points, "(m, d)")


def _points_entry(batch: object, name: str) -> object:
    """Return the points of a batch, without labels and other entries."""
    source = name.partition(", batch")[0]
    if isinstance(batch, Mapping):
        known = [key for key in _ENTRIES if key in batch]
        if len(batch) != 1 and len(known) != 1:
            keys = quoted([str(key) for key in batch])
            raise InputTypeError(f"{name}: a mapping must have one key, or one of {quoted(_ENTRIES)}, got {keys}")
        key = known[0] if known else next(iter(batch))
        if len(batch) > 1:
            notice(f"{source}: the entry {key!r} of every batch is read, the others are skipped")
        return batch[key]
    if not isinstance(batch, (tuple, list)):
        return batch
    if not batch or any(getattr(entry, "ndim", 0) == 0 for entry in batch):
        what = "single points or numbers" if batch else f"an empty {type(batch).__name__}"
        raise InputTypeError(f"{name}: must be a tensor or array of shape (m, d), or a tuple of these, got {what}")
    if len(batch) > 1:
        notice(f"{source}: the first of {len(batch)} entries of every batch is read, the others are skipped")
    return batch[0]


def choose_spreads(scale: ScaleName, clouds: Sequence[Stream]) -> tuple[float, ...] | None:
    """Return the spreads to divide the columns of all clouds by, or None for raw units.

    "auto" scales named columns, and gives a notice for arrays whose spreads differ more than tenfold. The spreads are those of
    the pooled points, so that a permutation test on scaled points stays exact.
    """
    validate.choice("scale", scale, get_args(ScaleName))
    named = any(cloud.names is not None and not cloud.common_unit for cloud in clouds)
    if scale == "columns" or (scale == "auto" and named):
        batches = (batch.double().cpu().numpy() for cloud in clouds for batch in ([cloud.first] if cloud.once else cloud))
        return tuple(column_spreads(*sample_rows(batches, clouds[0].d)).tolist())
    if scale == "auto" and not any(cloud.common_unit for cloud in clouds):
        random = np.random.default_rng(0)
        sizes = [cloud.n or len(cloud.first) for cloud in clouds]
        some = [cloud.rows(random.integers(0, n, max(1, _LOOK // len(clouds)))) for cloud, n in zip(clouds, sizes, strict=True)]
        _notice_unequal(clouds[0].name, np.concatenate(some), sum(sizes))
    return None


def sample_rows(batches: Iterable[np.ndarray], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random rows (m, d) of batches, NaNs included, and the standard deviations (d,) of all rows without NaNs."""
    most = max(_LOOK, min(_SAMPLE_ROWS, _SAMPLE_NUMBERS // max(d, 1)))
    # Rows are drawn by position, not by value, so that a change of unit does not change the sample.
    random = np.random.default_rng(0)
    rows, keys = np.empty((0, d)), np.empty(0)
    origin: np.ndarray | None = None
    sums, squares, n = np.zeros(d), np.zeros(d), np.zeros(d)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for points in batches:
            drawn = random.random(len(points))
            keep = drawn < keys.max() if len(keys) == most else np.ones(len(points), bool)
            rows, keys = np.concatenate([rows, points[keep]]), np.concatenate([keys, drawn[keep]])
            if len(keys) > most:
                least = np.argpartition(keys, most)[:most]
                rows, keys = rows[least], keys[least]
            present = ~np.isnan(points)
            if origin is None:
                origin = points[present.argmax(0), np.arange(d)] if len(points) else None
            shifted = np.where(present, points - (0 if origin is None else np.nan_to_num(origin)), 0)
            sums, squares, n = sums + shifted.sum(0), squares + (shifted**2).sum(0), n + present.sum(0)
        n = np.maximum(n, 1)
        variance = squares / n - (sums / n) ** 2
        # The difference cancels if the origin is far from the mean; `squares` is 0 exactly for constant columns.
        return rows, np.where(squares > 0, np.sqrt(np.maximum(variance, 1e-12 * squares / n)), 0)


def _notice_unequal(name: str, rows: np.ndarray, n: int) -> None:
    varying = np.flatnonzero(np.ptp(rows, axis=0) > 0)
    if len(varying) < 2 or n < _FEWEST:
        return
    spreads = column_spreads(rows)[varying]
    least, most = int(spreads.argmin()), int(spreads.argmax())
    if spreads[most] > _UNEQUAL * spreads[least]:
        notice(
            f"{name}: the spread of column {varying[most]} is {spreads[most] / spreads[least]:.3g} times that of column "
            f'{varying[least]} and dominates the distance; scale="columns" divides every column by its spread, '
            'scale="none" keeps the units without this notice'
        )
