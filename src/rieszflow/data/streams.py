"""Points in batches, from anything that holds points: arrays, files, tables, loaders and iterators."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.notices import notice
from rieszflow._types import Points, PointSource, Progress, ProgressCallback
from rieszflow.data.batches import Source, batch_points, is_frame, open_npy, repeated_passes, rows_per_batch
from rieszflow.data.files import read_points
from rieszflow.data.images import is_image_folder
from rieszflow.data.options import TableOptions, column_difference
from rieszflow.data.paths import PARQUET, TEXT, is_table, quoted, suffix
from rieszflow.data.points import as_points, conversion_hint, imported, is_array
from rieszflow.errors import DatasetError, InputError, InputTypeError

__all__ = ["Stream", "common_columns", "stream"]


class Stream:
    """Points (n, d) in batches, float32 or float64 and finite; made by `stream`. Iterating is a pass over all points.

    Attributes:
        name: Name of the source, for messages.
        first: The first batch (m, d).
        d: Dimension; points with several axes are flattened.
        n: Number of points, or None if only a pass can tell.
        names: Names of the d columns, or None.
        is_table: True if columns can be chosen by name.
        skipped: Columns of a table that are not read, with the reason; without those that were not requested.
        once: True if the points can be read only once.
        common_unit: True if all columns have one unit, as those of images and cells do.
        progress: Callback for every batch of every pass, or None; see `stream`.
    """

    def __init__(self, source: Source, first: Tensor | None = None) -> None:
        self._source = source
        self.name, self.n, self.names = source.name, source.n, source.names
        self.skipped, self.is_table, self.once = dict(source.skipped), source.is_table, source.once
        self._shape: tuple[int, ...] | None = None  # of a point before it is flattened
        self.progress: ProgressCallback | None = None
        if first is None:
            first = next(iter(self), None)
        if first is None:
            raise InputError(f"{self.name}: no points in it; at least one is needed")
        self.first, self.d = first, first.shape[1]
        self.common_unit = len(self._shape or ()) > 1

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for number, batch in enumerate(self._source.batches()):
            name = f"{self.name}, batch {number}"
            points = batch_points(batch, name)
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
            raise InputError(
                f"{self.name}: must have the same points in every pass, got {done} after {self.n}; give a source that can be "
                "read more than once, and a file that does not change"
            )
        self.n = done

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return points (len(indices), d) by their indices; if that is expensive, points of the first batch instead."""
        if self._source.rows is None:
            first: np.ndarray = self.first.cpu().numpy()[indices % len(self.first)]
            return first
        found = batch_points(self._source.rows(indices), f"{self.name}, some rows")
        flat: np.ndarray = found.reshape(len(found), -1).cpu().numpy()
        return flat

    def count(self) -> int:
        """Return the number of points, after a pass if it is unknown."""
        if self.n is None:
            self.n = sum(len(batch) for batch in self)
        return self.n

    def align_columns(self, names: list[str] | None, whose: str, skipped: Mapping[str, str] = MappingProxyType({})) -> Stream:
        """Return the same points with their columns in the order of another cloud.

        Clouds without names are matched by position, with a notice if only one of the two has names.

        Args:
            names: Names of the other cloud's columns, or None.
            whose: Name of the other cloud, for messages.
            skipped: Columns that the other cloud has, but not as numbers, with the reason.

        Raises:
            InputError: The two clouds have different columns.
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
        if column := next((c for c in names if c in self.skipped), None):
            difference = f"column {column!r} must hold numbers as in {whose}, got {self.skipped[column]}"
        elif column := next((c for c in self.names if c in skipped), None):
            difference = f"column {column!r} holds numbers, but not in {whose} ({skipped[column]})"
        raise InputError(f"{self.name}: {difference}; columns are matched by name: choose those to compare")

    def split_labels(self, column: str) -> tuple[Stream, list[object]]:
        """Return the points without one column of their table, and that column as labels, None if one is missing.

        In a CSV file labels are the text of the cells, elsewhere the values of the column. If `missing` was given, rows
        without a label are skipped.

        Raises:
            InputError, DatasetError: The points are not a table, or the table lacks that column.
        """
        if self._source.split_labels is None:
            raise InputError(
                f"`groups` must be a list with a label for every point, since x is not a table, got the name {column!r}"
            )
        source, labels = self._source.split_labels(column)
        found = Stream(source)
        found.progress = self.progress
        return found, labels()

    def scaled(self, spreads: Sequence[float] | np.ndarray | None) -> Stream:
        """Return the same points in float64 with every column divided by its spread (d,); unchanged if `spreads` is None."""
        if spreads is None:
            return self
        divisor = torch.as_tensor(spreads, dtype=torch.float64, device="cpu")
        return self._map(lambda x: x.double() / divisor.to(x.device), self.names)

    def _select(self, names: list[str]) -> Stream:
        """Return the same points with these columns, in this order."""
        places = {name: k for k, name in enumerate(self.names or [])}
        order = [places[name] for name in names]
        return self._map(lambda x: x[:, order], names)

    def _map(self, function: Callable[[Tensor], Tensor], names: list[str] | None) -> Stream:
        """Return the stream of `function(batch)`."""
        rows = None if self._source.rows is None else lambda indices: function(torch.from_numpy(self.rows(indices)))
        source = replace(self._source, batches=lambda: map(function, self), n=self.n, names=names, rows=rows, split_labels=None)
        return Stream(source, function(self.first))


def common_columns(x: Stream, y: Stream) -> tuple[Stream, Stream]:
    """Return two streams with the columns that both have, in the order of the first; a notice names the others.

    Raises:
        InputError: A stream has no names, or no name is common to both.
    """
    for cloud in (x, y):
        if cloud.names is None:
            raise InputError(f"{cloud.name}: must have column names to find the common ones, got points without names")
    names = [name for name in x.names or () if name in set(y.names or ())]
    if not names:
        raise InputError(f"{y.name}: no column in common with {x.name}: {quoted(y.names or [])} and {quoted(x.names or [])}")
    for cloud in (x, y):
        if rest := [name for name in cloud.names or () if name not in set(names)]:
            notice(f"{cloud.name}: skipped {quoted(rest)}: not in the other table")
    return x._select(names), y._select(names)


def stream(
    source: PointSource,
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
    """Return the points of any source as a `Stream`.

    Accepted sources, and what a point of each is:

    - a tensor or array (n, …): n points, flattened; (n,) holds n points of dimension 1;
    - a file: .npy (read in pieces), .npz, .csv, .tsv (also .gz), .parquet; a folder of such tables with equal columns, or of
      images; a list of table files. A row of a table is a point;
    - a data frame of pandas, polars, Arrow, or any other library that exports Arrow streams;
    - a DataLoader or list of batches, or an iterator of batches, which can be read once. A batch has shape (m, d) or
      (m, C, H, W). In a batch that is a tuple or list, such as (points, labels), the first entry is read, with a notice; in a
      dict the only entry, or the one called "x", "image", "images", "pixel_values" or "data".

    A batch (m,) could hold m points or one, and is refused, as is a list of single points: stack them. Integers of up to
    16 bits, booleans and half precision become float32, longer integers float64. Images have values in [0, 1].

    Tables are matched with other tables by the names of their columns. Columns without numbers are skipped, and a notice names
    them with the reason. A column with numbers and other text is an error.

    Args:
        source: See above.
        progress: Callback for every batch of every pass, with the number of points read in this pass and the total, or None.
            With `ParticleFlow(stream("huge.npy", progress=bar))` it shows the progress of a long step.
        columns: Columns of a table to read, in this order; None for all that hold numbers.
        exclude: Columns to skip.
        header: True if the first row of a CSV file has the names; "auto": if that row does not consist of numbers.
        delimiter: Separator of the cells of a CSV file; None for a comma, or a tab in .tsv files.
        decimal: Decimal separator in text, "." or ",".
        thousands: Separator of thousands in text.
        missing: Texts that mark a missing value, in addition to empty cells and nulls; rows with one are then skipped, and a
            notice counts them. None: a missing value is an error.
        dates: Read dates, times and durations as seconds (dates since 1970).
        encoding: Encoding of CSV files.

    Raises:
        InputError, InputTypeError, DatasetError: No points, a wrong type or dtype, NaN, infinity or missing values, batches of
            different dimension, or a file that is missing or damaged.
        MissingPackageError: A table without pyarrow.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    options = TableOptions(columns, exclude, header, delimiter, decimal, thousands, missing, dates, encoding)
    if isinstance(source, Stream):
        found = source
    elif is_frame(source):
        found = _table(type(source).__name__, source, options)
    elif isinstance(source, (str, os.PathLike)):
        found = _file(Path(source), options)
    elif isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source):
        paths = [Path(s) for s in source]
        if other := next((path for path in paths if not is_table(path) or path.is_dir()), None):
            raise DatasetError(f"{other}: a list of files must hold tables ({', '.join((*TEXT, *PARQUET))})")
        found = _table(f"{paths[0]}, …", paths, options)
    else:
        found = _batches(source)
    if options != TableOptions() and not found.is_table:
        raise InputError(f"{found.name}: must be a table for the options columns, header, …")
    found.progress = progress or found.progress
    return found


def _table(name: str, source: PointSource, options: TableOptions) -> Stream:
    with extra("tables", name):
        from rieszflow.data.tables import open_table
    return Stream(open_table(name, source, options))


def _file(path: Path, options: TableOptions) -> Stream:
    if suffix(path) == ".npy" and path.is_file():
        content = open_npy(path)
        return _array(str(path), content) if isinstance(content, np.ndarray) else Stream(content)
    folder_of_tables = path.is_dir() and not is_image_folder(path) and any(map(is_table, path.rglob("*")))
    if folder_of_tables or is_table(path):
        return _table(str(path), path, options)
    if path.is_file() and suffix(path) != ".npz":
        raise DatasetError(f"{path}: must be {', '.join((*TEXT, *PARQUET))}, .npy, .npz or a folder, got another format")
    return _array(str(path), read_points(path))


def _batches(source: PointSource) -> Stream:
    kind = type(source)
    if is_array(source):
        array = imported(source, "source")
        if array.ndim == 0:
            raise InputError("`source` must hold points of shape (n, d), got a single number")
        return _array("points", array)
    if isinstance(source, torch.utils.data.Dataset):
        raise InputTypeError(f"`source` must give batches, got {kind.__name__}; put it into a torch.utils.data.DataLoader")
    if isinstance(source, Mapping):
        raise InputTypeError("`source` must be an array, a table, or batches of points, got a mapping")
    if hasattr(kind, "__array__") or hasattr(kind, "shape"):
        as_points(source, "source")  # raises: a pass over its rows would lose its shape
    if isinstance(source, Iterable):
        once = isinstance(source, Iterator)
        return Stream(Source("iterator" if once else kind.__name__, repeated_passes(source), once=once))
    accepted = "a tensor, array, file, table, or batches"
    raise InputTypeError(f"`source` must be {accepted}, got {kind.__name__}{conversion_hint(source)}")


def _array(name: str, array: Points) -> Stream:
    if isinstance(array, Tensor) and (array.is_nested or array.layout != torch.strided):
        as_points(array, name)  # raises
    if isinstance(array, np.matrix):
        array = np.asarray(array)  # a row of a matrix would be a matrix again
    if len(array) == 0:
        raise InputError(f"{name}: must have at least one point, got shape {tuple(array.shape)}")
    column = array[:, None] if array.ndim == 1 else array
    step = rows_per_batch(math.prod(array.shape[1:]))
    batches = lambda: (column[k : k + step] for k in range(0, len(array), step))  # noqa: E731
    return Stream(Source(name, batches, len(array), rows=lambda indices: column[indices]))
