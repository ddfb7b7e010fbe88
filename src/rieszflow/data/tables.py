"""Tables in, points out: CSV files, Parquet files, folders of them, and data frames, through pyarrow.

A column is what has a name; a point is a row. Numbers, truth values, decimals, dictionary columns of numbers and lists of
numbers of one length are read, whatever their width. Nothing else is guessed: a column that is left out is named in a notice,
with the reason, and a column that holds numbers and something else is an error that names its column and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._files import one_line
from rieszflow._notices import notice
from rieszflow.data.arrow import arrow, is_single, why_not
from rieszflow.data.columns import difference, different, known, named, other_delimiter, without_index
from rieszflow.data.csv_file import CsvFile
from rieszflow.data.options import Reading
from rieszflow.data.parts import ROWS, Part, row_place, rows_at_once, text_kind
from rieszflow.data.paths import PARQUET, is_table, suffix
from rieszflow.data.reader import Reader
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["Table", "is_frame", "open_frame", "open_table", "parts_of"]


@dataclass
class Table:
    """Columns of numbers.

    Attributes:
        name: of the file or frame, for messages.
        names: of the d numbers of a point; None where the file has no header.
        n: rows; None where only a pass would tell.
        batches: a pass over all rows, as matrices (m, d), all float32 or all float64.
        left_out: columns that are not read, with the reason; without those that `exclude` and `columns` leave out.
    """

    name: str
    names: list[str] | None
    n: int | None
    batches: Callable[[], Iterator[np.ndarray]]
    left_out: dict[str, str]


def is_frame(source: Any) -> bool:
    """Whether an object is a table in memory: of pandas, polars, Arrow, …"""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__dataframe__")


def open_table(path: Path | list[Path], reading: Reading) -> Table:
    """A table's file, or several, or a folder of files, with the same columns.

    Raises:
        DatasetError: no table, damaged, no numbers in it, missing values, or columns that do not fit together.
    """
    name = f"{path[0]}, …" if isinstance(path, list) else str(path)
    pa = arrow(name)
    return _table(name, parts_of(path, reading, pa), reading, pa)


def open_frame(frame: Any, reading: Reading) -> Table:
    """A table in memory: whatever gives itself to Arrow."""
    name = type(frame).__name__
    pa = arrow(name)
    return _table(name, parts_of(frame, reading, pa), reading, pa)


def parts_of(source: Any, reading: Reading, pa: Any) -> list[Part]:
    """A frame, or every file of a table."""
    if is_frame(source):
        return [_in_memory(source, pa)]
    path = source if isinstance(source, list) else Path(source)
    files = path if isinstance(path, list) else _files(path) if path.is_dir() else [path]
    parts = []
    for file in files:
        if not file.is_file():
            raise DatasetError(f"{file}: no such file or folder")
        parts.append(_parquet(file, pa) if suffix(file) in PARQUET else CsvFile(file, reading, pa).part())
    return parts


def _in_memory(frame: Any, pa: Any) -> Part:
    name = type(frame).__name__
    try:
        if any(of.__module__.partition(".")[0] == "pandas" for of in type(frame).__mro__):
            # Rows always have labels in pandas. Only those that somebody gave a name are a column.
            table = pa.Table.from_pandas(frame, preserve_index=any(name is not None for name in frame.index.names))
        elif hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        else:
            raise InputTypeError("it does not give itself to Arrow")
    except Exception as error:  # any library may be behind it
        raise DatasetError(f"{name}: cannot be read as a table with named columns ({one_line(error)})") from None

    def batches(columns: list[str]) -> Iterator[Any]:
        return iter(table.select(columns).to_batches(ROWS))

    return Part(name, types_of(name, table.schema), batches, row_place, table.num_rows)


def types_of(name: str, schema: Any) -> dict[str, Any]:
    return dict(zip(different(name, schema.names), schema.types, strict=True))


def _files(folder: Path) -> list[Path]:
    """The tables below a folder, all of one kind."""
    found = sorted(f for f in folder.rglob("*") if f.is_file() and not _hidden(f.relative_to(folder)))
    tables = [f for f in found if is_table(f)]
    parquet = [f for f in tables if suffix(f) in PARQUET]
    if parquet and len(parquet) < len(tables):
        other = next(f for f in tables if f not in parquet)
        raise DatasetError(
            f"{folder}: holds {parquet[0].name} and {other.name}; tables of one kind are accepted, or one of them"
        )
    rest = [f.name for f in found if f not in tables]
    if rest:
        notice(f"{folder}: left out {named(rest)}: no tables")
    if not tables:
        raise DatasetError(f"{folder}: holds no tables but hidden ones")
    keys = sorted({p for f in tables for p in f.relative_to(folder).parts[:-1] if "=" in p})
    if keys:
        notice(f"{folder}: the names of folders ({named(keys)}) are not read as a column")
    return tables


def _hidden(path: Path) -> bool:
    """Files that systems leave in folders, and folders of such files."""
    return any(part.startswith((".", "_")) or part in ("Thumbs.db", "desktop.ini") for part in path.parts)


def _parquet(file: Path, pa: Any) -> Part:
    def opened() -> Any:
        try:
            return pa.parquet.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file}: not a Parquet data set, or damaged ({one_line(error)})") from None

    with opened() as content:
        schema, n = content.schema_arrow, content.metadata.num_rows

    def batches(columns: list[str]) -> Iterator[Any]:
        with opened() as content:
            # A list column is one column here, and its leaves are several to Parquet: names with dots are paths.
            yield from content.iter_batches(rows_at_once(len(columns)), columns=columns)

    def explain(columns: list[str], error: Exception) -> Exception:
        return DatasetError(f"{file}: damaged ({one_line(error)})")

    return Part(str(file), types_of(str(file), schema), batches, row_place, n, explain=explain)


def _table(name: str, parts: list[Part], reading: Reading, pa: Any) -> Table:
    names = list(parts[0].types)
    for part in parts:
        mine = list(part.types)
        if set(mine) != set(names):
            raise DatasetError(
                f"{part.name}: {difference(mine, names, f'{parts[0].name} has')}; all files need the same columns"
            )
    known(name, names, (*(reading.columns or ()), *reading.exclude))
    wanted = [c for c in reading.columns or names if c not in reading.exclude]
    left, single = left_out_columns(parts, wanted, reading, pa)
    columns = [c for c in wanted if c not in left]
    if reading.columns is None:
        columns = without_index(names, columns, left)
    elif left:
        column = next(c for c in wanted if c in left)
        raise DatasetError(f"{name}: column {column!r} was asked for and holds no numbers: {left[column]}")
    if not wanted:
        raise DatasetError(f"{name}: no column is left after exclude={list(reading.exclude)!r}")
    if not columns:
        reasons = "; ".join(f"{c!r}: {r}" for c, r in list(left.items())[:6])
        hint = other_delimiter(names, reading)
        raise DatasetError(f"{name}: no numeric columns among {', '.join(names[:20])} ({reasons}){hint}")
    if left:
        shown = [f"{c!r} ({reason})" for c, reason in left.items()]
        more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
        notice(f"{name}: left out {'column' if len(shown) == 1 else 'columns'} {', '.join(shown[:20])}{more}")
    reader = Reader(name, parts, columns, single, reading, pa)
    widths = reader.widths()
    flat = [c if w == 1 and c not in reader.lists else f"{c}[{k}]" for c, w in widths.items() for k in range(w)]
    counted = [part.n for part in parts]
    n = None if reading.missing is not None or any(k is None for k in counted) else sum(k or 0 for k in counted)
    return Table(name, flat if parts[0].named else None, n, reader.matrices, left)


def left_out_columns(parts: list[Part], wanted: list[str], reading: Reading, pa: Any) -> tuple[dict[str, str], bool]:
    """Columns that are not read, with the reason, and whether float32 holds all of the others."""
    left, single = {}, True
    samples = [first_rows(part, [c for c in wanted if why_not(part.types[c], reading, pa) == "text"], pa) for part in parts]
    for column in wanted:
        reasons: dict[str, str | None] = {}
        for part, sample in zip(parts, samples, strict=True):
            kind = part.types[column]
            if part.n == 0 or (pa.types.is_null(kind) and len(parts) > 1):
                continue  # a file without rows, or without a value in this column, has no type of its own
            reason = why_not(kind, reading, pa)
            reasons[part.name] = text_kind(part, column, sample.get(column), reading) if reason == "text" else reason
            single &= reason is not None or is_single(kind, pa)
        kinds = set(reasons.values()) or {"empty: no value in it"}
        if None in kinds and len(kinds) > 1:
            one, why = next((name, r) for name, r in reasons.items() if r is not None)
            other = next(name for name, r in reasons.items() if r is None)
            raise DatasetError(f"{one}: column {column!r} holds no numbers here ({why}), and does in {other}")
        if None not in kinds:
            left[column] = str(next(iter(kinds)))
    return left, single


def first_rows(part: Part, columns: list[str], pa: Any) -> dict[str, Any]:
    """The first rows of some columns."""
    if not columns:
        return {}
    try:
        batch = next(iter(part.batches(columns)), None)
    except (pa.ArrowException, OSError, UnicodeError):
        return {}
    return {} if batch is None else {c: batch.column(c) for c in columns}
