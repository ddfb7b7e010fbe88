"""A data set in memory: training and held-out data, scaled to the units of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rieszflow.data.points import MAX_ROUNDING, as_points, to_unit
from rieszflow.errors import DatasetError

_REACH = 4.0  # a column within this many spreads of its median is scaled linearly; a million normal values are


def column_spreads(rows: np.ndarray, deviation: np.ndarray | None = None) -> np.ndarray:
    """Return the interquartile range (d,) of every column of points (m, d), or its standard deviation if that is 0.

    The spread is 1 for constant columns, and if float64 cannot divide by it. If `rows` is a sample, `deviation` has the
    standard deviations of all points.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if deviation is None:
            deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(0), 0)  # rounding may give constants a deviation
        percentile = np.nanpercentile if np.isnan(rows).any() else np.percentile
        spreads = np.diff(percentile(rows, [25, 75], axis=0), axis=0)[0]
    spreads = np.where(spreads > 0, spreads, deviation)
    return np.where((spreads > 2.0**-900) & (spreads < 2.0**1023), spreads, 1.0)


@dataclass(frozen=True)
class ColumnScaler:
    """The scaling of columns for training, which makes them comparable despite different units and tails.

    A value v becomes ½ + w/2 with w = asinh(k z)/k and z = (v − centre)/spread: the median is at 0.5 and the quartiles of a
    symmetric column at 0.25 and 0.75. The tail strength k is 0, so that w = z, unless a value lies more than four spreads
    from the median; then k maps the farthest value to w = ±4, and samples are clipped to that range.

    Attributes:
        centre, spread, tail: Medians, interquartile ranges (standard deviations if these are 0; 0 for constant columns) and
            tail strengths k ≥ 0, each (d,).
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    tail: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray) -> ColumnScaler:
        """Return the scaling for training data (n, d)."""
        x = x.astype(np.float64)
        centre, spread = np.median(x, axis=0), column_spreads(x)
        farthest = np.maximum(x.max(0) - centre, centre - x.min(0)) / spread
        from scipy.optimize import brentq  # takes a quarter of a second, which images do not need

        # asinh(k z)/k = `_REACH` for the farthest z, unless that is within reach.
        equation = lambda k, z: math.asinh(k * z) - _REACH * k  # noqa: E731
        tail = [brentq(equation, 1e-9, 1e3, min(z, 1e300)) if z > _REACH + 1e-6 else 0.0 for z in farthest.tolist()]
        return cls(*(tuple(map(float, v)) for v in (centre, np.where(farthest > 0, spread, 0), tail)))

    def compress(self, x: Tensor) -> Tensor:
        """Return w of values (n, d), in float64."""
        centre, spread, tail = self._tensors(x)
        z = (x.double() - centre) / torch.where(spread > 0, spread, 1)
        return torch.where(tail > 0, torch.asinh(tail * z) / torch.where(tail > 0, tail, 1), z)

    def transform(self, x: Tensor) -> Tensor:
        """Return scaled values (n, d), in float32."""
        return (0.5 + self.compress(x) / 2).float()

    def inverse_transform(self, x: Tensor) -> Tensor:
        """Return values (n, d) in their own units, in the dtype of x, or float64 if float32 would lose digits."""
        centre, spread, tail = self._tensors(x)
        w = 2 * x.double() - 1
        z = torch.where(tail > 0, torch.sinh(tail * w.clamp(-_REACH, _REACH)) / torch.where(tail > 0, tail, 1), w)
        holds = all(_float32_resolves(a, a + b) for a, b in zip(self.centre, self.spread, strict=True) if b)
        found = centre + spread * z
        return found.to(x.dtype) if holds else found

    def _tensors(self, x: Tensor) -> list[Tensor]:
        return [torch.tensor(v, dtype=torch.float64, device=x.device) for v in (self.centre, self.spread, self.tail)]


def _float32_resolves(low: float, high: float) -> bool:
    size, spread = max(abs(low), abs(high)), high - low
    return size < 1e38 and spread > 1e-30 and size * 2**-24 <= MAX_ROUNDING * spread


class Scaler(Protocol):
    """A map from values (n, k) to points (n, d) for training, and back."""

    def transform(self, x: Tensor) -> Tensor: ...

    def inverse_transform(self, x: Tensor) -> Tensor: ...


def unscale_points(x: Tensor, low: float, high: float, columns: Scaler | None = None) -> Tensor:
    """Return scaled points in the data's own units: x·(high − low) + low for images, by ``columns`` for vectors.

    The result has the dtype of x, or float64 if float32 would lose more than 1e-4 of the spread of a column.
    """
    if columns is not None:
        return columns.inverse_transform(x)
    return (x if _float32_resolves(low, high) else x.double()) * (high - low) + low


def scale_points(x: Tensor, low: float, high: float, columns: Scaler | None = None) -> Tensor:
    """Return points in the units of the training, always in float32; the inverse of `unscale_points`."""
    if columns is not None:
        return columns.transform(x)
    return (((x if _float32_resolves(low, high) else x.double()) - low) / (high - low)).float()


@dataclass
class Dataset:
    """Training and held-out data in the units of the training.

    Attributes:
        name, path: As given to `load`, or the name and absolute path of a table; the name is "tensor" for data given in Python.
        train, held_out: (n, C, H, W) or (n, d), float32; `held_out` is never trained on.
        train_labels, held_out_labels: (n,) int64, or None for data without labels.
        low, high: The values of images that were mapped to 0 and 1; 0 and 1 for vectors.
        columns: The scaling of the columns of vectors; None for images, which have one unit.
        rows: The columns of a table, from `rieszflow.generative.rows`; None for other data.
        train_condition, held_out_condition: (n, k) float64, numbers to condition a model on, in their own units, or None.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    path: str | None = None
    columns: Scaler | None = None
    rows: Any = None
    train_condition: Tensor | None = None
    held_out_condition: Tensor | None = None

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: np.ndarray,
        test: np.ndarray | None = None,
        held_out: float = 0.15,
        seed: int = 0,
        condition: np.ndarray | None = None,
        held_out_condition: np.ndarray | None = None,
    ) -> Dataset:
        """Return a data set of arrays that `as_points` accepts; without `test`, a share `held_out` of `train` is held out.

        Conditions are labels (n,) or numbers (n, k) to condition a model on.
        """
        test = None if test is None else as_points(test, name)
        return RawData(as_points(train, name), condition, test, held_out_condition).split(name, held_out, seed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum: (C, H, W) or (d,)."""
        return tuple(self.train.shape[1:])

    def unscale(self, x: Tensor) -> Tensor:
        """Return points in the data's own units; see `unscale_points`."""
        return unscale_points(x, self.low, self.high, self.columns)

    def scale(self, x: Tensor) -> Tensor:
        """Return points in the units of the training; see `scale_points`."""
        return scale_points(x, self.low, self.high, self.columns)


@dataclass
class RawData:
    """Arrays (n, …) of any real dtype, channels first, and their labels (n,) or numbers (n, k) to condition a model on."""

    train: np.ndarray
    condition: np.ndarray | None = None
    test: np.ndarray | None = None
    test_condition: np.ndarray | None = None

    def split(self, name: str, held_out: float, seed: int) -> Dataset:
        """Return a data set whose held-out part is the test part, or a random share of the data if there is none."""
        for values in (self.train, *([] if self.test is None else [self.test])):
            if values.ndim not in (2, 4) or 0 in values.shape:
                accepted = "shape (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C), without empty axes"
                raise DatasetError(f"{name}: must have {accepted}, got {values.shape}")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DatasetError(f"{name}: must be finite, got NaN or infinity; drop or fill such rows first")
            if values.dtype.kind == "f" and float(np.abs(values).max()) > 2.0**1022:
                raise DatasetError(f"{name}: must hold numbers below 4e307; divide them by a constant first")
        data = [(self.train, self.test), (self.condition, self.test_condition)]
        if self.test is None:
            if (n := len(self.train)) < 4:
                raise DatasetError(f"{name}: must have at least 4 points, got {n}")
            order = np.random.default_rng(seed).permutation(n)
            cut = min(n - 2, max(2, round(n * held_out)))
            data = [(None, None) if x is None else (x[order[cut:]], x[order[:cut]]) for x, _ in data]
        # Converted after the split: as floats, images of bytes need four times the memory.
        arrays = [np.asarray(to_unit(x, name)) for x in data[0] if x is not None]
        low, high = float(arrays[0].min()), float(arrays[0].max())
        if low == high:
            raise DatasetError(f"{name}: must have different values, got only {low:g}: there is nothing to learn")
        if arrays[0].ndim != 4 or (low >= 0 and high <= 1 and high - low > 1e-3):
            low, high = 0.0, 1.0  # vectors are scaled by columns, and images that fill [0, 1] not at all
        columns = ColumnScaler.fit(arrays[0]) if arrays[0].ndim == 2 else None
        train, test = (scale_points(torch.from_numpy(np.ascontiguousarray(a)), low, high, columns) for a in arrays)
        if not torch.isfinite(test).all():
            raise DatasetError(f"{name}: held-out values exceed those for training so far that float32 cannot hold them")
        labelled = self.condition is not None and self.condition.ndim == 1
        given = [None if x is None else torch.from_numpy(np.asarray(x, np.int64 if labelled else np.float64)) for x in data[1]]
        found = Dataset(name, train, test, low=low, high=high, columns=columns)
        if labelled:
            found.train_labels, found.held_out_labels = given
        else:
            found.train_condition, found.held_out_condition = given
        return found
