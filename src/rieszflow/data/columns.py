"""The columns of an encoding: how their cells become coordinates, and which columns can be encoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rieszflow.data.paths import check_same_columns, common_kind
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.data.parts import Part
    from rieszflow.data.tables import Table

PERIODS = {"day": 86400.0, "week": 604800.0, "year": 31556952.0}  # in seconds
_MOST = 100  # categories of a column
_APART = 2**0.5  # distance between two categories, and between a missing and a present value
_ID = re.compile(r"(.*[\W_])?(id|uuid|guid|index|rownames?|row_?number)", re.IGNORECASE)
_FEWEST = 20  # rows from which a column of different whole numbers may be an id


@dataclass(frozen=True)
class ColumnEncoding:
    """The encoding of one column.

    Attributes:
        name: Name of the column.
        kind: "number", "whole", "time" (as seconds since 1970, or of an interval) or "category".
        centre, spread: Median and interquartile range of numbers and times (the standard deviation if that is 0).
        categories: The categories; hashes "#0", "#1", … for hashed columns.
        missing: True if a missing cell has a coordinate: if the reference has one, for numbers; otherwise it is the median.
        buckets: Number of hashes of a hashed column; 0 for others.
        periods: Periods of a time whose phase is encoded, too: "day", "week" or "year".
    """

    name: str
    kind: str
    centre: float = 0.0
    spread: float = 1.0
    categories: tuple[str, ...] = ()
    missing: bool = False
    buckets: int = 0
    periods: tuple[str, ...] = ()

    @property
    def coordinates(self) -> list[str]:
        """Return the names of the coordinates."""
        missing = [f"{self.name} missing"] * self.missing
        if self.kind == "category":
            return [*(f"{self.name}={category}" for category in self.categories), *missing]
        phases = [f"{self.name} {period} {phase}" for period in self.periods for phase in ("cos", "sin")]
        return [self.name, *phases, *missing]

    @property
    def numeric(self) -> list[bool]:
        """Return True for the coordinate of a number, which has a unit, and False for all others."""
        return [k == 0 and self.kind != "category" for k in range(len(self.coordinates))]

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Return the coordinates (n, k) of codes (n,), in the units of the column."""
        lacking = np.isnan(codes)
        if self.kind == "category":
            # An unknown category or an unexpected missing cell is as far from every category as these are from one another.
            K = len(self.categories) + self.missing
            place = np.where(lacking, K if self.missing else 0, codes).astype(np.int64)
            return np.concatenate([np.full((1, K), (1 - (1 + K) ** 0.5) / K), np.eye(K)])[place]
        values = np.where(lacking, self.centre, codes)
        phases = [f(2 * np.pi * values / PERIODS[p]) for p in self.periods for f in (np.cos, np.sin)]
        return np.stack([values, *phases, *[_APART * lacking] * self.missing], 1)

    def code(self, part: Part) -> str:
        """Return the expression for the codes of this column in a part of a table; NaN for missing cells."""
        if self.kind != "category":
            return part.number(self.name)
        from rieszflow.data.csv_file import literal

        text = part.text(self.name)
        known = f"md5_number({text}) % {self.buckets} + 1" if self.buckets else None
        known = known or f"list_position({literal(self.categories)}, {text})"
        return f"CASE WHEN {text} IS NULL THEN 'nan'::DOUBLE ELSE CAST(coalesce({known}, 0) AS DOUBLE) END"


def choose_columns(
    tables: Sequence[Table], hashed: Sequence[str], periods: Sequence[str], buckets: int
) -> tuple[list[ColumnEncoding], dict[str, str]]:
    """Return the encodings of columns, without units, and the reasons why other columns are left out.

    This takes a pass over all columns, and one over those with few categories.
    """
    for table in tables[1:]:
        check_same_columns(table.name, table.kinds, tables[0].kinds, f"{tables[0].name} has")
    kinds = {name: common_kind(name, [(table.kinds[name], table.name) for table in tables]) for name in tables[0].kinds}
    parts = [(table, part) for table in tables for part in table.parts]
    if unknown := [name for name in hashed if kinds.get(name) != "text"]:
        raise InputError(f"`hashed` must be columns of text, got {unknown[0]!r}")
    readable = [name for name, kind in kinds.items() if kind in ("text", "boolean", "number", "whole", "time")]
    texts = [name for name in readable if kinds[name] in ("text", "boolean")]
    found = []
    for table, part in parts:
        queries = []
        for name in readable:
            value = part.text(name) if name in texts else part.number(name)
            value = f"({value})" if name in texts else f"({value}) FILTER (NOT isnan({value}))"
            queries += [f"{function}{value}" for function in ("count", "approx_count_distinct", "min", "max")]
        found.append(table.aggregate(queries, part))
    cells = {name: [row[4 * k : 4 * k + 4] for row in found if row[4 * k]] for k, name in enumerate(readable)}
    distinct = {name: sum(values[1] for values in cells[name]) for name in readable}  # an upper estimate
    categories: dict[str, set[str]] = {name: set() for name in texts if distinct[name] <= 2 * _MOST * len(parts)}
    for table, part in parts:
        for name, counts in zip(
            categories, table.aggregate([f"histogram({part.text(n)})" for n in categories], part), strict=False
        ):
            categories[name].update(counts or ())
    rows, chosen = sum(table.count() for table in tables), tables[0].options.columns is not None
    columns, left_out = [], {}
    for name, kind in kinds.items():
        present = sum(values[0] for values in cells.get(name, ()))
        missing = present < rows
        many = len(categories.get(name, ())) or distinct.get(name, 0)
        if not present:
            left_out[name] = "empty: no value in it" if name in cells or kind == "empty" else kind
        elif name in hashed:
            hashes = tuple(f"#{k}" for k in range(buckets))
            columns.append(ColumnEncoding(name, "category", categories=hashes, missing=missing, buckets=buckets))
        elif name in texts and many > _MOST:
            left_out[name] = f"text with about {many} different values; hashed=[{name!r}] keeps it"
        elif name in texts:
            columns.append(ColumnEncoding(name, "category", categories=tuple(sorted(categories[name])), missing=missing))
        else:
            span = max(values[3] for values in cells[name]) - min(values[2] for values in cells[name]) + 1
            is_id = span in (rows, rows / len(tables)) or _ID.fullmatch(name)
            if kind == "whole" and not missing and rows >= _FEWEST and many > 0.9 * rows and is_id and not chosen:
                left_out[name] = "an id: a different whole number in every row"
            else:
                columns.append(ColumnEncoding(name, kind, missing=missing, periods=tuple(periods) if kind == "time" else ()))
    return columns, left_out
