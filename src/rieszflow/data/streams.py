"""Streams: points of any source that are read in batches, and the spreads that their columns are divided by."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.messages import notice
from rieszflow._types import Points, PointSource, Progress, ProgressCallback, ScaleName
from rieszflow.data.dataset import column_spreads
from rieszflow.data.files import holds_table, read_points
from rieszflow.data.paths import check_same_columns, quoted, suffix
from rieszflow.data.points import as_points, conversion_hint, imported, is_array, is_frame
from rieszflow.errors import DatasetError, InputError, InputTypeError

if TYPE_CHECKING:
    from rieszflow.data.tables import Table

BATCH_ROWS = 1 << 16
BATCH_NUMBERS = 1 << 24  # at most
_ENTRIES = ("x", "image", "images", "pixel_values", "data")
_SAMPLE_ROWS = 1 << 14  # the quartiles of this many rows are off by 1 % of the spread
_LOOK = 256  # rows of an array that decide if a notice is given
_UNEQUAL = 10.0  # ratio of an array's spreads above which a notice is given


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
            self._shape = self._shape or tuple(points.shape[1:])
            if (shape := tuple(points.shape[1:])) != self._shape:
                raise InputError(f"{name}: points must have shape {self._shape} as earlier ones, got {shape}")
            yield validate.points(name, points.reshape(len(points), -1))
            done += len(points)
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
            self.n = sum(map(len, self))
        return self.n

    def align_columns(self, names: list[str] | None, whose: str) -> Stream:
        """Return the same points with their columns in the order `names` of another cloud, called `whose` in messages.

        Clouds without names are matched by position, with a notice if only one of the two has names.
        """
        if names == self.names:
            return self
        if names is None or self.names is None:
            unnamed, named = (self.name, whose) if self.names is None else (whose, self.name)
            notice(f"{unnamed}: has no column names, {named} has; columns are matched by position")
            return self
        check_same_columns(self.name, self.names, names, f"{whose} has")
        order = [self.names.index(name) for name in names]
        return self._map(lambda x: x[:, order], names)

    def scale_columns(self, spreads: Sequence[float] | np.ndarray | None) -> Stream:
        """Return the same points in float64 with every column divided by its spread (d,); unchanged if `spreads` is None."""
        if spreads is None:
            return self
        divisor = torch.as_tensor(spreads, dtype=torch.float64, device="cpu")
        return self._map(lambda x: x.double() / divisor.to(x.device), self.names)

    def _map(self, function: Callable[[Tensor], Tensor], names: list[str] | None) -> Stream:
        found = copy.copy(self)
        found._batches, found.names, found.first = (lambda: map(function, self)), names, function(self.first)
        found._rows = None if self._rows is None else lambda indices: function(torch.from_numpy(self.rows(indices)))
        found.d, found.common_unit, found._shape, found.progress = found.first.shape[1], False, None, None
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
        known = [key for key in _ENTRIES if key in batch] if len(batch) > 1 else list(batch)
        if len(known) != 1:
            keys = quoted([*map(str, batch)])
            raise InputTypeError(f"{name}: a mapping must have one key, or one of {quoted(_ENTRIES)}, got {keys}")
        if len(batch) > 1:
            notice(f"{source}: the entry {known[0]!r} of every batch is read, the others are skipped")
        return batch[known[0]]
    if not isinstance(batch, (tuple, list)):
        return batch
    if not batch or any(getattr(entry, "ndim", 0) == 0 for entry in batch):
        what = "single points or numbers" if batch else f"an empty {type(batch).__name__}"
        raise InputTypeError(f"{name}: must be a tensor or array of shape (m, d), or a tuple of these, got {what}")
    if len(batch) > 1:
        notice(f"{source}: the first of {len(batch)} entries of every batch is read, the others are skipped")
    return batch[0]


def stream(source: PointSource, *, progress: ProgressCallback | None = None, **reading: Any) -> Stream:
    """Return the points of any source as a `Stream`.

    Args:
        source: One of

            - a tensor or array (n, …): n points, flattened; (n,) holds n points of dimension 1;
            - a .npy file (read in pieces) or .npz file; a folder of images;
            - a `Table`, or anything that it is made of. A row is a point. Its numbers are read, in their units; functions
              that compare points read all columns (see `TableEncoding`);
            - a DataLoader or list of batches, or an iterator of batches, which can be read once. A batch has shape (m, d) or
              (m, C, H, W). In a tuple or list, such as (points, labels), the first entry is read, with a notice; in a dict the
              only entry, or the one called "x", "image", "images", "pixel_values" or "data".

            Integers of up to 16 bits, booleans and half precision become float32, longer integers float64. Images have values
            in [0, 1].
        progress: Callback for every batch of every pass, with the number of points read in this pass and the total, or None.
        reading: Arguments of `Table`, for a table.

    Raises:
        InputError, InputTypeError, DatasetError: No points, a wrong type or dtype, NaN, infinity or missing values, batches of
            different dimension, or a file that is missing or damaged.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    if (table := open_table(source, **reading)) is not None:
        found = table.numbers()
    elif reading:
        raise InputError(f"`source` must be a table for the options {', '.join(reading)}, got {type(source).__name__}")
    elif isinstance(source, Stream):
        found = source
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_file() and suffix(path) not in (".npy", ".npz"):
            raise DatasetError(f"{path}: must be a table, .npy, .npz or a folder, got another format")
        found = _npy(path) if suffix(path) == ".npy" and path.is_file() else _array(str(path), read_points(path))
    else:
        found = _batches(source)
    found.progress = progress or found.progress
    return found


def open_source(source: PointSource, **reading: Any) -> Table | Stream:
    """Return a source as a `Table` if it is one, otherwise as a `Stream`."""
    return open_table(source, **reading) or stream(source, **reading)


def open_table(source: PointSource, **reading: Any) -> Table | None:
    """Return a source as a `Table` if it holds one; otherwise None."""
    if not holds_table(source):
        return None
    with extra("tables", type(source).__name__ if is_frame(source) else str(source)):
        from rieszflow.data.tables import Table
    if isinstance(source, Table) and reading:
        raise InputError(f"`source` must be opened with the options {', '.join(reading)}, got a Table")
    return source if isinstance(source, Table) else Table(source, **reading)


def _batches(source: PointSource) -> Stream:
    kind = type(source)
    if is_array(source):
        return _array("points", imported(source, "source"))
    if isinstance(source, torch.utils.data.Dataset):
        raise InputTypeError(f"`source` must give batches, got {kind.__name__}; put it into a torch.utils.data.DataLoader")
    if isinstance(source, Mapping):
        raise InputTypeError("`source` must be an array, a table, or batches of points, got a mapping")
    if hasattr(kind, "__array__") or hasattr(kind, "shape"):
        as_points(source, "source")  # raises: a pass over its rows would lose its shape
    if not isinstance(source, Iterable):
        accepted = "a tensor, array, file, table, or batches"
        raise InputTypeError(f"`source` must be {accepted}, got {kind.__name__}{conversion_hint(source)}")
    once = isinstance(source, Iterator)
    # An iterator allows the two passes that a stream makes, for its first batch and for all.
    iterators = list(itertools.tee(source))

    def batches() -> Iterable[object]:
        if once and not iterators:
            raise InputError("`source` must be a list, a DataLoader or a file to be read more than once, got an iterator")
        return iterators.pop() if iterators else source

    return Stream("iterator" if once else kind.__name__, batches, once=once)


def _array(name: str, array: Points) -> Stream:
    """Return the points of an array in memory, or mapped into it."""
    if isinstance(array, Tensor) and (array.is_nested or array.layout != torch.strided):
        as_points(array, name)  # raises
    array = np.asarray(array) if isinstance(array, np.matrix) else array  # a row of a matrix would be a matrix again
    if array.ndim == 0 or len(array) == 0:
        got = f"shape {tuple(array.shape)}" if array.ndim else "a single number"
        raise InputError(f"{name}: must hold points of shape (n, d), at least one, got {got}")
    column = array[:, None] if array.ndim == 1 else array
    step = rows_per_batch(math.prod(array.shape[1:]))
    batches = lambda: (column[k : k + step] for k in range(0, len(array), step))  # noqa: E731
    return Stream(name, batches, len(array), rows=lambda indices: column[indices])


def _npy(path: Path) -> Stream:
    """Return the points of a .npy file: read in blocks, or mapped into memory if they are stored by columns."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read_header(file)
            start = file.tell()
    except ValueError as error:
        raise DatasetError(f"{path}: not a NumPy file, or damaged ({error})") from None
    if dtype.kind not in "fiub" or not shape or 0 in shape:
        raise DatasetError(f"{path}: must hold real numbers, got dtype {dtype}, and points (n, d), got shape {shape}")
    n, d = shape[0], math.prod(shape[1:])
    expected, found = n * d * dtype.itemsize, path.stat().st_size - start
    if found != expected:
        problem = "truncated" if found < expected else "more than one array"
        raise DatasetError(f"{path}: {problem}: {found} bytes of data, the header states {expected}")
    if by_columns and len(shape) > 1:
        return _array(str(path), np.load(path, mmap_mode="r"))

    def block(first: int, length: int) -> np.ndarray:  # mapping would need address space for all
        content = np.fromfile(path, dtype, length * d, offset=start + first * d * dtype.itemsize)
        if content.size < length * d:
            raise DatasetError(f"{path}: has become shorter while being read")
        return content.reshape(length, *(shape[1:] or (1,)))

    step = rows_per_batch(d)
    batches = lambda: (block(k, min(step, n - k)) for k in range(0, n, step))  # noqa: E731
    return Stream(str(path), batches, n, rows=lambda some: np.concatenate([block(0, 0), *(block(int(k), 1) for k in some)]))


def choose_spreads(scale: ScaleName, clouds: Sequence[Stream]) -> tuple[float, ...] | None:
    """Return the spreads of the pooled points, by which a permutation test stays exact, or None for raw units.

    "auto" scales named columns, and gives a notice for arrays whose spreads differ more than tenfold.
    """
    validate.choice("scale", scale, get_args(ScaleName))
    named = any(cloud.names is not None and not cloud.common_unit for cloud in clouds)
    if scale == "columns" or (scale == "auto" and named):
        batches = (batch.double().cpu().numpy() for cloud in clouds for batch in ([cloud.first] if cloud.once else cloud))
        return tuple(column_spreads(*sample_rows(batches, clouds[0].d)).tolist())
    if scale == "auto" and not any(cloud.common_unit for cloud in clouds):
        random, most = np.random.default_rng(0), max(1, _LOOK // len(clouds))
        sizes = [cloud.n or len(cloud.first) for cloud in clouds]
        rows = np.concatenate([cloud.rows(random.integers(0, n, most)) for cloud, n in zip(clouds, sizes, strict=True)])
        varying = np.flatnonzero(np.ptp(rows, axis=0) > 0)
        if len(varying) > 1 and sum(sizes) >= 30:  # with fewer, spreads differ by chance
            spreads = column_spreads(rows)[varying]
            least, most = int(spreads.argmin()), int(spreads.argmax())
            if (ratio := spreads[most] / spreads[least]) > _UNEQUAL:
                wide, narrow = varying[most], varying[least]
                problem = f"the spread of column {wide} is {ratio:.3g} times that of column {narrow} and dominates the distance"
                advice = 'scale="columns" divides every column by its spread, scale="none" keeps the units without this notice'
                notice(f"{clouds[0].name}: {problem}; {advice}")
    return None


def sample_rows(batches: Iterable[np.ndarray], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random rows (m, d) of batches, NaNs included, and the standard deviations (d,) of all rows without NaNs."""
    most = max(_LOOK, min(_SAMPLE_ROWS, BATCH_NUMBERS // max(d, 1)))
    # Rows are drawn by position, not by value, so that a change of unit does not change the sample.
    random = np.random.default_rng(0)
    rows, keys, origin = np.empty((0, d)), np.empty(0), np.full(d, np.nan)
    sums = np.zeros((3, d))  # numbers of values, and sums of differences from the origin and of their squares
    with np.errstate(over="ignore", invalid="ignore"):
        for points in batches:
            rows, keys = np.concatenate([rows, points]), np.concatenate([keys, random.random(len(points))])
            if len(keys) > most:
                least = np.argpartition(keys, most)[:most]
                rows, keys = rows[least], keys[least]
            present = ~np.isnan(points)
            first = points[present.argmax(0), np.arange(d)] if len(points) else origin
            origin = np.where(np.isnan(origin), first, origin)
            shifted = np.where(present, points - origin, 0)
            sums += present.sum(0), shifted.sum(0), (shifted**2).sum(0)
        _, mean, squares = sums / np.maximum(sums[0], 1)
        # The difference cancels if the origin is far from the mean; `squares` is 0 exactly for constant columns.
        return rows, np.where(squares > 0, np.sqrt(np.maximum(squares - mean**2, 1e-12 * squares)), 0)
