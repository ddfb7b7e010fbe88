"""Tables in, points out: CSV files, Parquet files, folders of them, and data frames, through pyarrow.

A column is what has a name; a point is a row. Numbers, truth values, decimals, dictionary columns of numbers and lists of
numbers of one length are read, whatever their width. Nothing else is guessed: a column that is left out is named in a notice,
with the reason, and a column that holds numbers and something else is an error that names its column and line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._infra.notices import Notice, notice
from rieszflow._infra.text import one_line
from rieszflow.data.arrow import arrow, extensions, index_columns, is_list, is_single, storage, why_not
from rieszflow.data.columns import difference, different, known, named, other_delimiter, without_index
from rieszflow.data.csv_file import CsvFile
from rieszflow.data.options import Reading
from rieszflow.data.parts import ROWS, Part, row_place, rows_at_once, text_kind
from rieszflow.data.paths import PARQUET, is_system, is_table, lake, suffix
from rieszflow.data.points import conversion
from rieszflow.data.reader import Reader
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["Table", "is_frame", "open_frame", "open_table", "parts_of", "with_labels"]


@dataclass
class Table:
    """Columns of numbers.

    Attributes:
        name: of the file or frame, for messages.
        names: of the d numbers of a point; None where the file has no header.
        n: rows; None where only a pass would tell.
        batches: a pass over all rows, as matrices (m, d), all float32 or all float64.
        left_out: columns that are not read, with the reason; without those that `exclude` and `columns` leave out.
        parts: the files, or the frame.
        reading: how they are read.
    """

    name: str
    names: list[str] | None
    n: int | None
    batches: Callable[[], Iterator[np.ndarray]]
    left_out: dict[str, str]
    parts: list[Part]
    reading: Reading


def is_frame(source: Any) -> bool:
    """Return True for a table in memory: of pandas, polars, Arrow, …

    An xarray array is not one: it exports itself to Arrow, but with one row per number, which loses its shape.
    """
    exports = hasattr(source, "__arrow_c_stream__") or hasattr(source, "__dataframe__")
    return exports and not hasattr(type(source), "dims")


def open_table(path: Path | list[Path], reading: Reading) -> Table:
    """A table's file, or several, or a folder of files, with the same columns.

    Raises:
        DatasetError: no table, damaged, no numbers in it, missing values, or columns that do not fit together.
    """
    name = f"{path[0]}, …" if isinstance(path, list) else str(path)
    pa = arrow(name)
    return _table(name, parts_of(path, reading, pa), reading, pa)[0]


def open_frame(frame: Any, reading: Reading) -> Table:
    """A table in memory: whatever gives itself to Arrow."""
    name = type(frame).__name__
    pa = arrow(name)
    return _table(name, parts_of(frame, reading, pa), reading, pa)[0]


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
            table = pa.Table.from_pandas(frame, preserve_index=False)
            index = [str(label) for label in frame.index.names if label is not None]
        elif hasattr(frame, "__arrow_c_stream__"):
            table, index = pa.table(frame), []
        else:
            raise InputTypeError("it does not give itself to Arrow")
    except Exception as error:  # any library may be behind it
        why = one_line(error)
        raise DatasetError(f"{name}: cannot be read as a table with named columns ({why}){conversion(frame)}") from None
    if index:
        notice(f"{name}: left out the index {named(index)}, which is not a column; reset_index() makes it one")

    def batches(columns: list[str], as_text: Collection[str] = ()) -> Iterator[Any]:
        return iter(table.select(columns).to_batches(ROWS))

    return _typed(name, table.schema, batches, table.num_rows, pa)


def _typed(name: str, schema: Any, batches: Callable[..., Iterator[Any]], n: int, pa: Any) -> Part:
    """Return a part from a schema that states the types of its columns."""
    types = types_of(name, schema)
    return Part(name, types, batches, row_place, n, extensions=extensions(schema, pa), index=index_columns(schema))


def types_of(name: str, schema: Any) -> dict[str, Any]:
    return dict(zip(different(name, schema.names), schema.types, strict=True))


def _files(folder: Path) -> list[Path]:
    """The tables below a folder, all of one kind."""
    below = list(folder.rglob("*"))
    if kind := lake(folder, below):
        raise DatasetError(
            f"{folder}: must be a folder of plain tables, got a table of {kind}, whose log says which files are current; read "
            "it with a library for this format and pass the data frame"
        )
    everything = [f for f in below if f.is_file() and not is_system(f.relative_to(folder))]
    found = sorted(f for f in everything if _hidden(f.relative_to(folder)) is None)
    hidden = sorted({part for f in everything if (part := _hidden(f.relative_to(folder))) is not None})
    if hidden:
        notice(f"{folder}: left out {named(hidden)}, because names that begin with '_' or '.' are hidden")
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


def _hidden(path: Path) -> str | None:
    """Return the first part of a path whose name marks it as hidden, or None."""
    return next((part for part in path.parts if part.startswith((".", "_"))), None)


def _parquet(file: Path, pa: Any) -> Part:
    def opened() -> Any:
        try:
            return pa.parquet.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file}: not a Parquet data set, or damaged ({one_line(error)})") from None

    with opened() as content:
        schema, n = content.schema_arrow, content.metadata.num_rows
        groups = [content.metadata.row_group(k) for k in range(content.metadata.num_row_groups)]
        numbers = sum(group.column(k).num_values for group in groups for k in range(group.num_columns))
    lists = {field.name for field in schema if is_list(storage(field.type, pa), pa)}

    def batches(columns: list[str], as_text: Collection[str] = ()) -> Iterator[Any]:
        with opened() as content:
            # A list column is one column here, and its leaves are several to Parquet: names with dots are paths.
            width = numbers // max(1, n) if lists.intersection(columns) else 0
            yield from content.iter_batches(rows_at_once(max(len(columns), width)), columns=columns)

    def explain(columns: list[str], error: Exception) -> Exception:
        return DatasetError(f"{file}: damaged ({one_line(error)})")

    return replace(_typed(str(file), schema, batches, n, pa), explain=explain)


def with_labels(table: Table, column: str) -> tuple[Table, Callable[[], list[Any]]]:
    """Return a table without one column, and a function that reads that column as labels, None where one is missing.

    Raises:
        DatasetError: the column is missing, or has an extension type.
    """
    pa = arrow(table.name)
    known(table.name, list(table.parts[0].types), [column])
    for part in table.parts:
        if column in part.extensions:
            kind = part.extensions[column]
            raise DatasetError(f"{part.name}: labels in column {column!r} must have a plain type, got {kind}")
    rest = None if table.reading.columns is None else [c for c in table.reading.columns if c != column]
    reading = replace(table.reading, columns=rest, exclude=[*table.reading.exclude, column])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # was given when the table was opened
        return _table(table.name, table.parts, reading, pa, column)


def _table(
    name: str, parts: list[Part], reading: Reading, pa: Any, label: str | None = None
) -> tuple[Table, Callable[[], list[Any]]]:
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
        columns = without_index(names, columns, left, {c for part in parts for c in part.index})
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
    reader = Reader(name, parts, columns, single, reading, pa, label)
    widths = reader.widths()
    flat = [c if w == 1 and c not in reader.lists else f"{c}[{k}]" for c, w in widths.items() for k in range(w)]
    counted = [part.n for part in parts]
    n = None if reading.missing is not None or any(k is None for k in counted) else sum(k or 0 for k in counted)
    return Table(name, flat if parts[0].named else None, n, reader.matrices, left, parts, reading), reader.labels


def left_out_columns(parts: list[Part], wanted: list[str], reading: Reading, pa: Any) -> tuple[dict[str, str], bool]:
    """Columns that are not read, with the reason, and whether float32 holds all of the others."""
    left, single = {}, True

    def why(part: Part, column: str) -> str | None:
        if column in part.extensions:
            return f"of the type {part.extensions[column]}"
        return why_not(part.types[column], reading, pa)

    samples = [first_rows(part, [c for c in wanted if why(part, c) == "text"], pa) for part in parts]
    for column in wanted:
        reasons: dict[str, str | None] = {}
        for part, sample in zip(parts, samples, strict=True):
            kind = part.types[column]
            if part.n == 0 or (pa.types.is_null(kind) and len(parts) > 1):
                continue  # a file without rows, or without a value in this column, has no type of its own
            reason = why(part, column)
            reasons[part.name] = text_kind(part, column, sample.get(column), reading) if reason == "text" else reason
            single &= reason is not None or is_single(kind, pa)
        kinds = set(reasons.values()) or {"empty: no value in it"}
        if None in kinds and len(kinds) > 1:
            one, given = next((name, r) for name, r in reasons.items() if r is not None)
            other = next(name for name, r in reasons.items() if r is None)
            raise DatasetError(f"{one}: column {column!r} holds no numbers here ({given}), and does in {other}")
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
