"""`TableEncoding`: rows of mixed tables as points whose distances have a meaning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from rieszflow._infra import validate
from rieszflow._infra.files import Json
from rieszflow._infra.messages import notice
from rieszflow._types import PointSource, ScaleName
from rieszflow.data.dataset import column_spreads
from rieszflow.data.paths import check_same_columns, common_kind, quoted, skipped
from rieszflow.data.streams import Stream, choose_spreads, open_table, sample_rows, stream
from rieszflow.errors import DatasetError, InputError

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


class TableEncoding:
    r"""Rows of a mixed table as points, with the columns and units of a reference.

    The squared distance between the points of two rows x and y is

    .. math:: \sum_{j \text{ number}} \left( \frac{(x_j - y_j)^2}{s_j^2} + 2 \cdot 1[x_j \text{ or } y_j \text{ missing}]\right)
              + 2 \sum_{j \text{ category}} 1[x_j \ne y_j],

    "or" excluding both. Here :math:`s_j` is the interquartile range of column j (its standard deviation if that is 0). Times
    are numbers of seconds, truth values are categories, and a missing cell is a category of its own, or the median of a
    number. Two independent cells of a normal column have a mean squared distance of 1.1, and those of an even truth value 1.
    A category that the reference does not have is at the same distance from all others, and a notice names the column.

    Columns are left out, with a notice, that have no value, more than 100 categories, or the numbers of rows (ids): whole
    numbers that are consecutive, or different and named like an id, unless `Table(columns=)` names them.

    Attributes:
        columns, left_out: The encodings of all columns, and the names of those that are left out.
        names: Names of the d coordinates, such as "age", "age missing" and "job=baker".
        numeric: True for the coordinates of numbers and times, which have a unit, (d,).
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

    def __init__(self, columns: Sequence[ColumnEncoding], left_out: Sequence[str] = ()) -> None:
        self.columns, self.left_out = tuple(columns), tuple(left_out)
        self.names = [name for column in self.columns for name in column.coordinates]
        self.numeric = [numeric for column in self.columns for numeric in column.numeric]
        self.spreads = tuple(column.spread if numeric else 1.0 for column in self.columns for numeric in column.numeric)

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
        if odd := set(periods) - PERIODS.keys():
            raise InputError(f"`periods` must be of {quoted(list(PERIODS))}, got {min(odd)!r}")
        columns, left_out = _choose_columns(tables, hashed, periods, buckets)
        if left_out:
            notice(f"{tables[0].name}: left out {skipped(left_out)}")
        if not columns:
            names = quoted(list(tables[0].kinds))
            raise DatasetError(f"{tables[0].name}: must have columns of numbers or categories, got none ({names})")
        # Medians and spreads take one pass over all rows.
        raw = cls([replace(column, missing=True) for column in columns])
        rows, deviation = sample_rows((codes for table in tables for codes in raw.codes(table)), len(columns))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the sample may have no value of a column
            centre = np.nan_to_num(np.nanmedian(rows, axis=0)).tolist()
        units = zip(columns, centre, column_spreads(rows, deviation).tolist(), strict=True)
        return cls([c if c.kind == "category" else replace(c, centre=m, spread=s) for c, m, s in units], list(left_out))

    def transform(self, source: PointSource) -> np.ndarray:
        """Return the points (n, d) of a table, float64, with every coordinate divided by its spread."""
        points = np.concatenate([batch.numpy() for batch in self.stream(source)])
        return np.asarray(points / np.array(self.spreads))

    def stream(self, source: PointSource) -> Stream:
        """Return the points of a table in batches, in the units of its columns: not yet divided by `spreads`.

        Raises DatasetError or InputError for other columns or types, infinite values, and missing cells in a column of numbers
        that has none in the reference.
        """
        table = as_table(source)
        kinds = {column.name: "text" if column.kind == "category" else column.kind for column in self.columns}
        given = [name for name in table.kinds if name not in self.left_out]
        check_same_columns(table.name, given, kinds, "the reference has")
        for name, kind in kinds.items():
            own = "text" if (table.kinds[name], kind) == ("boolean", "text") else table.kinds[name]
            common_kind(name, [(kind, "the reference"), (own, table.name)])

        noticed: set[str] = set()  # columns with unknown categories, which one notice names

        def batches() -> Iterator[np.ndarray]:
            for codes in self.codes(table, noticed):
                yield np.concatenate([c.encode(v) for c, v in zip(self.columns, codes.T, strict=True)], 1)

        return Stream(table.name, batches, table.count(), list(self.names))

    def codes(self, table: Table, noticed: set[str] | None = None) -> Iterator[np.ndarray]:
        """Yield the codes (m, columns) of the rows of a table; see `rieszflow.data.tables`."""
        noticed = set() if noticed is None else noticed
        names = [column.name for column in self.columns]
        for codes in table.matrices(lambda part: [column.code(part) for column in self.columns], len(names)):
            table.check_rounding(codes, names)
            for column, values in zip(self.columns, codes.T, strict=True):
                category, lacking = column.kind == "category", np.isnan(values) & (not column.missing)
                if np.isinf(values).any():
                    raise DatasetError(f"{table.name}: column {column.name!r} must be finite, got an infinite number")
                if lacking.any() and not category:
                    problem = f"{int(lacking.sum())} missing values, and the reference has none"
                    raise DatasetError(f"{table.name}: column {column.name!r} has {problem}; fill them, or leave it out")
                if category and column.name not in noticed and (lacking | (values == 0)).any():
                    noticed.add(column.name)
                    notice(f"{table.name}: column {column.name!r} has categories that the reference does not have")
            yield codes

    def to_dict(self) -> Json:
        return {"columns": [asdict(column) for column in self.columns], "left_out": self.left_out}

    @classmethod
    def from_dict(cls, content: Json) -> TableEncoding:
        """Restore an encoding; raise KeyError, TypeError or ValueError if the content is malformed."""
        columns = []
        for entry in content["columns"]:
            values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in entry.items()}
            column = ColumnEncoding(**{**values, "missing": bool(values["missing"])})
            texts = all(isinstance(text, str) for text in (column.name, *column.categories))
            known = column.kind in ("number", "whole", "time", "category") and set(column.periods) <= PERIODS.keys()
            finite = 0 < column.spread < float("inf") and abs(column.centre) < float("inf") and 0 <= column.buckets < 1 << 16
            if not (texts and known and finite):
                raise ValueError(f"the column {column}")
            columns.append(column)
        return cls(columns, [str(name) for name in content["left_out"]])

    def __repr__(self) -> str:
        return f"TableEncoding({len(self.columns)} columns, d = {len(self.names)})"


def as_table(source: PointSource) -> Table:
    """Return a source as a `Table`; raise InputError for points that are not one."""
    if (table := open_table(source)) is None:
        raise InputError(f"`source` must be a table, got {type(source).__name__}")
    return table


def _choose_columns(
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
        values = [part.text(name) if name in texts else f"nullif({part.number(name)}, 'nan'::DOUBLE)" for name in readable]
        functions = ("count", "approx_count_distinct", "min", "max")
        found.append(table.aggregate([f"{f}({value})" for value in values for f in functions], part))
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


@dataclass(frozen=True)
class Units:
    """The divisors of the coordinates of points, (d,), and the encoding of the tables that they are from, if any."""

    spreads: tuple[float, ...] | None = None
    encoding: TableEncoding | None = None


def open_clouds(sources: Sequence[PointSource], scale: ScaleName, common: bool = False) -> tuple[list[Stream], Units]:
    """Return comparable points of several sources, and their units, which are those of all points together.

    All columns of tables are encoded, unless `scale` is "none". The columns of later sources are matched by name with those of
    the first one; with `common`, those that not all tables have are dropped, with a notice.
    """
    validate.choice("scale", scale, get_args(ScaleName))
    tables = [open_table(source) for source in sources]
    named = [table for table in tables if table is not None and table.named]
    if common:
        if len(named) < len(sources):
            raise InputError("`common` must be False unless all sources are tables with column names")
        shared = [name for name in named[0].kinds if all(name in table.kinds for table in named)]
        if not shared:
            raise InputError(f"{named[1].name}: no column in common with {named[0].name}")
        named = [table.drop([name for name in table.kinds if name not in shared], "not in the other table") for table in named]
        tables = list(named)
    if len(named) == len(sources) and scale != "none":
        encoding = TableEncoding.fit(*named)
        return [encoding.stream(table) for table in named], Units(encoding.spreads, encoding)
    first, *others = (stream(source if table is None else table) for source, table in zip(sources, tables, strict=True))
    clouds = [first, *(other.align_columns(first.names, first.name) for other in others)]
    if other := next((cloud for cloud in clouds if cloud.d != first.d), None):
        found = f"d = {first.d} in {first.name} and d = {other.d} in {other.name}"
        raise InputError(f"all samples must have points of one dimension, got {found}")
    return clouds, Units(choose_spreads(scale, clouds))
