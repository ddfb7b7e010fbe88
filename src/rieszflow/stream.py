"""Points that come in batches, because they are too many to be held: files, tables, loaders, iterators."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._notices import notice
from rieszflow.data import DatasetError, has_pictures, read_all
from rieszflow.tables import (
    PARQUET,
    TEXT,
    Reading,
    Table,
    difference,
    is_frame,
    is_table,
    named,
    open_frame,
    open_table,
    suffix,
    whole_numbers,
)

__all__ = ["Stream", "common", "stream"]

ROWS = 1 << 16  # points in a batch of a file
_MOST_NUMBERS = 1 << 24  # numbers in a batch of a file: 64 MB of float32


class Stream:
    """Points (n, d) in batches, float32 or float64 and finite; made by `stream`. Iterating is a pass over all of them.

    Attributes:
        name: where the points come from, for messages.
        first: the first batch, (m, d).
        d: dimension; points of more than one axis are flattened.
        n: number of points, or None where only a pass would tell.
        names: of the d columns, or None.
        is_table: whether columns can be chosen by name.
        left_out: columns of a table that are not read, with the reason; without those that were not asked for.
        progress: called during every pass, or None; see `stream`.
    """

    def __init__(
        self,
        name: str,
        batches: Callable[[], Iterable[Any]],
        n: int | None = None,
        names: list[str] | None = None,
        rows: Callable[[np.ndarray], np.ndarray] | None = None,
        left_out: dict[str, str] | None = None,
        is_table: bool = False,
    ) -> None:
        self.name, self._batches, self.n, self.names, self._rows = name, batches, n, names, rows
        self.left_out, self.is_table = left_out or {}, is_table
        self.d = 0
        self.progress: Callable[[int, int | None], Any] | None = None
        first = next(iter(self), None)
        if first is None:
            raise ValueError(f"{name}: no points in it; at least one is needed")
        self.first, self.d = first, first.shape[1]

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for number, batch in enumerate(self._batches()):
            points = _points(batch, f"{self.name}, batch {number}")
            if self.d not in (0, points.shape[1]):
                raise ValueError(
                    f"{self.name}, batch {number}: points of dimension {points.shape[1]} given, earlier ones have {self.d}"
                )
            yield points
            done += len(points)
            if self.progress is not None:
                self.progress(done, self.n)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Points by their numbers, from anywhere where that is cheap, else of the first batch: a sample is meant."""
        if self._rows is None:
            return self.first.cpu().numpy()[numbers % len(self.first)]
        found = _points(self._rows(numbers), f"{self.name}, some rows")
        return found.cpu().numpy()

    def count(self) -> int:
        """The number of points, by a pass if need be."""
        if self.n is None:
            self.n = sum(len(batch) for batch in self)
        return self.n

    def matched(self, names: list[str] | None, whose: str, left_out: Mapping[str, str] = MappingProxyType({})) -> Stream:
        """The same points with their columns in the order of `names`, those of another cloud, called `whose`.

        Clouds without names are matched by position: then this stream is returned. Where only one of the two has names, a
        notice says so.

        Args:
            left_out: columns that the other cloud has, but not as numbers, with the reason.

        Raises:
            ValueError: other names, or none, or another number of columns.
        """
        if names is None or self.names is None:
            if (names is None) != (self.names is None):
                unnamed, other = (self.name, whose) if self.names is None else (whose, self.name)
                notice(f"{unnamed}: has no names of columns, {other} has; columns are matched by their position")
            return self
        if names == self.names:
            return self
        if set(names) != set(self.names):
            raise ValueError(
                f"{self.name}: {self._difference(names, whose, left_out)}; columns are matched by name: choose those to compare"
            )
        return self._chosen(names)

    def _difference(self, names: list[str], whose: str, left_out: Mapping[str, str]) -> str:
        for column in names:
            if column in self.left_out:
                return f"column {column!r} holds no numbers here ({self.left_out[column]}), and does in {whose}"
        for column in self.names or ():
            if column in left_out:
                return f"column {column!r} holds numbers here, and none in {whose} ({left_out[column]})"
        return difference(self.names or [], names, whose)

    def _chosen(self, names: list[str]) -> Stream:
        """Only these columns, in this order."""
        order = [(self.names or []).index(name) for name in names]
        where = np.array(order)
        rows = None if self._rows is None else lambda numbers: self.rows(numbers)[:, where]
        return Stream(self.name, lambda: (batch[:, order] for batch in self), self.n, list(names), rows, self.left_out, True)


def common(x: Stream, y: Stream) -> tuple[Stream, Stream]:
    """Two streams on the columns that both have, in the order of the first; a notice names the others.

    Raises:
        ValueError: no names, or none in common.
    """
    for cloud in (x, y):
        if cloud.names is None:
            raise ValueError(f"common: {cloud.name} has no names of columns; they are needed on both sides")
    names = [name for name in x.names or () if name in set(y.names or ())]
    if not names:
        raise ValueError(f"common: {x.name} has {named(x.names or [])}, {y.name} {named(y.names or [])}: no column in common")
    for cloud in (x, y):
        if rest := [name for name in cloud.names or () if name not in set(names)]:
            notice(f"{cloud.name}: left out {named(rest)}: not in the other table")
    return x._chosen(names), y._chosen(names)


def stream(
    source: Any,
    progress: Callable[[int, int | None], Any] | None = None,
    *,
    columns: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    header: bool | str = "auto",
    delimiter: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    missing: Sequence[str] | None = None,
    dates: bool = False,
    encoding: str = "utf-8",
) -> Stream:
    """Whatever holds points, as a `Stream`.

    What is taken, and what is a point:

    - a tensor or array (n, …): n points, flattened; (n,) are n points of one dimension;
    - a file: .npy (read in pieces), .npz, .csv, .tsv (also .gz), .parquet; a folder of such tables with equal columns, or of
      pictures. A row of a table is a point;
    - a data frame: of pandas, polars, Arrow, or anything else that gives itself to Arrow;
    - a DataLoader or list of batches, or an iterator of batches, which can be passed over once. A batch is (m, d) or
      (m, C, H, W). Of a batch that is a tuple or list, (points, labels) say, the first entry counts, and a notice says so; of
      a dict its only entry or the one called "x", "image", "images", "pixel_values" or "data".

    A batch (m,) can be m points or one, and is refused; so is a list of single points: stack them. Whole numbers of up to
    16 bits, truth values and half precision become float32, longer whole numbers float64. Pictures have the unit [0, 1].

    Tables are matched with other tables by the names of their columns. Columns without numbers are left out, and a notice names
    them with the reason. A column that holds numbers and something else is an error.

    Args:
        source: see above.
        progress: called after every batch that was dealt with, in every pass, with the points passed over in this pass and
            how many there are, or None. So `ParticleFlow(stream("huge.npy", progress=bar))` shows where a long step is.
        columns: the columns of a table to read, in this order; None for all that hold numbers.
        exclude: columns not to read.
        header: whether a CSV file has names in its first row; "auto": if that row is not made of numbers.
        delimiter: between the cells of a CSV file; None for a comma, a tab in .tsv files.
        decimal: the decimal sign in text, "." or ",".
        thousands: the separator of thousands in text, to be dropped.
        missing: texts that stand for a missing value, beside empty cells and nulls; rows with one are then left out, and a
            notice says how many. None: a missing value is an error.
        dates: read dates, times and durations as seconds (dates since 1970).
        encoding: of CSV files.

    Raises:
        TypeError, ValueError, OSError: no points in it, a wrong kind or dtype, NaN, infinity or missing values, batches of
            different dimension, a damaged file.
        ImportError: a table without pyarrow.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    reading = Reading(columns, exclude, header, delimiter, decimal, thousands, missing, dates, encoding)
    if isinstance(source, Stream):
        found = source
    elif is_frame(source):
        found = _table(open_frame(source, reading))
    elif isinstance(source, (str, os.PathLike)):
        found = _file(Path(source), reading)
    else:
        found = _batches(source)
    if reading != Reading() and not found.is_table:
        raise ValueError(f"{found.name}: options for tables are given (columns, header, …), and this is none")
    found.progress = progress or found.progress
    return found


def _batches(source: Any) -> Stream:
    if isinstance(source, (Tensor, np.ndarray)):
        if source.ndim == 0:
            raise ValueError("source: a single number given; points (n, d) are accepted")
        return _array("points", source)
    if isinstance(source, torch.utils.data.Dataset):
        raise TypeError(f"source: {type(source).__name__} gives single points; put it into a torch.utils.data.DataLoader")
    if isinstance(source, Mapping):
        raise TypeError("source: a mapping given; give one array, a table, or batches of points")
    if isinstance(source, Iterator):
        return Stream("iterator", _once(source))
    if isinstance(source, Iterable):
        return Stream(type(source).__name__, lambda: source)
    raise TypeError(f"source: {type(source).__name__} given; a tensor, array, file, table, or batches are accepted")


def _once(iterator: Iterator[Any]) -> Callable[[], Iterable[Any]]:
    """The first call looks at the first batch only, the second passes over everything."""
    seen: list[Any] = []

    def batches() -> Iterable[Any]:
        if not seen:
            seen.extend(itertools.islice(iterator, 1))
            return list(seen)
        if seen[-1] is None:
            raise ValueError("iterator: can be passed over once; give a list, a DataLoader or a file for more")
        first = seen[0]
        seen.append(None)
        return itertools.chain([first], iterator)

    return batches


def _points(batch: Any, name: str, single: bool = False) -> Tensor:
    """A batch as (m, d), float32 or float64 and finite; (m,) is refused but for a `single` array."""
    batch = _entry(batch, name)
    if isinstance(batch, np.ma.MaskedArray):
        if np.ma.is_masked(batch):
            raise TypeError(f"{name}: a masked array with {int(batch.mask.sum())} masked values given; fill or drop them first")
        batch = batch.data
    if isinstance(batch, np.ndarray):
        if batch.dtype.kind not in "fiub":
            raise TypeError(f"{name}: dtype {batch.dtype} given; real numbers are accepted")
        if batch.dtype.kind in "iu":
            batch = whole_numbers(batch, name)
        elif batch.dtype.kind == "b" or batch.dtype.itemsize < 4:
            batch = batch.astype(np.float32)
        elif batch.dtype.itemsize > 8:
            batch = batch.astype(np.float64)
    elif isinstance(batch, Tensor):
        batch = _dense(name, batch)
        if not batch.is_floating_point() and batch.dtype.itemsize > 2:
            on_cpu = batch.device.type == "cpu"
            batch = torch.from_numpy(whole_numbers(batch.numpy(), name)) if on_cpu else batch.to(torch.float64)
        elif batch.dtype not in _validate.DTYPES:
            batch = batch.to(torch.float32)
    else:
        raise TypeError(f"{name}: {type(batch).__name__} given; a tensor or array (m, ...) is accepted")
    if batch.ndim == 0 or (batch.ndim == 1 and not single):
        raise ValueError(
            f"{name}: shape {tuple(batch.shape)} given, which can be one point or many; batches (m, d) are accepted"
        )
    return _validate.points(name, batch.reshape(len(batch), -1))


def _dense(name: str, x: Tensor) -> Tensor:
    if x.is_complex() or x.is_quantized or x.layout != torch.strided or x.device.type == "meta":
        raise TypeError(f"{name}: {x.dtype}, {x.layout} on {x.device} given; dense tensors of real numbers are accepted")
    return x.detach().resolve_neg()


_ENTRIES = ("x", "image", "images", "pixel_values", "data")


def _entry(batch: Any, name: str) -> Any:
    """The points of a batch that holds more than points."""
    if isinstance(batch, Mapping):
        known = [key for key in _ENTRIES if key in batch]
        if len(batch) != 1 and len(known) != 1:
            raise TypeError(
                f"{name}: a mapping with the keys {named([str(key) for key in batch])} given; one key, or one of "
                f"{named(_ENTRIES)} beside others, is accepted"
            )
        key = known[0] if known else next(iter(batch))
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch the entry {key!r} counts, the others are left out")
        return batch[key]
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise TypeError(f"{name}: an empty {type(batch).__name__} given; a tensor or array (m, ...) is accepted")
        if any(getattr(entry, "ndim", 0) == 0 for entry in batch):
            raise TypeError(
                f"{name}: a single point, or plain numbers, given; batches that are tensors or arrays (m, d) are accepted"
            )
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch, {len(batch)} entries, the first one counts")
        return batch[0]
    return batch


def _array(name: str, array: Any) -> Stream:
    # A matrix of its own class stays two-dimensional when a row is taken, and a mask is seen before anything is cut off.
    if isinstance(array, np.matrix):
        array = np.asarray(array)
    elif isinstance(array, Tensor):
        array = _dense(name, array)
    if len(array) == 0:
        raise ValueError(f"{name}: shape {tuple(array.shape)} is empty; at least one point is needed")
    column = array[:, None] if array.ndim == 1 else array
    step = _rows(math.prod(array.shape[1:]))
    return Stream(
        name, lambda: (column[k : k + step] for k in range(0, len(array), step)), len(array), rows=lambda k: column[k]
    )


def _rows(d: int) -> int:
    return max(1, min(ROWS, _MOST_NUMBERS // max(1, d)))


def _table(table: Table) -> Stream:
    return Stream(table.name, table.batches, table.n, table.names, left_out=table.left_out, is_table=True)


def _file(path: Path, reading: Reading) -> Stream:
    if suffix(path) == ".npy" and path.is_file():
        return _npy(path)
    if is_table(path) or (path.is_dir() and _is_folder_of_tables(path)):
        return _table(open_table(path, reading))
    if path.is_file() and suffix(path) != ".npz":
        raise DatasetError(
            f"{path}: of a format that is not read; accepted: {', '.join((*TEXT, *PARQUET))}, .npy, .npz, and folders"
        )
    return _array(str(path), read_all(path))


def _is_folder_of_tables(folder: Path) -> bool:
    return not has_pictures(folder) and any(is_table(file) for file in folder.rglob("*"))


def _npy(path: Path) -> Stream:
    """Read, not mapped: mapping would need as much address space as the file is long."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read_header(file)
            start = file.tell()
    except ValueError as error:
        raise DatasetError(f"{path}: not a NumPy file, or damaged ({error})") from None
    if dtype.hasobject or dtype.kind not in "fiub":
        raise DatasetError(f"{path}: dtype {dtype} given; numbers are accepted")
    if not shape or 0 in shape:
        raise DatasetError(f"{path}: shape {shape} given; points (n, d) are accepted")
    d = math.prod(shape[1:])
    needed, there = shape[0] * d * dtype.itemsize, path.stat().st_size - start
    if there < needed:
        raise DatasetError(f"{path}: truncated: {there} bytes of data, the header promises {needed}")
    if by_columns and len(shape) > 1:
        return _array(str(path), np.load(path, mmap_mode="r"))  # a row's numbers lie far apart in the file
    step = _rows(d)

    def batches() -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            file.seek(start)
            for k in range(0, shape[0], step):
                m = min(step, shape[0] - k)
                yield np.fromfile(file, dtype, m * d).reshape(m, *(shape[1:] or (1,)))

    def rows(numbers: np.ndarray) -> np.ndarray:
        with open(path, "rb") as file:
            found = []
            for k in numbers:
                file.seek(start + int(k) * d * dtype.itemsize)
                found.append(np.fromfile(file, dtype, d))
        return np.stack(found).reshape(-1, *(shape[1:] or (1,))) if found else np.empty((0, d), dtype)

    return Stream(str(path), batches, shape[0], rows=rows)
