"""Cells of a table as coordinates to train on: normal scores of numbers, and one-hot categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from rieszflow.data.encoding import ColumnEncoding

_KNOTS = 200  # quantiles of a column with many values, at equally spaced normal scores
_HALF = 0.5**0.5  # two values are at ±_HALF, at a distance of √2, as two categories
_STEPS = (86400.0, 3600.0, 60.0, 1.0)
_DECIMALS = 8  # most decimals that are found


@dataclass(frozen=True)
class RowColumn:
    """A column as coordinates: normal scores of numbers, one-hot categories; missing cells have a coordinate of their own.

    Attributes:
        column: Its categories, and whether cells are missing.
        type: Its type in DuckDB.
        values: All values of a number in increasing order if `discrete`, otherwise quantiles.
        shares: The shares of cells up to these values.
        decimals: Decimals of all values; None if there are more than eight.
        step: Largest of a day, an hour, a minute or a second that divides all times, in seconds; 0 for numbers.
    """

    column: ColumnEncoding
    type: str
    values: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    discrete: bool = False
    decimals: int | None = None
    step: float = 0.0

    @classmethod
    def fit(cls, column: ColumnEncoding, duckdb_type: str, codes: np.ndarray) -> RowColumn:
        """Return the column with the distribution of its codes (n,)."""
        if column.kind == "category":
            return cls(column, duckdb_type)
        cells = np.sort(codes[~np.isnan(codes)]) if not np.isnan(codes).all() else np.array([column.centre])
        values, counts = np.unique(cells, return_counts=True)
        discrete = len(values) <= _KNOTS
        if discrete:
            shares = np.cumsum(counts) / len(cells)
        else:
            edge = float(ndtri(0.5 / len(cells)))
            shares = ndtr(np.linspace(edge, -edge, _KNOTS))
            values = np.quantile(cells, shares, method="hazen")
        sample = cells[:: max(1, len(cells) // 10_000)]
        size = np.abs(sample).max(initial=0)
        errors = (np.abs(sample - sample.round(k)).max(initial=0) for k in range(_DECIMALS + 1))
        decimals = next((k for k, error in enumerate(errors) if error <= 1e-12 * size), None)
        steps = (unit for unit in _STEPS if column.kind == "time" and not (sample % unit).any())
        step = next(steps, 0.0)
        return cls(column, duckdb_type, tuple(values.tolist()), tuple(shares.tolist()), discrete, decimals, step)

    @property
    def width(self) -> int:
        """Number of coordinates; 0 if there is only one value."""
        if self.column.kind == "category":
            K = len(self.column.categories) + self.column.missing
            return K if K > 2 else K - 1
        return (len(self.values) > 1) + self.column.missing

    def transform(self, codes: np.ndarray) -> np.ndarray:
        """Return the coordinates (n, width) of codes (n,)."""
        lacking = np.isnan(codes)
        if self.column.kind == "category":
            K = len(self.column.categories) + self.column.missing
            one_hot = np.concatenate([np.zeros((1, K)), np.eye(K)])[
                np.where(lacking, K * self.column.missing, codes).astype(np.int64)
            ]
            return one_hot if K > 2 else (one_hot[:, 1:] - one_hot[:, :1]) * _HALF
        values, shares = np.array(self.values), np.array(self.shares)
        if self.discrete:  # the middle of the ranks of equal cells
            shares = shares - np.diff(shares, prepend=0) / 2
        cells = np.where(lacking, values[len(values) // 2], codes)
        first, last = np.searchsorted(values, cells), np.searchsorted(values, cells, "right")
        equal = (shares[np.minimum(first, len(shares) - 1)] + shares[np.maximum(last - 1, 0)]) / 2
        score = ndtri(np.where(last > first, equal, np.interp(cells, values, shares)))
        scores = [np.where(lacking, 0, score)] * (len(values) > 1)
        parts = [*scores, *[np.where(lacking, _HALF, -_HALF)] * self.column.missing]
        return np.stack(parts, 1) if parts else np.empty((len(codes), 0))

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Return the codes (n,) that are closest to coordinates (n, width)."""
        if self.column.kind == "category":
            K = len(self.column.categories) + self.column.missing
            two = (x[:, 0] > 0) + 1 if self.width == 1 else np.ones(len(x))
            place = (x.argmax(1) + 1 if self.width > 1 else two).astype(np.float64)
            return np.where(place == K, np.nan, place) if self.column.missing else place
        values, shares = np.array(self.values), np.array(self.shares)
        codes = np.full(len(x), values[0])
        if len(values) > 1:
            share = ndtr(x[:, 0])
            place = np.minimum(np.searchsorted(shares, share), len(values) - 1)
            codes = values[place] if self.discrete else np.interp(share, shares, values)
        if self.step:
            codes = (codes / self.step).round() * self.step
        if self.decimals is not None:
            codes = codes.round(self.decimals)
        return np.where(x[:, -1] > 0, np.nan, codes) if self.column.missing else codes

    def to_arrow(self, codes: np.ndarray) -> Any:
        """Return the cells for codes (n,) in the type of the column."""
        import pyarrow as pa

        lacking = np.isnan(codes)
        if self.column.kind == "category":
            texts = np.array(["", *self.column.categories], object)[np.where(lacking, 0, codes).astype(np.int64)]
            if self.type == "BOOLEAN":
                return pa.array(texts == "true", pa.bool_(), mask=lacking)
            return pa.array(texts, pa.string(), mask=lacking)
        cells = np.where(lacking, 0, codes)
        if self.column.kind == "time":
            microseconds = pa.array(np.round(cells * 1e6).astype(np.int64), mask=lacking)
            if self.type == "INTERVAL":
                return microseconds.cast(pa.duration("us"))
            if not self.type.startswith(("DATE", "TIMESTAMP")):
                return microseconds.cast(pa.time64("us"))
            moments = microseconds.cast(pa.timestamp("us", "UTC" if "TZ" in self.type or "TIME ZONE" in self.type else None))
            return moments.cast(pa.timestamp("s")).cast(pa.date32()) if self.type == "DATE" else moments
        whole = self.decimals == 0 and (self.column.kind == "whole" or self.type not in ("DOUBLE", "FLOAT"))
        return pa.array(cells.astype(np.int64) if whole else cells, mask=lacking)


class RowScaler:
    """The scaling of the data columns of a table for training: from codes (n, columns) to points (n, d) and back."""

    def __init__(self, columns: Sequence[RowColumn]) -> None:
        self.columns = tuple(columns)
        self.d = sum(column.width for column in columns)

    def transform(self, codes: Tensor) -> Tensor:
        """Return the points (n, d) of codes, in float32."""
        parts = [c.transform(v) for c, v in zip(self.columns, codes.double().numpy().T, strict=True)]
        return torch.from_numpy(np.concatenate(parts, 1)).float()

    def inverse_transform(self, x: Tensor) -> Tensor:
        """Return the codes of points (n, d), in float64."""
        parts = x.double().numpy() if len(self.columns) else np.empty((len(x), 0))
        ends = np.cumsum([column.width for column in self.columns])[:-1]
        codes = [c.inverse(part) for c, part in zip(self.columns, np.split(parts, ends, 1), strict=True)]
        return torch.from_numpy(np.stack(codes, 1))
