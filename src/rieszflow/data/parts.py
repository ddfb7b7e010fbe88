"""One file, or one frame, of a table; and the texts in it that are numbers, mean numbers, or are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rieszflow._infra.notices import notice
from rieszflow.data.options import Reading
from rieszflow.errors import DatasetError

__all__ = ["MOST_NUMBERS", "PLAIN", "ROWS", "Part", "is_missing", "mixed", "row_place", "rows_at_once", "text_kind"]

ROWS = 1 << 16  # rows in a batch
MOST_NUMBERS = 1 << 24  # numbers in a batch
PLAIN = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
# What people write and mean as a number: with separators of thousands, a decimal comma, a sign of currency, per cent.
MEANT = re.compile(
    r"\s*[$€£¥]?\s*[+-]?(\d+[.,]?\d*|[.,]\d+|\d{1,3}([,.' _\u00a0\u202f]\d{3})+([.,]\d+)?)([eE][+-]?\d+)?\s*[%$€£¥]?\s*"
)
# Cells that stand for no value, where other cells of the column are numbers.
NO_VALUE = {"", "?", "-", "--", ".", "*", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown", "#n/a"}


@dataclass
class Part:
    """One file or frame: the types of its columns, and a pass over some of them. `place(column, row)` says where a row is.

    `batches(columns, as_text)` yields the CSV columns in `as_text` as unparsed text; other parts ignore `as_text`.
    """

    name: str
    types: dict[str, Any]
    batches: Callable[..., Iterator[Any]]
    place: Callable[[str, int], str]
    n: int | None = None
    named: bool = True
    typed: bool = True  # the types are the file's own, not found by looking at the cells
    explain: Callable[[list[str], Exception], Exception] | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)  # names of extension types whose numbers mean something else
    index: Collection[str] = ()  # columns that hold a pandas index
    empty: Collection[str] = ()  # texts that mark a missing value


def is_missing(value: object, empty: Collection[str] = ()) -> bool:
    """Return True for a missing value: None, NaN, NaT, pandas' NA, blank text, or one of the texts in `empty`."""
    if isinstance(value, str):
        return not value.strip() or value in empty
    try:
        return value is None or not bool(value == value)
    except (TypeError, ValueError):  # neither NA nor an array has a truth value; an array is not missing
        return type(value).__name__ == "NAType"


def row_place(column: str, row: int) -> str:
    return f"row {row}, counted from 0"


def rows_at_once(d: int) -> int:
    return max(1, min(ROWS, MOST_NUMBERS // max(1, d)))


def text_kind(part: Part, column: str, values: Any, reading: Reading) -> str | None:
    """Whether cells of text are numbers that the options read (None), no numbers (the reason), or a mixture (an error)."""
    cells = [] if values is None else values.to_pylist()[:ROWS]
    known = [(k, v) for k, v in enumerate(cells) if v is not None and v.strip() and v not in (reading.missing or ())]
    plain = [bool(PLAIN.fullmatch(reading.plain(v))) for _, v in known]
    if known and all(plain):
        if part.typed:
            notice(f"{part.name}: column {column!r} is of text that reads as numbers, and is read so")
        return None
    if not any(plain) and not any(MEANT.fullmatch(v) for _, v in known):
        if known and all(v.strip().lower() in NO_VALUE for _, v in known):
            raise mixed(part.name, column, part.place(column, known[0][0]), known[0][1])
        return "text"
    row, cell = next(pair for pair, fine in zip(known, plain, strict=True) if not fine)
    raise mixed(part.name, column, part.place(column, row), cell)


def mixed(name: str, column: str, place: str, cell: str) -> DatasetError:
    """The error of a column that holds numbers and something else."""
    if cell.strip().lower() in NO_VALUE:
        how = f"give missing=[{cell!r}] to leave such rows out"
    elif MEANT.fullmatch(cell):
        how = "give thousands=… or decimal=… if it is a number so written"
    else:
        how = "mend it"
    return DatasetError(
        f"{name}: column {column!r}, {place}: {cell!r} is no number as the others are; {how}, or exclude the column"
    )
