"""Points that come in batches, because they are too many to be held: files, tables, loaders, iterators."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._notices import notice
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import as_points, has_pictures, read_all
from rieszflow.errors import DatasetError, InputError, InputTypeError
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
        self._shape: tuple[int, ...] | None = None  # of a point, before it is flattened
        self.progress: ProgressCallback | None = None
        first = next(iter(self), None)
        if first is None:
            raise InputError(f"{name}: no points in it; at least one is needed")
        self.first, self.d = first, first.shape[1]

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for number, batch in enumerate(self._batches()):
            points = _numbers(batch, f"{self.name}, batch {number}")
            if not len(points):
                continue
            self._alike(tuple(points.shape[1:]), number)
            flat = _validate.points(f"{self.name}, batch {number}", points.reshape(len(points), -1))
            yield flat
            done += len(flat)
            if self.progress is not None:
                self.progress(Progress("points", done, self.n))
        if self.n not in (None, done):
            raise InputError(
                f"{self.name}: {done} points in this pass, {self.n} expected; give something that can be passed over again, "
                "or a file that nobody changes"
            )
        self.n = done

    def _alike(self, shape: tuple[int, ...], number: int) -> None:
        """Refuses points of another shape than the earlier ones."""
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            given, earlier = (f"dimension {s[0]}" if len(s) == 1 else f"shape {s}" for s in (shape, self._shape))
            earlier = earlier.removeprefix("dimension ")
            raise InputError(f"{self.name}, batch {number}: points of {given} given, earlier ones have {earlier}")

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Points by their numbers, from anywhere where that is cheap, else of the first batch: a sample is meant."""
        if self._rows is None:
            return self.first.cpu().numpy()[numbers % len(self.first)]
        found = _numbers(self._rows(numbers), f"{self.name}, some rows")
        return found.reshape(len(found), -1).cpu().numpy()

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
            raise InputError(
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
        places = {name: k for k, name in enumerate(self.names or [])}
        order = [places[name] for name in names]
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
            raise InputError(f"common: {cloud.name} has no names of columns; they are needed on both sides")
    names = [name for name in x.names or () if name in set(y.names or ())]
    if not names:
        raise InputError(f"common: {x.name} has {named(x.names or [])}, {y.name} {named(y.names or [])}: no column in common")
    for cloud in (x, y):
        if rest := [name for name in cloud.names or () if name not in set(names)]:
            notice(f"{cloud.name}: left out {named(rest)}: not in the other table")
    return x._chosen(names), y._chosen(names)


def stream(
    source: Any,
    progress: ProgressCallback | None = None,
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
      pictures; a list of tables' files. A row of a table is a point;
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
    elif isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source):
        found = _table(open_table([_a_table(Path(s)) for s in source], reading))
    else:
        found = _batches(source)
    if reading != Reading() and not found.is_table:
        raise InputError(f"{found.name}: options for tables are given (columns, header, …), and this is none")
    found.progress = progress or found.progress
    return found


def _batches(source: Any) -> Stream:
    if isinstance(source, (Tensor, np.ndarray)):
        if source.ndim == 0:
            raise InputError("source: a single number given; points (n, d) are accepted")
        return _array("points", source)
    if isinstance(source, torch.utils.data.Dataset):
        raise InputTypeError(f"source: {type(source).__name__} gives single points; put it into a torch.utils.data.DataLoader")
    if isinstance(source, Mapping):
        raise InputTypeError("source: a mapping given; give one array, a table, or batches of points")
    if isinstance(source, Iterable):
        return Stream("iterator" if isinstance(source, Iterator) else type(source).__name__, _passes(source))
    raise InputTypeError(f"source: {type(source).__name__} given; a tensor, array, file, table, or batches are accepted")


def _passes(source: Iterable[Any]) -> Callable[[], Iterable[Any]]:
    """Passes over batches. The first one is for a look at the first batch, and the second goes on from there."""
    begun: list[Iterator[Any]] = []
    seen: list[Any] = []

    def look(passing: Iterator[Any]) -> Iterator[Any]:
        for batch in passing:
            seen.append(batch)
            yield batch

    def batches() -> Iterable[Any]:
        if not begun:
            begun.append(iter(source))
            return look(begun[0])
        if seen:
            first = list(seen)
            seen.clear()
            return itertools.chain(first, begun[0])
        if isinstance(source, Iterator):
            raise InputError("iterator: can be passed over once; give a list, a DataLoader or a file for more")
        return source

    return batches


def _numbers(batch: Any, name: str) -> Tensor:
    """A batch as a tensor (m, …) of float32 or float64, pictures with their channels first."""
    batch = as_points(_entry(batch, name), name)
    if batch.ndim < 2:
        raise InputError(
            f"{name}: shape {tuple(batch.shape)} given, which can be one point or many; batches (m, d) are accepted"
        )
    if isinstance(batch, Tensor):
        return batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory that cannot be written: nobody here writes to points
        batch = batch.copy() if any(step < 0 for step in batch.strides) else np.ascontiguousarray(batch)
        return torch.from_numpy(batch)


_ENTRIES = ("x", "image", "images", "pixel_values", "data")


def _entry(batch: Any, name: str) -> Any:
    """The points of a batch that holds more than points."""
    if isinstance(batch, Mapping):
        known = [key for key in _ENTRIES if key in batch]
        if len(batch) != 1 and len(known) != 1:
            raise InputTypeError(
                f"{name}: a mapping with the keys {named([str(key) for key in batch])} given; one key, or one of "
                f"{named(_ENTRIES)} beside others, is accepted"
            )
        key = known[0] if known else next(iter(batch))
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch the entry {key!r} counts, the others are left out")
        return batch[key]
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise InputTypeError(f"{name}: an empty {type(batch).__name__} given; a tensor or array (m, ...) is accepted")
        if any(getattr(entry, "ndim", 0) == 0 for entry in batch):
            raise InputTypeError(
                f"{name}: a single point, or plain numbers, given; batches that are tensors or arrays (m, d) are accepted"
            )
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch, {len(batch)} entries, the first one counts")
        return batch[0]
    return batch


def _array(name: str, array: Any) -> Stream:
    if isinstance(array, Tensor) and (array.is_nested or array.layout != torch.strided):
        as_points(array, name)  # says what is accepted
    if isinstance(array, np.matrix):
        array = np.asarray(array)  # a row of a matrix is a matrix again
    if len(array) == 0:
        raise InputError(f"{name}: shape {tuple(array.shape)} is empty; at least one point is needed")
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


def _a_table(path: Path) -> Path:
    if not is_table(path) or path.is_dir():
        raise DatasetError(f"{path}: given in a list of files; tables are accepted there ({', '.join((*TEXT, *PARQUET))})")
    return path


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
    if there != needed:
        what = "truncated" if there < needed else "more in it than one array"
        raise DatasetError(f"{path}: {what}: {there} bytes of data, the header promises {needed}")
    if by_columns and len(shape) > 1:
        return _array(str(path), np.load(path, mmap_mode="r"))  # a row's numbers lie far apart in the file
    step = _rows(d)

    def batches() -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            file.seek(start)
            for k in range(0, shape[0], step):
                m = min(step, shape[0] - k)
                content = np.fromfile(file, dtype, m * d)
                if content.size < m * d:
                    raise DatasetError(f"{path}: has become shorter while it was read")
                yield content.reshape(m, *(shape[1:] or (1,)))

    def rows(numbers: np.ndarray) -> np.ndarray:
        with open(path, "rb") as file:
            found = []
            for k in numbers:
                file.seek(start + int(k) * d * dtype.itemsize)
                found.append(np.fromfile(file, dtype, d))
        return np.stack(found).reshape(-1, *(shape[1:] or (1,))) if found else np.empty((0, d), dtype)

    return Stream(str(path), batches, shape[0], rows=rows)
