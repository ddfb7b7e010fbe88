"""Sources of points in batches: loaders, lists, iterators and .npy files, and the conversion of a batch to a tensor."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy

from rieszflow._infra.notices import notice
from rieszflow._types import PointSource
from rieszflow.data.paths import quoted
from rieszflow.data.points import as_points
from rieszflow.errors import DatasetError, InputError, InputTypeError

BATCH_ROWS = 1 << 16
BATCH_NUMBERS = 1 << 24  # at most
_ENTRIES = ("x", "image", "images", "pixel_values", "data")


@dataclass(frozen=True)
class Source:
    """Where a `Stream` gets its points from.

    Attributes:
        name: Name for messages.
        batches: Starts a pass over all points.
        n: Number of points, or None if only a pass can tell.
        names: Names of the d columns, or None.
        rows: Reads points by their indices, or None if that is expensive.
        skipped: Columns of a table that are not read, with the reason.
        is_table: True if columns can be chosen by name.
        once: True for an iterator, which can be read only once.
        split_labels: Given the name of a column, returns the table without it, and a function that reads it as labels.
    """

    name: str
    batches: Callable[[], Iterable[object]]
    n: int | None = None
    names: list[str] | None = None
    rows: Callable[[np.ndarray], object] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    is_table: bool = False
    once: bool = False
    split_labels: Callable[[str], tuple[Source, Callable[[], list[object]]]] | None = None


def rows_per_batch(d: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_NUMBERS // max(1, d)))


def is_frame(source: PointSource) -> bool:
    """Return True for a table in memory: of pandas, polars, Arrow, …

    An xarray array is not one: it exports itself to Arrow, but with one row per number, which loses its shape.
    """
    exports = hasattr(source, "__arrow_c_stream__") or hasattr(source, "__dataframe__")
    return exports and not hasattr(type(source), "dims")


def repeated_passes(source: Iterable[object]) -> Callable[[], Iterable[object]]:
    """Return a function that starts passes over batches. The first pass stops after a batch, and the second continues it."""
    started: list[Iterator[object]] = []
    seen: list[object] = []

    def first_pass(iterator: Iterator[object]) -> Iterator[object]:
        for batch in iterator:
            seen.append(batch)
            yield batch

    def batches() -> Iterable[object]:
        if not started:
            started.append(iter(source))
            return first_pass(started[0])
        if seen:
            first = list(seen)
            seen.clear()
            return itertools.chain(first, started[0])
        if isinstance(source, Iterator):
            raise InputError("`source` must be a list, a DataLoader or a file to be read more than once, got an iterator")
        return source

    return batches


def batch_points(batch: object, name: str) -> Tensor:
    """Convert a batch to a float32 or float64 tensor (m, …), images with the channels first."""
    points = as_points(_points_entry(batch, name), name)
    if points.ndim < 2:
        raise InputError(f"{name}: must have shape (m, d), got {tuple(points.shape)}, which can be one point or many")
    if isinstance(points, Tensor):
        return points
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about read-only memory, which is never written to
        return from_numpy(points.copy() if any(step < 0 for step in points.strides) else np.ascontiguousarray(points))


def _points_entry(batch: object, name: str) -> object:
    """Return the points of a batch, without labels and other entries."""
    source = name.partition(", batch")[0]
    if isinstance(batch, Mapping):
        known = [key for key in _ENTRIES if key in batch]
        if len(batch) != 1 and len(known) != 1:
            raise InputTypeError(
                f"{name}: a mapping must have one key, or one of {quoted(_ENTRIES)}, got {quoted([str(key) for key in batch])}"
            )
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


def open_npy(path: Path) -> Source | np.ndarray:
    """Return the points of a .npy file in batches, or the mapped array if its rows are not contiguous.

    The file is read instead of mapped, because mapping needs as much address space as the file is long.

    Raises:
        DatasetError: The file is damaged or truncated, or does not hold numbers.
    """
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
        mapped: np.ndarray = np.load(path, mmap_mode="r")
        return mapped

    def read(blocks: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Yield blocks of rows, each given by its first row and its length."""
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

    return Source(str(path), lambda: read(blocks), shape[0], rows=rows)
