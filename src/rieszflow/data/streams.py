"""Points that come in batches, because they are too many to be held: files, tables, loaders, iterators."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.notices import notice
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data.batches import Source, batch_points, passes
from rieszflow.data.columns import difference, named
from rieszflow.data.files import read_all
from rieszflow.data.npy import open_npy
from rieszflow.data.options import Reading
from rieszflow.data.parts import rows_at_once
from rieszflow.data.paths import PARQUET, TEXT, is_table, suffix
from rieszflow.data.pictures import has_pictures
from rieszflow.data.points import as_points, conversion, imported, is_array
from rieszflow.data.tables import Table, is_frame, open_frame, open_table, with_labels
from rieszflow.errors import DatasetError, InputError, InputTypeError

__all__ = ["Stream", "common", "stream"]


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
        once: True if it can be read only once.
        common_unit: True if all columns share one unit, as those of images and cells do.
        progress: called during every pass, or None; see `stream`.
    """

    def __init__(self, source: Source, first: Tensor | None = None) -> None:
        self._batches, self._rows = source.batches, source.rows
        self.name, self.n, self.names = source.name, source.n, source.names
        self.left_out, self.is_table, self._table = dict(source.left_out), source.is_table, source.table
        self._shape: tuple[int, ...] | None = None  # of a point, before it is flattened
        self.progress: ProgressCallback | None = None
        if first is None:
            first = next(iter(self), None)
        if first is None:
            raise InputError(f"{self.name}: no points in it; at least one is needed")
        self.first, self.d = first, first.shape[1]
        self.once, self.common_unit = source.once, len(self._shape or ()) > 1

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for number, batch in enumerate(self._batches()):
            points = batch_points(batch, f"{self.name}, batch {number}")
            if not len(points):
                continue
            self._alike(tuple(points.shape[1:]), number)
            flat = validate.points(f"{self.name}, batch {number}", points.reshape(len(points), -1))
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
            first: np.ndarray = self.first.cpu().numpy()[numbers % len(self.first)]
            return first
        found = batch_points(self._rows(numbers), f"{self.name}, some rows")
        flat: np.ndarray = found.reshape(len(found), -1).cpu().numpy()
        return flat

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

    def labelled(self, column: str) -> tuple[Stream, list[Any]]:
        """Return the points without one column of their table, and that column as labels, None where one is missing.

        In a CSV file labels are the text of the cells, elsewhere the values of the column. If `missing` was given, rows
        without a label are left out.

        Raises:
            InputError, DatasetError: the points are not a table, or the table lacks that column.
        """
        if self._table is None:
            raise InputError(
                f"`groups` must be a list with a label for every point, since x is not a table, got the name {column!r}"
            )
        table, labels = with_labels(self._table, column)
        found = _from_table(table)
        found.progress = self.progress
        return found, labels()

    def _chosen(self, names: list[str]) -> Stream:
        """Only these columns, in this order."""
        places = {name: k for k, name in enumerate(self.names or [])}
        order = [places[name] for name in names]
        where = np.array(order)
        rows = None if self._rows is None else lambda numbers: self.rows(numbers)[:, where]
        batches = lambda: (batch[:, order] for batch in self)  # noqa: E731
        return Stream(Source(self.name, batches, self.n, list(names), rows, self.left_out, True), self.first[:, order])

    def scaled(self, spreads: Sequence[float] | np.ndarray | None) -> Stream:
        """Return the same points in float64 with every column divided by its spread (d,); unchanged if `spreads` is None."""
        if spreads is None:
            return self
        divisor = torch.as_tensor(spreads, dtype=torch.float64, device="cpu")
        rows = None if self._rows is None else lambda numbers: self.rows(numbers) / divisor.numpy()
        batches = lambda: (batch.double() / divisor.to(batch.device) for batch in self)  # noqa: E731
        source = Source(self.name, batches, self.n, self.names, rows, self.left_out, self.is_table, self.once)
        return Stream(source, self.first.double() / divisor.to(self.first.device))


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
    *,
    progress: ProgressCallback | None = None,
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
        InputError, InputTypeError, DatasetError: no points in it, a wrong kind or dtype, NaN, infinity or missing values,
            batches of different dimension, a file that is missing or damaged.
        MissingPackageError: a table without pyarrow.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    reading = Reading(columns, exclude, header, delimiter, decimal, thousands, missing, dates, encoding)
    if isinstance(source, Stream):
        found = source
    elif is_frame(source):
        found = _from_table(open_frame(source, reading))
    elif isinstance(source, (str, os.PathLike)):
        found = _file(Path(source), reading)
    elif isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source):
        found = _from_table(open_table([_a_table(Path(s)) for s in source], reading))
    else:
        found = _batches(source)
    if reading != Reading() and not found.is_table:
        raise InputError(f"{found.name}: options for tables are given (columns, header, …), and this is none")
    found.progress = progress or found.progress
    return found


def _batches(source: Any) -> Stream:
    if is_array(source):
        array = imported(source, "source")
        if array.ndim == 0:
            raise InputError("source: a single number given; points (n, d) are accepted")
        return _array("points", array)
    if isinstance(source, torch.utils.data.Dataset):
        raise InputTypeError(f"source: {type(source).__name__} gives single points; put it into a torch.utils.data.DataLoader")
    if isinstance(source, Mapping):
        raise InputTypeError("source: a mapping given; give one array, a table, or batches of points")
    if hasattr(type(source), "__array__") or hasattr(type(source), "shape"):
        as_points(source, "source")  # refuses it: iterating over its rows would lose its shape
    if isinstance(source, Iterable):
        once = isinstance(source, Iterator)
        return Stream(Source("iterator" if once else type(source).__name__, passes(source), once=once))
    raise InputTypeError(
        f"source: {type(source).__name__} given; a tensor, array, file, table, or batches are accepted{conversion(source)}"
    )


def _array(name: str, array: Any) -> Stream:
    if isinstance(array, Tensor) and (array.is_nested or array.layout != torch.strided):
        as_points(array, name)  # says what is accepted
    if isinstance(array, np.matrix):
        array = np.asarray(array)  # a row of a matrix is a matrix again
    if len(array) == 0:
        raise InputError(f"{name}: shape {tuple(array.shape)} is empty; at least one point is needed")
    column = array[:, None] if array.ndim == 1 else array
    step = rows_at_once(math.prod(array.shape[1:]))
    batches = lambda: (column[k : k + step] for k in range(0, len(array), step))  # noqa: E731
    return Stream(Source(name, batches, len(array), rows=lambda k: column[k]))


def _from_table(table: Table) -> Stream:
    source = Source(table.name, table.batches, table.n, table.names, left_out=table.left_out, is_table=True, table=table)
    return Stream(source)


def _file(path: Path, reading: Reading) -> Stream:
    if suffix(path) == ".npy" and path.is_file():
        content = open_npy(path)
        return _array(str(path), content) if isinstance(content, np.ndarray) else Stream(content)
    if is_table(path) or (path.is_dir() and _is_folder_of_tables(path)):
        return _from_table(open_table(path, reading))
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
