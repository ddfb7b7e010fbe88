"""NumPy files that may be larger than memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rieszflow.data.batches import Source
from rieszflow.data.parts import rows_at_once
from rieszflow.errors import DatasetError

__all__ = ["open_npy"]


def open_npy(path: Path) -> Source | np.ndarray:
    """The points of a .npy file in batches; the mapped array where its rows do not lie in one piece.

    Read, not mapped: mapping would need as much address space as the file is long.

    Raises:
        DatasetError: damaged, cut short, or not of numbers.
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
        raise DatasetError(f"{path}: dtype {dtype} given; numbers are accepted")
    if not shape or 0 in shape:
        raise DatasetError(f"{path}: shape {shape} given; points (n, d) are accepted")
    d = math.prod(shape[1:])
    needed, there = shape[0] * d * dtype.itemsize, path.stat().st_size - start
    if there != needed:
        what = "truncated" if there < needed else "more in it than one array"
        raise DatasetError(f"{path}: {what}: {there} bytes of data, the header promises {needed}")
    if by_columns and len(shape) > 1:
        mapped: np.ndarray = np.load(path, mmap_mode="r")  # a row's numbers lie far apart in the file
        return mapped
    step = rows_at_once(d)

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

    return Source(str(path), batches, shape[0], rows=rows)
