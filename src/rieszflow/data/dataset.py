"""A data set in memory: training and held-out data, and the unit that networks see them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow.data.points import as_points, in_unit
from rieszflow.data.spreads import Columns, float32_holds
from rieszflow.errors import DatasetError

__all__ = ["Dataset", "Parts", "from_arrays", "scaled", "split", "unscaled"]


@dataclass
class Dataset:
    """Training and held-out data.

    Attributes:
        name: what `load` was asked for; "tensor" for data given in Python.
        train: (n, C, H, W) or (n, d), float32.
        held_out: like `train`, never trained on.
        train_labels, held_out_labels: (n,) int64, or None where the data have none.
        low, high: the values of images that were mapped to 0 and 1; `unscale` maps back. 0 and 1 for vectors.
        path: the `path` that `load` was given.
        columns: the scaling of the columns of vectors; None for images, which have one unit.
        train_condition, held_out_condition: (n, k) float64, numbers to condition a model on, in their own units;
            None where there are none.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    path: str | None = None
    columns: Columns | None = None
    train_condition: Tensor | None = None
    held_out_condition: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum: (C, H, W) or (d,)."""
        return tuple(self.train.shape[1:])

    def unscale(self, x: Tensor) -> Tensor:
        """Return points in the data's own units; see `unscaled`."""
        return unscaled(x, self.low, self.high, self.columns)

    def scale(self, x: Tensor) -> Tensor:
        """Return points in the units of the training; see `scaled`."""
        return scaled(x, self.low, self.high, self.columns)


def unscaled(x: Tensor, low: float, high: float, columns: Columns | None = None) -> Tensor:
    """Return scaled points in the data's own units: x·(high − low) + low for images, by `columns` for vectors.

    Returns:
        Like x; float64 where float32 would lose more than 1e-4 of the spread of a column, or could not hold it at all.
    """
    if columns is not None:
        return columns.unscaled(x)
    return (x if float32_holds(low, high) else x.double()) * (high - low) + low


def scaled(x: Tensor, low: float, high: float, columns: Columns | None = None) -> Tensor:
    """Return points scaled to the units of the training, always in float32; the inverse of `unscaled`."""
    if columns is not None:
        return columns.scaled(x)
    return (((x if float32_holds(low, high) else x.double()) - low) / (high - low)).float()


def from_arrays(
    name: str,
    train: np.ndarray,
    test: np.ndarray | None = None,
    held_out: float = 0.15,
    seed: int = 0,
    condition: np.ndarray | None = None,
    held_out_condition: np.ndarray | None = None,
) -> Dataset:
    """A `Dataset` of arrays that `as_points` takes; without a test part, a share `held_out` is kept back.

    Conditions are labels (n,) or numbers (n, k) beside the data.
    """
    arrays = [None if x is None else as_points(x, name) for x in (train, test)]
    assert arrays[0] is not None
    parts = Parts(arrays[0], test=arrays[1])
    if condition is not None and condition.ndim == 1:
        parts.labels, parts.test_labels = condition, held_out_condition
    else:
        parts.condition, parts.test_condition = condition, held_out_condition
    return split(name, parts, held_out, seed)


@dataclass
class Parts:
    """What a reader returns: arrays (n, …) of any real dtype, channels first; the test part only where the data set has one."""

    train: np.ndarray
    labels: np.ndarray | None = None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    condition: np.ndarray | None = None
    test_condition: np.ndarray | None = None


def split(name: str, parts: Parts, held_out: float, seed: int) -> Dataset:
    _check_values(name, parts.train)
    if parts.test is None:
        n = len(parts.train)
        if n < 4:
            raise DatasetError(f"{name}: {n} data given; at least 4 are needed")
        order = np.random.default_rng(seed).permutation(n)
        cut = min(n - 2, max(2, round(n * held_out)))
        take = (order[cut:], order[:cut])
        arrays = [parts.train[i] for i in take]
        labels = [None if parts.labels is None else parts.labels[i] for i in take]
        conditions = [None if parts.condition is None else parts.condition[i] for i in take]
    else:
        _check_values(name, parts.test)
        arrays, labels = [parts.train, parts.test], [parts.labels, parts.test_labels]
        conditions = [parts.condition, parts.test_condition]
    # Converted after the split: as floats, pictures of bytes need four times the room.
    arrays = [in_unit(a, name) for a in arrays]
    if arrays[0].min() == arrays[0].max():
        raise DatasetError(f"{name}: all values are {arrays[0].min():g}; there is nothing to learn")
    low, high = _image_unit(arrays[0]) if arrays[0].ndim == 4 else (0.0, 1.0)
    columns = Columns.fit(arrays[0]) if arrays[0].ndim == 2 else None
    tensors = [scaled(torch.from_numpy(np.ascontiguousarray(a)), low, high, columns) for a in arrays]
    if not torch.isfinite(tensors[1]).all():
        raise DatasetError(f"{name}: held-out values lie too far beyond those for training to be held in float32")
    targets = [None if v is None else torch.from_numpy(np.asarray(v, dtype=np.int64)) for v in labels]
    numbers = [None if v is None else torch.from_numpy(np.asarray(v, dtype=np.float64)) for v in conditions]
    found = Dataset(name, tensors[0], tensors[1], targets[0], targets[1], low, high, columns=columns)
    found.train_condition, found.held_out_condition = numbers
    return found


def _image_unit(x: np.ndarray) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1 and high - low > 1e-3:  # in [0, 1] already; less than this would be lost in it
        return 0.0, 1.0
    return low, high


def _check_values(name: str, values: np.ndarray) -> None:
    if values.ndim not in (2, 4) or 0 in values.shape:
        raise DatasetError(f"{name}: shape {values.shape} given; (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C) is accepted")
    if values.dtype.kind != "f":
        return
    if not np.isfinite(values).all():
        raise DatasetError(f"{name}: contains NaN or infinity; drop or fill such rows first")
    if max(-float(values.min()), float(values.max())) > 2.0**1022:
        raise DatasetError(f"{name}: numbers beyond 4e307 given, whose differences float64 cannot hold; divide them first")
