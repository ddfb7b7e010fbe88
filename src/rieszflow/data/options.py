"""Options of tables, names of columns, and cells of text that hold numbers or mark missing values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from rieszflow._infra.messages import suggestion
from rieszflow.data.paths import quoted
from rieszflow.errors import DatasetError, InputError

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
# Numbers with separators of thousands, a decimal comma, a currency or a percent sign; the syntax is that of Python and DuckDB.
FORMATTED_NUMBER = (
    r"\s*[$€£¥]?\s*[+-]?(\d+[.,]?\d*|[.,]\d+|\d{1,3}([,.' _"
    "\u00a0\u202f"
    r"]\d{3})+([.,]\d+)?)([eE][+-]?\d+)?\s*[%$€£¥]?\s*"
)
# Cells that mark a missing value if other cells of the column are numbers.
MISSING_MARKERS = {"", "?", "-", "--", ".", "*", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown", "#n/a"}


@dataclass(frozen=True)
class TableOptions:
    """The keyword arguments of `rieszflow.stream` that define how tables are read."""

    columns: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    header: bool | str = "auto"
    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing: Sequence[str] | None = None
    categories: Sequence[str] = ()
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        for name in ("columns", "exclude", "missing", "categories"):
            value = getattr(self, name)
            if value is None and name in ("columns", "missing"):
                continue
            if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
                raise InputError(f"`{name}` must be a list of strings, got {value!r}")
            object.__setattr__(self, name, tuple(value))  # lists and tuples of equal names are equal options
        distinct = self.columns is None or len(set(self.columns)) == len(self.columns) > 0
        for name, valid, accepted in (
            ("columns", distinct, "one or more different names"),
            ("header", self.header in ("auto", True, False), "True, False or 'auto'"),
            ("delimiter", self.delimiter is None or _is_character(self.delimiter), "a single character"),
            ("decimal", self.decimal in (".", ","), "'.' or ','"),
            ("thousands", self.thousands is None or _is_character(self.thousands), "a single character"),
            ("thousands", self.thousands != self.decimal, "different from `decimal`"),
        ):
            if not valid:
                raise InputError(f"`{name}` must be {accepted}, got {getattr(self, name)!r}")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError):
            raise InputError(f"`encoding` must be a name like 'utf-8' or 'latin-1', got {self.encoding!r}") from None

    def is_number(self, cell: str) -> bool:
        """Return True if a cell is a number in the format of these options."""
        return NUMBER.fullmatch(self.normalized(cell)) is not None

    def normalized(self, cell: str) -> str:
        """Return a cell without separators of thousands and with a decimal point."""
        cell = cell.strip()
        if self.thousands:
            cell = cell.replace(self.thousands, "")
        return cell.replace(".", "\0").replace(self.decimal, ".") if self.decimal != "." else cell


def _is_character(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1


def is_missing(value: object, markers: Collection[str] = ()) -> bool:
    """Return True for a missing value: None, NaN, NaT, pandas' NA, blank text, or one of the texts in `markers`."""
    if isinstance(value, str):
        return not value.strip() or value in markers
    try:
        return value is None or not bool(value == value)
    except (TypeError, ValueError):  # neither NA nor an array has a truth value; an array is not missing
        return type(value).__name__ == "NAType"


def cell_error(name: str, column: str, place: str, cell: str) -> DatasetError:
    """Return the error for a cell that is not a number in a column of numbers."""
    if cell.strip().lower() in MISSING_MARKERS:
        advice = f"give missing=[{cell!r}] if it marks a missing value"
    elif re.fullmatch(FORMATTED_NUMBER, cell):
        advice = "if it is a formatted number, give thousands=… or decimal=…"
    else:
        advice = "correct it"
    either = f"or categories=[{column!r}] to read all cells as text, or exclude the column"
    return DatasetError(f"{name}: column {column!r}, {place}: must be a number, got {cell!r}; {advice}, {either}")


def column_difference(mine: Sequence[str], theirs: Sequence[str], whose: str) -> str:
    """Describe how two sets of column names differ; `whose` is the subject and verb of the other, such as "b.csv has"."""
    extra, lacking = [n for n in mine if n not in set(theirs)], [n for n in theirs if n not in set(mine)]
    if extra and lacking:
        return f"has different columns: it has {quoted(extra)}, {whose} {quoted(lacking)}"
    return f"has the additional column {quoted(extra)}" if extra else f"lacks {quoted(lacking)}"


def check_distinct(name: str, columns: list[str]) -> list[str]:
    """Return the columns' names, or raise DatasetError if two are equal."""
    if len(set(columns)) < len(columns):
        duplicate = next(c for c in columns if columns.count(c) > 1)
        raise DatasetError(f"{name}: column names must be different, got {duplicate!r} twice")
    return columns


def check_known(name: str, columns: list[str], wanted: Iterable[str]) -> None:
    """Raise DatasetError unless all wanted columns exist."""
    for column in wanted:
        if column not in columns:
            hint = suggestion(column, columns) or f"it has {quoted(columns, 20)}"
            raise DatasetError(f"{name}: no column {column!r}; {hint}")
