"""`impute`: draws of the missing cells of a table, by a flow that is conditioned on the known cells of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._types import PointSource, ProgressCallback
from rieszflow.data import ColumnScaler, Dataset
from rieszflow.data.encoding import TableEncoding, as_table
from rieszflow.errors import DatasetError
from rieszflow.generative.config import Config
from rieszflow.generative.model import GenerativeFlow
from rieszflow.generative.row_scaler import RowColumn, RowScaler

if TYPE_CHECKING:
    import pyarrow
    from pandas import DataFrame

    from rieszflow.data.tables import Table

_ROUNDS = 10  # of the fit of a Gaussian to incomplete rows
_RIDGE = 0.01  # added to its variances
_PAIRS = 20_000  # fewest pairs of a row and a mask to train on
_SETTINGS: dict[str, Any] = {"initial_steps": 5, "max_steps": 5, "stages": 3, "patience": 0}  # with more, the flow overfits


def impute(
    source: PointSource, draws: int = 1, *, seed: int = 0, progress: ProgressCallback | None = None, **settings: Any
) -> list[DataFrame]:
    """Fill the missing cells of a table at random, given the other cells of their rows.

    A flow is trained on rows of the table, complete or not, with the patterns of missing cells of other rows: it moves noise to
    rows, given the cells that a pattern leaves. Several draws show how uncertain the cells are (multiple imputation), if cells
    are missing at random given the known ones.

    Args:
        source: A table, see `rieszflow.Table`.
        draws: Number of draws.
        seed: Seed of the training and the draws.
        progress: Called with a `Progress` after every step of the training.
        settings: Fields of `GenerativeFlow` that replace those of the preset `table`.

    Returns:
        The table for every draw as a pandas DataFrame with the same columns and rows. Known cells, and columns that cannot be
        encoded, such as free text, are unchanged.

    Raises:
        DatasetError, InputError: The table cannot be read, has no missing cell, or fewer than four rows.

    Example:
        >>> import pandas
        >>> holes = pandas.DataFrame({"x": [k / 7 for k in range(50)], "y": [k / 3 for k in range(48)] + [None, None]})
        >>> (filled,) = impute(holes)
        >>> filled.y.isna().sum(), bool((filled.y[:48] == holes.y[:48]).all())
        (np.int64(0), True)

    References:
        Rubin, Multiple Imputation for Nonresponse in Surveys (1987).
    """
    with extra("tables", "impute"):
        import pandas as _  # noqa: F401
    return [table.to_pandas() for table in impute_tables(source, draws, seed=seed, progress=progress, **settings)]


def impute_tables(
    source: PointSource, draws: int = 1, *, seed: int = 0, progress: ProgressCallback | None = None, **settings: Any
) -> list[pyarrow.Table]:
    """Return the draws of `impute` as tables of Arrow."""
    draws, table = validate.positive_int("draws", draws), as_table(source)
    encoding = TableEncoding.fit(table)
    codes = np.concatenate(list(encoding.codes(table)))
    lacking = np.isnan(codes)
    if not lacking.any():
        raise DatasetError(f"{table.name}: must have missing cells to impute, got none")
    if len(codes) < 4:
        raise DatasetError(f"{table.name}: must have at least 4 rows, got {len(codes)}")
    own, part = [replace(column, missing=False) for column in encoding.columns], table.parts[0]
    columns = [RowColumn.fit(c, part.type_of(c.name), v) for c, v in zip(own, codes.T, strict=True)]
    scaler, rng, widths = RowScaler(columns), np.random.default_rng(seed), [column.width for column in columns]
    x = scaler.transform(torch.from_numpy(codes)).numpy()
    known = np.repeat(~lacking, widths, 1)
    x[~known] = 0
    gaussian = _Gaussian.fit(x, known, rng)
    drawn = scaler.inverse_transform(torch.from_numpy(gaussian.complete(x, known, rng)))
    filled = np.where(known, x, scaler.transform(drawn).numpy())  # values that the columns have

    def conditions(rows: np.ndarray, cells: np.ndarray) -> torch.Tensor:
        wide = np.repeat(cells, widths, 1)
        return torch.from_numpy(np.concatenate([gaussian.complete(filled[rows], wide), cells], 1)).double()

    # Every row is seen with several masks: its own missing cells, and those of other incomplete rows.
    rows = np.tile(np.arange(len(codes)), max(1, -(-_PAIRS // len(codes))))
    incomplete = np.flatnonzero(lacking.any(1))
    masks = ~lacking[rows] & ~lacking[rng.choice(incomplete, len(rows))]
    pairs, order = conditions(rows, masks), rng.permutation(len(rows))
    varies = (pairs.numpy().std(0) > 0).nonzero()[0]
    pairs = pairs[:, varies]
    held, kept = order[: max(2, len(order) // 20)], order[max(2, len(order) // 20) :]
    zeros, ones = (0.0,) * scaler.d, (1.0,) * scaler.d
    affine = ColumnScaler(zeros, ones, zeros)  # coordinates have one unit
    points = affine.transform(torch.from_numpy(filled[rows]))
    data = Dataset(
        table.name, points[kept], points[held], columns=affine, train_condition=pairs[kept], held_out_condition=pairs[held]
    )
    config = Config.preset("vectors", "table", **{**_SETTINGS, "seed": seed, **settings, "condition": "values"})
    flow = GenerativeFlow(config).fit(data, progress=progress)
    wanted = conditions(incomplete, ~lacking[incomplete])[:, varies]
    found = []
    for draw in range(draws):
        drawn = flow.sample(len(wanted), condition=wanted, seed=seed + 1 + draw)
        whole = codes.copy()
        whole[incomplete] = np.where(lacking[incomplete], scaler.inverse_transform(drawn).numpy(), codes[incomplete])
        found.append(_with_cells(table, columns, whole))
    return found


class _Gaussian:
    """The Gaussian of incomplete points, from which missing coordinates are predicted or drawn given the known ones."""

    def __init__(self, x: np.ndarray) -> None:
        self.mean, self.covariance = x.mean(0), np.cov(x.T) + _RIDGE * np.eye(x.shape[1])

    def complete(self, x: np.ndarray, known: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return points with their conditional means, or random draws, in place of missing coordinates."""
        filled, C = x.copy(), self.covariance
        patterns, group = np.unique(known, axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(group.ravel()))[:-1]
        for has, rows in zip(patterns, np.split(order, ends), strict=True):
            if not has.all():
                slope = np.linalg.solve(C[np.ix_(has, has)], C[np.ix_(has, ~has)])
                found = self.mean[~has] + (x[np.ix_(rows, has)] - self.mean[has]) @ slope
                if rng is not None:
                    rest = C[np.ix_(~has, ~has)] - slope.T @ C[np.ix_(has, ~has)]
                    found += rng.normal(size=found.shape) @ np.linalg.cholesky(rest).T
                filled[np.ix_(rows, ~has)] = found
        return filled

    @classmethod
    def fit(cls, x: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> _Gaussian:
        """Fit by stochastic EM, which starts with the means of the coordinates."""
        filled = np.where(known, x, (x * known).sum(0) / np.maximum(known.sum(0), 1))
        for _ in range(_ROUNDS):
            filled = cls(filled).complete(x, known, rng)
        return cls(filled)


def _with_cells(table: Table, columns: Sequence[RowColumn], codes: np.ndarray) -> pyarrow.Table:
    """Return the table with the cells of its encoded columns given by codes."""
    import pyarrow as pa

    cells = {c.column.name: c.to_arrow(v) for c, v in zip(columns, codes.T, strict=True)}
    return pa.table({name: cells[name] if name in cells else table.column(name) for name in table.kinds})
