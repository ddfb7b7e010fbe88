"""Points that come in batches, because they are too many to be held: files, tables, loaders, iterators."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rieszflow import _validate
from rieszflow.data import DatasetError, read_all

__all__ = ["Stream", "stream"]

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
        progress: called during every pass, or None; see `stream`.
    """

    def __init__(
        self,
        name: str,
        batches: Callable[[], Iterable[Any]],
        n: int | None = None,
        names: list[str] | None = None,
        rows: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.name, self._batches, self.n, self.names, self._rows = name, batches, n, names, rows
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


def stream(source: Any, progress: Callable[[int, int | None], Any] | None = None) -> Stream:
    """Whatever holds points, as a `Stream`.

    Args:
        source: a tensor or array (n, ...); a file: .npy (read in pieces), .npz, .csv, .parquet; a folder of Parquet files,
            or of images; a DataLoader or list of batches; an iterator of batches, which can be passed over once. Of a batch
            that is a tuple, list or dict the first entry counts. Whole numbers and half precision become float32. Of tables the
            numeric columns count, lists of fixed size included.
        progress: called after every batch that was dealt with, in every pass, with the points passed over in this pass and
            how many there are, or None. So `ParticleFlow(stream("huge.npy", progress=bar))` shows where a long step is.

    Raises:
        TypeError, ValueError, OSError: no points in it, a wrong kind or dtype, NaN, infinity or missing values, batches of
        different dimension, a damaged file. ImportError: a table without pyarrow.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    found = source if isinstance(source, Stream) else _open(source)
    found.progress = progress or found.progress
    return found


def _open(source: Any) -> Stream:
    if isinstance(source, (str, os.PathLike)):
        return _file(Path(source))
    if isinstance(source, (Tensor, np.ndarray)):
        if source.ndim == 0:
            raise ValueError("source: a single number given; points (n, d) are accepted")
        return _array("points", source)
    if isinstance(source, Iterator):
        return Stream("iterator", _once(source))
    if isinstance(source, Iterable):
        return Stream(type(source).__name__, lambda: source)
    raise TypeError(f"source: {type(source).__name__} given; a tensor, array, file, or batches are accepted")


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


def _points(batch: Any, name: str) -> Tensor:
    if isinstance(batch, dict):
        batch = next(iter(batch.values()), None)
    elif isinstance(batch, (tuple, list)):
        batch = batch[0] if batch else None
    if isinstance(batch, np.ndarray):
        if batch.dtype.kind not in "fiub":
            raise TypeError(f"{name}: dtype {batch.dtype} given; numbers are accepted")
        if batch.dtype.kind != "f" or batch.dtype.itemsize not in (4, 8):
            batch = batch.astype(np.float32)
    elif isinstance(batch, Tensor):
        batch = batch if batch.dtype in _validate.DTYPES else batch.float()
    else:
        raise TypeError(f"{name}: {type(batch).__name__} given; a tensor or array (m, ...) is accepted")
    return _validate.points(name, batch.reshape(len(batch), -1) if batch.ndim else batch)


def _array(name: str, array: Any) -> Stream:
    step = _rows(array.size // max(1, len(array)) if isinstance(array, np.ndarray) else array[:1].numel())
    return Stream(name, lambda: (array[k : k + step] for k in range(0, len(array), step)), len(array), rows=lambda k: array[k])


def _rows(d: int) -> int:
    return max(1, min(ROWS, _MOST_NUMBERS // max(1, d)))


def _file(path: Path) -> Stream:
    if path.suffix == ".npy" and path.is_file():
        return _npy(path)
    if path.suffix == ".csv" and path.is_file():
        return _csv(path)
    if (path.suffix in (".parquet", ".pq") and path.exists()) or (path.is_dir() and any(path.rglob("*.parquet"))):
        return _parquet(path)
    return _array(str(path), read_all(path))


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
    if by_columns and len(shape) > 1:
        raise DatasetError(f"{path}: stored column by column; save it with numpy.ascontiguousarray first")
    if dtype.hasobject or dtype.kind not in "fiub":
        raise DatasetError(f"{path}: dtype {dtype} given; numbers are accepted")
    if not shape or 0 in shape:
        raise DatasetError(f"{path}: shape {shape} given; points (n, d) are accepted")
    d = int(np.prod(shape[1:], dtype=np.int64))
    needed, there = shape[0] * d * dtype.itemsize, path.stat().st_size - start
    if there < needed:
        raise DatasetError(f"{path}: truncated: {there} bytes of data, the header promises {needed}")
    step = _rows(d)

    def batches() -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            file.seek(start)
            for k in range(0, shape[0], step):
                yield np.fromfile(file, dtype, min(step, shape[0] - k) * d).reshape(-1, d)

    def rows(numbers: np.ndarray) -> np.ndarray:
        with open(path, "rb") as file:
            found = []
            for k in numbers:
                file.seek(start + int(k) * d * dtype.itemsize)
                found.append(np.fromfile(file, dtype, d))
        return np.stack(found) if found else np.empty((0, d), dtype)

    return Stream(str(path), batches, shape[0], rows=rows)


def _arrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.dataset
    except ImportError:
        raise ImportError(f"{path}: tables need the extra: pip install 'rieszflow[tables]'") from None
    return pyarrow


def _parquet(path: Path) -> Stream:
    pa = _arrow(path)
    try:
        table = pa.dataset.dataset(path, format="parquet")
        columns = _numeric(path, table.schema, pa)
        n = table.count_rows()
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet data set, or damaged ({error})") from None

    def batches() -> Iterator[np.ndarray]:
        for batch in table.to_batches(columns=columns, batch_size=_rows(len(columns))):
            if batch.num_rows:
                yield _matrix(path, batch, pa)

    return Stream(str(path), batches, n, _column_names(columns, table.schema, pa))


def _csv(path: Path) -> Stream:
    pa = _arrow(path)

    def batches() -> Iterator[np.ndarray]:
        try:
            reader = pa.csv.open_csv(path)
            columns = _numeric(path, reader.schema, pa)
            for batch in reader:
                if batch.num_rows:
                    yield _matrix(path, batch.select(columns), pa)
        except pa.ArrowInvalid as error:
            raise DatasetError(f"{path}: not a table of comma-separated values, or damaged ({error})") from None

    try:
        with pa.csv.open_csv(path) as reader:
            names = _numeric(path, reader.schema, pa)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: not a table of comma-separated values, or damaged ({error})") from None
    return Stream(str(path), batches, None, names)


def _is_number(kind: Any, pa: Any) -> bool:
    t = pa.types
    return t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)


def _numeric(path: Path, schema: Any, pa: Any) -> list[str]:
    found = [
        field.name
        for field in schema
        if _is_number(field.type, pa) or (pa.types.is_fixed_size_list(field.type) and _is_number(field.type.value_type, pa))
    ]
    if not found:
        raise DatasetError(f"{path}: no numeric columns among {', '.join(schema.names)}")
    return found


def _column_names(columns: list[str], schema: Any, pa: Any) -> list[str]:
    names = []
    for column in columns:
        kind = schema.field(column).type
        one = not pa.types.is_fixed_size_list(kind)
        names += [column] if one else [f"{column}[{k}]" for k in range(kind.list_size)]
    return names


def _matrix(path: Path, batch: Any, pa: Any) -> np.ndarray:
    parts = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        if column.null_count or values.null_count:
            raise DatasetError(f"{path}: column {name!r} has missing values; fill or drop them first")
        part = values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        parts.append(part if part.dtype in (np.float32, np.float64) else part.astype(np.float32))
    dtype = np.result_type(*parts)
    return np.concatenate(parts, 1).astype(dtype, copy=False)
