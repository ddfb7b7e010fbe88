"""`stream`: points in batches from arrays, files, tables, data loaders and iterators."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._types import Points, PointSource, ProgressCallback
from rieszflow.data.files import is_image_folder, read_points
from rieszflow.data.paths import SQL, is_table, suffix
from rieszflow.data.points import as_points, conversion_hint, imported, is_array, is_frame
from rieszflow.data.streams import Stream, rows_per_batch
from rieszflow.errors import DatasetError, InputError, InputTypeError

if TYPE_CHECKING:
    from rieszflow.data.tables import Table


def stream(
    source: PointSource,
    *,
    progress: ProgressCallback | None = None,
    **reading: Any,
) -> Stream:
    """Return the points of any source as a `Stream`.

    Accepted sources:

    - a tensor or array (n, …): n points, flattened; (n,) holds n points of dimension 1;
    - a .npy file (read in pieces) or .npz file; a folder of images;
    - a `Table`, or anything that it is made of: a table file, a folder of them, a query, a data frame. A row is a point. Its
      numbers are read, in their units; functions that compare points read all columns (see `TableEncoding`);
    - a DataLoader or list of batches, or an iterator of batches, which can be read once. A batch has shape (m, d) or
      (m, C, H, W). In a batch that is a tuple or list, such as (points, labels), the first entry is read, with a notice; in a
      dict the only entry, or the one called "x", "image", "images", "pixel_values" or "data".

    Batches (m,) and lists of single points are ambiguous and refused: stack them. Integers of up to 16 bits, booleans and half
    precision become float32, longer integers float64. Images have values in [0, 1].

    Args:
        source: See above.
        progress: Callback for every batch of every pass, with the number of points read in this pass and the total, or None.
        reading: Arguments of `Table`, for a table.

    Raises:
        InputError, InputTypeError, DatasetError: No points, a wrong type or dtype, NaN, infinity or missing values, batches of
            different dimension, or a file that is missing or damaged.
        MissingPackageError: A table without duckdb or pyarrow.

    Example:
        >>> import torch
        >>> [tuple(batch.shape) for batch in stream([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])]
        [(3, 4), (1, 4)]
    """
    table = open_table(source, **reading)
    if table is not None:
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
    table = open_table(source, **reading)
    return stream(source, **reading) if table is None else table


def open_table(source: PointSource, **reading: Any) -> Table | None:
    """Return a source as a `Table` if it is one: a frame, a query, table files; None for arrays, images and batches."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        folder = path.is_dir() and not is_image_folder(path) and any(map(is_table, path.rglob("*")))
        is_one = folder or is_table(path) or (isinstance(source, str) and SQL.match(source) is not None)
    else:
        is_one = is_frame(source) or (isinstance(source, (list, tuple)) and bool(source) and all(
            isinstance(s, (str, os.PathLike)) for s in source
        ))  # fmt: skip
    if not is_one and type(source).__name__ != "Table":
        return None
    with extra("tables", type(source).__name__ if is_frame(source) else str(source)):
        from rieszflow.data.tables import Table
    if isinstance(source, Table):
        if reading:
            raise InputError(f"`source` must be opened with the options {', '.join(reading)}, got a Table")
        return source
    return Table(source, **reading) if is_one else None


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
        return Stream("iterator" if once else kind.__name__, _repeated_passes(source), once=once)
    accepted = "a tensor, array, file, table, or batches"
    raise InputTypeError(f"`source` must be {accepted}, got {kind.__name__}{conversion_hint(source)}")


def _array(name: str, array: Points) -> Stream:
    """Return the points of an array in memory, or mapped into it."""
    if isinstance(array, Tensor) and (array.is_nested or array.layout != torch.strided):
        as_points(array, name)  # raises
    if isinstance(array, np.matrix):
        array = np.asarray(array)  # a row of a matrix would be a matrix again
    if len(array) == 0:
        raise InputError(f"{name}: must have at least one point, got shape {tuple(array.shape)}")
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
    if dtype.hasobject or dtype.kind not in "fiub":
        raise DatasetError(f"{path}: must hold real numbers, got dtype {dtype}")
    if not shape or 0 in shape:
        raise DatasetError(f"{path}: must hold points of shape (n, d), got shape {shape}")
    point_shape = shape[1:] or (1,)
    d = math.prod(point_shape)
    expected, found = shape[0] * d * dtype.itemsize, path.stat().st_size - start
    if found != expected:
        problem = "truncated" if found < expected else "more than one array"
        raise DatasetError(f"{path}: {problem}: {found} bytes of data, the header states {expected}")
    if by_columns and len(shape) > 1:
        return _array(str(path), np.load(path, mmap_mode="r"))

    def read(blocks: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Yield blocks of rows, each given by its first row and its length; mapping would need address space for all."""
        with open(path, "rb") as file:
            for first, length in blocks:
                file.seek(start + first * d * dtype.itemsize)
                content = np.fromfile(file, dtype, length * d)
                if content.size < length * d:
                    raise DatasetError(f"{path}: has become shorter while being read")
                yield content.reshape(length, *point_shape)

    step = rows_per_batch(d)
    blocks = [(k, min(step, shape[0] - k)) for k in range(0, shape[0], step)]

    def rows(indices: np.ndarray) -> np.ndarray:
        return np.concatenate([np.empty((0, *point_shape), dtype), *read([(int(k), 1) for k in indices])])

    return Stream(str(path), lambda: read(blocks), shape[0], rows=rows)


def _repeated_passes(source: Iterable[object]) -> Callable[[], Iterable[object]]:
    """Return a function that starts passes; an iterator allows the two that a stream makes, for its first batch and for all."""
    iterators = list(itertools.tee(iter(source)))

    def batches() -> Iterable[object]:
        if iterators:
            return iterators.pop()
        if isinstance(source, Iterator):
            raise InputError("`source` must be a list, a DataLoader or a file to be read more than once, got an iterator")
        return source

    return batches
