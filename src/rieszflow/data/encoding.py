"""`TableEncoding`: rows of mixed tables as points whose distances have a meaning."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rieszflow._infra.files import Json
from rieszflow._infra.messages import notice
from rieszflow._types import PointSource
from rieszflow.data.dataset import column_spreads
from rieszflow.data.options import column_difference
from rieszflow.data.paths import quoted
from rieszflow.data.sources import open_table
from rieszflow.data.streams import Stream, sample_rows
from rieszflow.errors import DatasetError, InputError

if TYPE_CHECKING:
    from rieszflow.data.parts import Part
    from rieszflow.data.tables import Table

_MOST = 100  # categories of a column
_APART = 2**0.5  # distance between two categories, and between a missing and a present value
_ID = re.compile(r"(.*[\W_])?(id|uuid|guid|index|rownames?|row_?number)", re.IGNORECASE)
_FEWEST = 20  # rows from which a column of different whole numbers may be an id
_PERIODS = {"day": 86400.0, "week": 604800.0, "year": 31556952.0}  # in seconds


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
    def spreads(self) -> list[float]:
        """Return what every coordinate is divided by: the spread of a number, 1 for all others."""
        return [self.spread if name == self.name and self.kind != "category" else 1.0 for name in self.coordinates]

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
        phases = [f(2 * np.pi * values / _PERIODS[p]) for p in self.periods for f in (np.cos, np.sin)]
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


class TableEncoding:
    r"""Rows of a mixed table as points, with the columns and units of a reference.

    The squared distance between the points of two rows x and y is

    .. math:: \sum_{j \text{ number}} \left( \frac{(x_j - y_j)^2}{s_j^2} + 2 \cdot 1[x_j \text{ or } y_j \text{ is missing}] \right)
              + 2 \sum_{j \text{ category}} 1[x_j \ne y_j]

    where :math:`s_j` is the interquartile range of column j (its standard deviation if that is 0), and "or" excludes both. Times
    are numbers of seconds, truth values are categories, and a missing cell is a category of its own, or the median of a number.
    Two independent cells of a normal column have a mean squared distance of 1.1, and those of an even truth value 1. A category
    that the reference does not have is at the same distance from all others, and a notice names the column.

    Columns are left out, with a notice, that have no value, more than 100 categories, or the numbers of rows (ids): whole
    numbers that are consecutive, or different and named like an id, unless `Table(columns=)` names them.

    Args:
        columns: The encodings of all columns.

    Attributes:
        columns: As passed.
        names: Names of the d coordinates, such as "age", "age missing" and "job=baker".
        spreads: What the coordinates are divided by, (d,): the spreads of numbers, and 1.

    Example:
        >>> import pyarrow
        >>> people = pyarrow.table({"age": [31, 45, None, 22], "job": ["baker", "clerk", "clerk", "baker"]})
        >>> encoding = TableEncoding.fit(people)
        >>> encoding.names, encoding.transform(people).shape
        (['age', 'age missing', 'job=baker', 'job=clerk'], (4, 4))

    References:
        Gower, A general coefficient of similarity and some of its properties, Biometrics 27 (1971).
    """

    def __init__(self, columns: Sequence[ColumnEncoding]) -> None:
        self.columns = tuple(columns)
        self.names = [name for column in self.columns for name in column.coordinates]
        self.spreads = tuple(spread for column in self.columns for spread in column.spreads)

    @classmethod
    def fit(
        cls, *sources: PointSource, hashed: Sequence[str] = (), periods: Sequence[str] = (), buckets: int = 32
    ) -> TableEncoding:
        """Choose the encoding for one table, or for several together that have the same columns.

        Args:
            sources: Tables: anything that `Table` accepts.
            hashed: Columns of text with many values, which become categories by their hash.
            periods: Periods whose phases are added to times: "day", "week" or "year".
            buckets: Number of hashes.

        Raises:
            DatasetError, InputError: A table that cannot be read; different columns, or types of a column; infinite values.
        """
        tables = [as_table(source) for source in sources]
        if odd := set(periods) - _PERIODS.keys():
            raise InputError(f"`periods` must be of {quoted(list(_PERIODS))}, got {min(odd)!r}")
        kinds = _common_kinds(tables)
        if unknown := [name for name in hashed if kinds.get(name) != "text"]:
            raise InputError(f"`hashed` must be columns of text, got {unknown[0]!r}")
        rows, profiles = _profiles(tables, kinds)
        left_out: dict[str, str] = {}
        found: list[ColumnEncoding] = []
        for name, profile in profiles.items():
            missing = profile.present < rows
            if name in hashed:
                hashes = tuple(f"#{k}" for k in range(buckets))
                found.append(ColumnEncoding(name, "category", categories=hashes, missing=missing, buckets=buckets))
            elif reason := _left_out(name, profile, rows, len(tables), tables[0].options.columns is not None):
                left_out[name] = reason
            elif profile.kind in ("text", "boolean"):
                found.append(ColumnEncoding(name, "category", categories=tuple(sorted(profile.counts)), missing=missing))
            else:
                phases = tuple(periods) if profile.kind == "time" else ()
                found.append(ColumnEncoding(name, profile.kind, missing=missing, periods=phases))
        if left_out:
            shown = [f"{name!r} ({reason})" for name, reason in list(left_out.items())[:20]]
            more = f" and {len(left_out) - 20} more" if len(left_out) > 20 else ""
            notice(f"{tables[0].name}: left out {', '.join(shown)}{more}")
        if not found:
            raise DatasetError(
                f"{tables[0].name}: must have columns of numbers or categories, got none ({quoted(list(kinds))})"
            )
        return cls(_with_units(tables, found))

    def transform(self, source: PointSource) -> np.ndarray:
        """Return the points (n, d) of a table, float64, with every coordinate divided by its spread."""
        points: np.ndarray = np.concatenate([batch.numpy() for batch in self.stream(source)])
        return points / np.array(self.spreads)

    def stream(self, source: PointSource) -> Stream:
        """Return the points of a table in batches, in the units of its columns: not yet divided by `spreads`.

        Raises:
            DatasetError: Other columns, another type of a column, infinite values, or missing cells in a column of numbers that
                has none in the reference.
        """
        table = as_table(source)
        kinds = {column.name: "text" if column.kind == "category" else column.kind for column in self.columns}
        if lacking := [name for name in kinds if name not in table.kinds]:
            raise InputError(f"{table.name}: lacks {quoted(lacking)}, which the reference has")
        for name, kind in kinds.items():
            given = table.kinds[name]
            _check_kind(table.name, name, "text" if (given, kind) == ("boolean", "text") else given, kind, "the reference")

        def batches() -> Iterator[np.ndarray]:
            for codes in self.codes(table):
                yield np.concatenate([c.encode(v) for c, v in zip(self.columns, codes.T, strict=True)], 1)

        return Stream(table.name, batches, table.count(), list(self.names))

    def codes(self, table: Table) -> Iterator[np.ndarray]:
        """Yield the codes (m, columns) of the rows of a table; see `rieszflow.data.tables`."""
        whole, names = [column.kind == "whole" for column in self.columns], [column.name for column in self.columns]
        noticed: set[str] = set()
        for codes in table.matrices(lambda part: [column.code(part) for column in self.columns], len(names)):
            table.check_rounding(codes, whole, names)
            for column, values in zip(self.columns, codes.T, strict=True):
                if np.isinf(values).any():
                    raise DatasetError(f"{table.name}: column {column.name!r} must be finite, got an infinite number")
                unknown = (values == 0) & (column.kind == "category")
                lacking = np.isnan(values) & (not column.missing)
                if (unknown.any() or lacking.any()) and column.name not in noticed:
                    noticed.add(column.name)
                    if column.kind != "category":
                        problem = f"{int(lacking.sum())} missing values, and the reference has none"
                        raise DatasetError(f"{table.name}: column {column.name!r} has {problem}; fill them, or leave it out")
                    notice(f"{table.name}: column {column.name!r} has categories that the reference does not have")
            yield codes

    def to_dict(self) -> Json:
        return {"columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, content: Json) -> TableEncoding:
        """Restore an encoding; raise KeyError, TypeError or ValueError if the content is malformed."""
        columns = []
        for entry in content["columns"]:
            column = ColumnEncoding(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
            texts, numbers = (column.name, *column.categories), (column.centre, column.spread, column.buckets)
            if column.kind not in ("number", "whole", "time", "category") or not set(column.periods) <= _PERIODS.keys():
                raise ValueError(f"a column of the kind {column.kind!r}")
            if not all(isinstance(t, str) for t in texts) or not all(isinstance(v, (int, float)) for v in numbers):
                raise ValueError(f"column {column.name!r}")
            if not (0 < column.spread < float("inf") and abs(column.centre) < float("inf") and 0 <= column.buckets < 1 << 16):
                raise ValueError(f"a spread of {column.spread} around {column.centre}")
            columns.append(replace(column, missing=bool(column.missing)))
        return cls(columns)

    def __repr__(self) -> str:
        return f"TableEncoding({len(self.columns)} columns, d = {len(self.names)})"


def as_table(source: PointSource) -> Table:
    """Return a source as a `Table`; raise InputError for points that are not one."""
    table = open_table(source)
    if table is None:
        raise InputError(f"`source` must be a table, got {type(source).__name__}")
    return table


def _check_kind(name: str, column: str, kind: str, wanted: str, whose: str) -> None:
    numbers = ("number", "whole", "boolean")
    if kind != wanted and kind != "empty" and not (kind in numbers and wanted in numbers):
        accepted = {"number": "numbers", "whole": "numbers", "boolean": "numbers", "time": "dates or times"}.get(wanted, wanted)
        raise DatasetError(f"{name}: column {column!r} must hold {accepted} as in {whose}, got {kind}")


def _common_kinds(tables: Sequence[Table]) -> dict[str, str]:
    """Return the kinds of the columns that all tables must share."""
    first, kinds = tables[0], dict(tables[0].kinds)
    for table in tables[1:]:
        if set(table.kinds) != set(kinds):
            difference = column_difference(list(table.kinds), list(kinds), f"{first.name} has")
            raise InputError(f"{table.name}: {difference}; columns are matched by name: choose those to compare")
        for name, kind in table.kinds.items():
            if kinds[name] == "empty":
                kinds[name] = kind
            _check_kind(table.name, name, kind, kinds[name], first.name)
            if kind != "empty" and kind != kinds[name]:
                kinds[name] = "number"
    return kinds


@dataclass
class _Profile:
    """What is known of a column of one or several tables."""

    kind: str
    present: int = 0  # cells with a value
    low: float = np.inf
    high: float = -np.inf
    distinct: int = 0  # an upper estimate of the number of different values
    counts: Counter[str] = field(default_factory=Counter)  # of categories


def _profiles(tables: Sequence[Table], kinds: dict[str, str]) -> tuple[int, dict[str, _Profile]]:
    """Return the number of rows, and the profiles of the columns: a pass over all columns, and one over categories."""
    found, rows = {name: _Profile(kind) for name, kind in kinds.items()}, 0
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


def _left_out(name: str, profile: _Profile, rows: int, tables: int, chosen: bool) -> str | None:
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


def _with_units(tables: Sequence[Table], columns: list[ColumnEncoding]) -> list[ColumnEncoding]:
    """Return the columns with their medians and spreads, which take one pass over all rows."""
    raw = TableEncoding([replace(column, missing=True) for column in columns])
    rows, deviation = sample_rows((codes for table in tables for codes in raw.codes(table)), len(columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the sample may have no value of a column
        centre = np.nan_to_num(np.nanmedian(rows, axis=0))
    spreads = column_spreads(rows, deviation)
    return [
        column if column.kind == "category" else replace(column, centre=float(m), spread=float(s))
        for column, m, s in zip(columns, centre, spreads, strict=True)
    ]
