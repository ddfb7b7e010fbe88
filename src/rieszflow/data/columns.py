"""The columns of an encoding: how their cells become coordinates, and which columns can be encoded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

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
            outside = (1 - (1 + K) ** 0.5) / K
            rows = np.concatenate([np.full((1, K), outside), np.eye(K)])
            return rows[place]
        values = np.where(lacking, self.centre, codes)
        phases = [f(2 * np.pi * values / PERIODS[p]) for p in self.periods for f in (np.cos, np.sin)]
        return np.stack([values, *phases, *[_APART * lacking] * self.missing], 1)

    def code(self, part: Part) -> str:
        """Return the expression for the codes of this column in a part of a table; NaN for missing cells."""
        if self.kind != "category":
            return part.number(self.name)
        from rieszflow.data.csv_file import literal

        text = part.text(self.name)
        known = f"list_position({literal(list(self.categories))}, {text})"
        known = f"md5_number({text}) % {self.buckets} + 1" if self.buckets else known
        return f"CASE WHEN {text} IS NULL THEN 'nan'::DOUBLE ELSE CAST(coalesce({known}, 0) AS DOUBLE) END"


@dataclass
class Profile:
    """Counts and the range of the cells of a column in one or several tables."""

    kind: str
    present: int = 0  # cells with a value
    low: float = np.inf
    high: float = -np.inf
    distinct: int = 0  # an upper estimate of the number of different values
    counts: Counter[str] = field(default_factory=Counter)  # of categories


def profiles(tables: Sequence[Table], kinds: dict[str, str]) -> tuple[int, dict[str, Profile]]:
    """Return the number of rows, and the profiles of the columns: a pass over all columns, and one over categories."""
    found, rows = {name: Profile(kind) for name, kind in kinds.items()}, 0
    texts = [name for name, kind in kinds.items() if kind in ("text", "boolean")]
    numbers = [name for name, kind in kinds.items() if kind in ("number", "whole", "time")]
    parts = [(table, part) for table in tables for part in table.parts]
    for table, part in parts:
        queries = ["count(*)"]
        for name in texts:
            queries += [f"count({part.text(name)})", f"approx_count_distinct({part.text(name)})"]
        for name in numbers:
            value, present = part.number(name), f"FILTER (NOT isnan({part.number(name)}))"
            functions = ("count(*)", *(f"{f}({value})" for f in ("approx_count_distinct", "min", "max")))
            queries += [f"{function} {present}" for function in functions]
        n, *values = table.aggregate(queries, part)
        rows += n
        for name in (*texts, *numbers):
            profile, present, distinct, values = found[name], values[0], values[1], values[2:]
            profile.present, profile.distinct = profile.present + present, profile.distinct + distinct
            if name in numbers:
                if present:
                    profile.low, profile.high = min(profile.low, values[0]), max(profile.high, values[1])
                values = values[2:]
    few = [name for name in texts if found[name].distinct <= 2 * _MOST * len(parts)]
    for table, part in parts:
        for name, counts in zip(few, table.aggregate([f"histogram({part.text(name)})" for name in few], part), strict=False):
            found[name].counts.update(counts or {})
    return rows, found


def reason_to_leave_out(name: str, profile: Profile, rows: int, tables: int, chosen: bool) -> str | None:
    """Return why a column is left out; None if it is encoded."""
    if profile.kind not in ("text", "boolean", "number", "whole", "time"):
        return "empty: no value in it" if profile.kind == "empty" else profile.kind
    if not profile.present:
        return "empty: no value in it"
    if profile.kind in ("text", "boolean"):
        many = profile.distinct if not profile.counts else len(profile.counts)
        return f"text with about {many} different values; hashed=[{name!r}] keeps it" if many > _MOST else None
    different = profile.kind == "whole" and profile.present == rows >= _FEWEST and profile.distinct > 0.9 * rows
    consecutive = profile.high - profile.low + 1 in (rows, rows / tables)
    if different and not chosen and (consecutive or _ID.fullmatch(name)):
        return "an id: a different whole number in every row"
    return None
