"""Rows of a table as points to train on, and samples as rows with the same columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.files import Json, atomically
from rieszflow._infra.messages import notice, suggestion
from rieszflow._types import PointSource
from rieszflow.data import Dataset
from rieszflow.data.csv_file import TableOptions, literal
from rieszflow.data.encoding import TableEncoding, as_table
from rieszflow.data.paths import check_distinct, check_known, quoted
from rieszflow.errors import DatasetError, InputError
from rieszflow.generative.row_scaler import RowColumn, RowScaler

if TYPE_CHECKING:
    import pyarrow

_RARE = 20  # rows of a label; fewer are named by a notice
_FEWEST = 4  # rows


@dataclass(frozen=True)
class TableRows:
    """The columns of a table: those of the data, the label, and those that samples are conditioned on.

    Attributes:
        columns: All columns, in the order of the table.
        label: Name of the column whose categories are labels, or None.
        given: Names of the columns that samples are conditioned on.
        options: The arguments that the table was opened with, see `rieszflow.Table`.
    """

    columns: tuple[RowColumn, ...]
    label: str | None = None
    given: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scaler(self) -> RowScaler:
        return RowScaler([c for c in self.columns if c.column.name not in (self.label, *self.given)])

    def _named(self, names: Sequence[str]) -> list[RowColumn]:
        found = {column.column.name: column for column in self.columns}
        return [found[name] for name in names]

    def conditions(self, codes: np.ndarray) -> np.ndarray | None:
        """Return the labels (n,) or the coordinates (n, k) of the given columns, from the codes of all columns."""
        names = [column.column.name for column in self.columns]
        if self.label is not None:
            return codes[:, names.index(self.label)].astype(np.int64) - 1
        if not self.given:
            return None
        return np.concatenate([c.transform(codes[:, names.index(c.column.name)]) for c in self._named(self.given)], 1)

    def parse(self, given: Mapping[str, object]) -> np.ndarray | int:
        """Return the condition of `GenerativeFlow.sample` for values by the names of their columns."""
        wanted = [self.label] if self.label is not None else list(self.given)
        if not wanted:
            raise InputError("`condition` must be None for a model that was trained without a label and conditions")
        if set(given) != set(wanted):
            raise InputError(f"`condition` must name the columns {quoted(wanted)}, got {quoted(list(given))}")
        codes = [_code(column, given[column.column.name]) for column in self._named(wanted)]
        if self.label is not None:
            return int(codes[0]) - 1
        return np.concatenate([c.transform(np.array([v]))[0] for c, v in zip(self._named(self.given), codes, strict=True)])

    @property
    def encoding(self) -> TableEncoding:
        return TableEncoding([c.column for c in self.columns])

    def codes(self, samples: Tensor, condition: Tensor | None) -> np.ndarray:
        """Return codes of all columns, from those of the data columns and the conditions of samples, (n,) or (n, k)."""
        codes = dict(zip((c.column.name for c in self.scaler.columns), samples.numpy().T, strict=True))
        if self.label is not None and condition is not None:
            codes[self.label] = condition.double().numpy() + 1
        elif condition is not None:
            ends = np.cumsum([c.width for c in self._named(self.given)])[:-1]
            parts = np.split(condition.double().numpy(), ends, 1)
            codes |= {c.column.name: c.inverse(part) for c, part in zip(self._named(self.given), parts, strict=True)}
        return np.stack([codes[c.column.name] for c in self.columns], 1)

    def to_arrow(self, samples: Tensor, condition: Tensor | None) -> pyarrow.Table:
        """Return rows with all columns, see `codes`."""
        import pyarrow as pa

        codes = self.codes(samples, condition)
        return pa.table({c.column.name: c.to_arrow(v) for c, v in zip(self.columns, codes.T, strict=True)})

    def to_json(self) -> str:
        content = {"label": self.label, "given": self.given, "options": dict(self.options)}
        return json.dumps({"columns": [asdict(c) for c in self.columns], **content})

    @classmethod
    def from_json(cls, text: str) -> TableRows:
        """Restore the columns; raise KeyError, TypeError or ValueError if the text is malformed."""
        content: Json = json.loads(text)
        encoding = TableEncoding.from_dict({"columns": [c["column"] for c in content["columns"]], "left_out": []})
        columns = []
        for own, entry in zip(encoding.columns, content["columns"], strict=True):
            column = RowColumn(**{**entry, "column": own, "values": tuple(entry["values"]), "shares": tuple(entry["shares"])})
            values, shares = np.array(column.values, np.float64), np.array(column.shares, np.float64)
            ordered = len(values) == len(shares) and (np.diff(values) >= 0).all() and (np.diff(shares) > 0).all()
            inside = np.isfinite(values).all() and (shares > 0).all() and (shares <= 1).all()
            if not (ordered and inside and (own.kind == "category") == (not len(values))):
                raise ValueError(f"values of column {own.name!r}")
            if not isinstance(column.type, str):
                raise ValueError(f"the type of column {own.name!r}")
            columns.append(column)
        TableOptions(**content["options"])
        names = {c.column.name for c in columns}
        found = cls(tuple(columns), content["label"], tuple(content["given"]), content["options"])
        if not {*found.given, *([found.label] if found.label is not None else [])} <= names:
            raise ValueError("conditions that are no columns")
        return found


def _code(column: RowColumn, value: object) -> float:
    """Return the code of a value that a user gives for a column."""
    own = column.column
    if value is None or (isinstance(value, str) and not value.strip()):
        if not own.missing:
            raise InputError(f"`condition` must have a value for {own.name!r}, which is never missing in the training data")
        return float("nan")
    if own.kind == "category":
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if text not in own.categories:
            hint = suggestion(text, own.categories) or f"it has {quoted(list(own.categories), 12)}"
            raise InputError(f"`condition` must have a category of the training data for {own.name!r}, got {text!r}; {hint}")
        return float(own.categories.index(text) + 1)
    try:
        code = float(np.datetime64(str(value), "us").astype(np.int64)) / 1e6 if own.kind == "time" else float(str(value))
    except ValueError:
        raise InputError(f"`condition` must have a {own.kind} for {own.name!r}, got {value!r}") from None
    if not np.isfinite(code):
        raise InputError(f"`condition` must be finite for {own.name!r}, got {value!r}")
    if not column.values[0] <= code <= column.values[-1]:
        low, high = column.values[0], column.values[-1]
        notice(f"condition: {own.name} lies outside the range [{low:g}, {high:g}] of the training data, whose end is used")
    return code


def load_rows(source: PointSource, held_out: float, seed: int, label: str | None = None, given: Sequence[str] = ()) -> Dataset:
    """Return the rows of a table as a data set, of which a random share is held out, with its columns in `Dataset.rows`.

    Raises:
        DatasetError, InputError: The table or its columns cannot be read; fewer than four rows; labels with over 100 values.
    """
    table = as_table(source)
    wanted = (*given, *([label] if label is not None else []))
    check_known(table.name, list(table.kinds), wanted)
    check_distinct("condition", given)
    if label is not None:
        table = table.as_text(label)
    encoding = TableEncoding.fit(table)
    names = [column.name for column in encoding.columns]
    if lost := [name for name in wanted if name not in names]:
        raise DatasetError(f"{table.name}: column {lost[0]!r} is left out, so samples cannot be conditioned on it")
    if len(names) == len(wanted):
        raise DatasetError(f"{table.name}: at least one column must be left for samples, got all of them as conditions")
    codes = np.concatenate(list(encoding.codes(table)))
    if label is not None and np.isnan(own := codes[:, names.index(label)]).any():
        notice(f"{table.name}: skipped {int(np.isnan(own).sum())} rows without a label")
        codes = codes[~np.isnan(own)]
    n = len(codes)
    if n < _FEWEST:
        raise DatasetError(f"{table.name}: must have at least {_FEWEST} rows, got {n}")
    order, cut = np.random.default_rng(seed).permutation(n), min(n - 2, max(2, round(n * held_out)))
    train, test = codes[order[cut:]], codes[order[:cut]]
    part, pairs = table.parts[0], zip(encoding.columns, train.T, strict=True)
    columns = tuple(RowColumn.fit(column, part.type_of(column.name), values) for column, values in pairs)
    rows = TableRows(columns, label, tuple(given), json.loads(json.dumps(asdict(table.options))))
    data = [k for k, name in enumerate(names) if name not in wanted]
    scaler = rows.scaler
    points, held = (scaler.transform(torch.from_numpy(codes[:, data])) for codes in (train, test))
    if not scaler.d or bool((points == points[:1]).all()):
        raise DatasetError(f"{table.name}: must have different rows, got equal ones: there is nothing to learn")
    found = Dataset(table.name, points, held, columns=scaler, rows=rows, path=table.path)
    conditions = [rows.conditions(part) for part in (train, test)]
    if label is not None:
        found.train_labels, found.held_out_labels = (torch.from_numpy(c) for c in conditions if c is not None)
        _check_labels(found, rows)
    elif given:
        found.train_condition, found.held_out_condition = (torch.from_numpy(c) for c in conditions if c is not None)
    return found


def _check_labels(found: Dataset, rows: TableRows) -> None:
    """Move held-out rows of labels that have no other ones to the training data, and name rare labels."""
    assert found.train_labels is not None and found.held_out_labels is not None and rows.label is not None
    categories = rows._named([rows.label])[0].column.categories
    lost = ~torch.isin(found.held_out_labels, found.train_labels)
    if lost.any():
        found.train = torch.cat([found.train, found.held_out[lost]])
        found.train_labels = torch.cat([found.train_labels, found.held_out_labels[lost]])
        found.held_out, found.held_out_labels = found.held_out[~lost], found.held_out_labels[~lost]
    counts = found.train_labels.bincount(minlength=len(categories)).tolist()
    if rare := [f"{name!r} ({count})" for name, count in zip(categories, counts, strict=True) if 0 < count < _RARE]:
        which = f"labels with fewer than {_RARE} rows, which their samples will resemble"
        notice(f"{found.name}: {which}: {', '.join(rare[:6])}")


def write_table(table: pyarrow.Table, path: Path, mark: str = "") -> None:
    """Write a table to a .csv or .parquet file, missing cells of a CSV file as `mark`."""
    import duckdb
    from pyarrow import parquet

    if path.suffix == ".parquet":
        atomically(path, lambda file: parquet.write_table(table, file))
        return
    connection = duckdb.connect().register("samples", table)
    atomically(
        path, lambda f: connection.execute(f"COPY samples TO {literal(str(f))} (FORMAT csv, HEADER, NULLSTR {literal(mark)})")
    )
