"""Points from tables: CSV files, Parquet files, folders of them, and data frames. Needs pyarrow.

Columns of numbers, booleans, decimals, dictionaries of numbers and lists of equally many numbers are read. A notice names every
column that is skipped, with the reason. A column with numbers and other text is an error that names its column and line.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from rieszflow._infra.messages import Notice, notice, one_line
from rieszflow._types import PointSource
from rieszflow.data.arrow import Column, Part, Reader, fits_float32, is_list, skip_reason, storage
from rieszflow.data.csv_file import CsvFile
from rieszflow.data.options import TableOptions, cell_error, check_distinct, check_known, column_difference, delimiter_hint
from rieszflow.data.paths import PARQUET, is_system, is_table, quoted, suffix, table_format
from rieszflow.data.points import conversion_hint, is_frame
from rieszflow.data.streams import BATCH_ROWS, Stream, rows_per_batch
from rieszflow.errors import DatasetError, InputTypeError

_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"|Unnamed: 0(\.\d+)?")


def open_table(name: str, source: PointSource, options: TableOptions) -> Stream:
    """Open a table: a data frame, a file, several files or a folder of files with the same columns."""
    return _open(name, parts_of(source, options), options)[0]


def parts_of(source: PointSource, options: TableOptions) -> list[Part]:
    """Return the parts of a table: a data frame, or all of its files."""
    if is_frame(source):
        return [_Frame(source)]
    files = source if isinstance(source, list) else [Path(str(source))]
    if files[0].is_dir():
        files = _files_in(files[0])
    if missing := next((file for file in files if not file.is_file()), None):
        raise DatasetError(f"{missing}: no such file or folder")
    return [_ParquetFile(file) if suffix(file) in PARQUET else CsvFile(file, options) for file in files]


class _Typed(Part):
    """A part with a schema that states the types of its columns."""

    def __init__(self, name: str, schema: pa.Schema, n: int) -> None:
        super().__init__(name, dict(zip(check_distinct(name, schema.names), schema.types, strict=True)))
        self.n, self.extensions = n, _extensions(schema)
        try:
            self.index = {c for c in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(c, str)}
        except (ValueError, AttributeError, TypeError):  # foreign metadata under this name
            self.index = ()


class _Frame(_Typed):
    """A data frame of any library that exports Arrow tables."""

    def __init__(self, frame: Any) -> None:
        name, index = type(frame).__name__, []
        try:
            if any(base.__module__.partition(".")[0] == "pandas" for base in type(frame).__mro__):
                self.table = pa.Table.from_pandas(frame, preserve_index=False)
                index = [str(label) for label in frame.index.names if label is not None]
            elif hasattr(frame, "__arrow_c_stream__"):
                self.table = pa.table(frame)
            else:
                raise InputTypeError("it has no __arrow_c_stream__")
        except Exception as error:  # any library may raise anything
            hint = conversion_hint(frame)
            raise DatasetError(f"{name}: cannot be read as a table with named columns ({one_line(error)}){hint}") from None
        if index:
            notice(f"{name}: skipped the index {quoted(index)}, which is not a column; reset_index() makes it one")
        super().__init__(name, self.table.schema, self.table.num_rows)

    def batches(self, columns: list[str], as_text: Collection[str]) -> Iterable[pa.RecordBatch]:
        return self.table.select(columns).to_batches(BATCH_ROWS)


class _ParquetFile(_Typed):
    def __init__(self, file: Path) -> None:
        self.file = file
        with self._open() as content:
            schema, n = content.schema_arrow, content.metadata.num_rows
            groups = [content.metadata.row_group(k) for k in range(content.metadata.num_row_groups)]
            numbers = sum(group.column(k).num_values for group in groups for k in range(group.num_columns))
        super().__init__(str(file), schema, n)
        self.lists = {field.name for field in schema if is_list(storage(field.type))}
        self.list_width = numbers // max(1, n)

    def _open(self) -> pa.parquet.ParquetFile:
        try:
            return pa.parquet.ParquetFile(self.file)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self.file}: not a Parquet data set, or damaged ({one_line(error)})") from None

    def batches(self, columns: list[str], as_text: Collection[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as content:
            width = self.list_width if self.lists.intersection(columns) else 0
            yield from content.iter_batches(rows_per_batch(max(len(columns), width)), columns=columns)

    def explain(self, columns: list[str], error: Exception) -> Exception:
        return DatasetError(f"{self.file}: damaged ({one_line(error)})")


def _extensions(schema: pa.Schema) -> dict[str, str]:
    """Return the extension types of columns whose numbers mean something else, such as pandas periods; not those of lists."""
    found = {}
    for field in schema:
        name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")  # of an unregistered type
        if isinstance(field.type, pa.BaseExtensionType):
            name = getattr(field.type, "extension_name", str(field.type))
        if name and name != "arrow.bool8" and not is_list(storage(field.type)):
            found[field.name] = name
    return found


def _files_in(folder: Path) -> list[Path]:
    """Return the tables below a folder, all of one kind."""
    below = list(folder.rglob("*"))
    if kind := table_format(folder, below):
        advice = "whose log lists the current files; read it with a library for this format and pass the data frame"
        raise DatasetError(f"{folder}: must be a folder of plain tables, got a table of {kind}, {advice}")
    files = [f.relative_to(folder) for f in below if f.is_file() and not is_system(f.relative_to(folder))]
    hidden = [next((part for part in f.parts if part.startswith((".", "_"))), "") for f in files]
    if any(hidden):
        notice(f"{folder}: skipped {quoted(sorted(set(hidden) - {''}))}: names that begin with '_' or '.' are hidden")
    visible = sorted(f for f, name in zip(files, hidden, strict=True) if not name)
    tables = [f for f in visible if is_table(f)]
    parquet = [f for f in tables if suffix(f) in PARQUET]
    if 0 < len(parquet) < len(tables):
        other = next(f for f in tables if f not in parquet)
        raise DatasetError(f"{folder}: must hold tables of one kind, got {parquet[0].name} and {other.name}")
    if rest := [f.name for f in visible if f not in tables]:
        notice(f"{folder}: skipped {quoted(rest)}: not tables")
    if not tables:
        raise DatasetError(f"{folder}: must hold tables, got only hidden ones")
    if keys := sorted({part for f in tables for part in f.parts[:-1] if "=" in part}):
        notice(f"{folder}: names of folders ({quoted(keys)}) are not read as a column")
    return [folder / f for f in tables]


def _split_labels(name: str, parts: list[Part], options: TableOptions, column: str) -> tuple[Stream, list[object]]:
    """Return a table without one column, and that column as labels; None stands for a missing one."""
    check_known(name, list(parts[0].types), [column])
    for part in parts:
        if kind := part.extensions.get(column):
            raise DatasetError(f"{part.name}: labels in column {column!r} must have a plain type, got {kind}")
    rest = None if options.columns is None else [c for c in options.columns if c != column]
    options = replace(options, columns=rest, exclude=[*options.exclude, column])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)  # given when the table was opened
        points, reader = _open(name, parts, options, column)
    return points, reader.labels()


def _open(name: str, parts: list[Part], options: TableOptions, label: str | None = None) -> tuple[Stream, Reader]:
    """Return the points of a table and their reader, after checks that involve all columns and parts."""
    names = list(parts[0].types)
    for part in parts:
        if set(part.types) != set(names):
            difference = column_difference(list(part.types), names, f"{parts[0].name} has")
            raise DatasetError(f"{part.name}: {difference}; all files must have the same columns")
    check_known(name, names, (*(options.columns or ()), *options.exclude))
    wanted = [c for c in options.columns or names if c not in options.exclude]
    skipped, float32 = _skipped_columns(parts, wanted, options)
    columns = [c for c in wanted if c not in skipped]
    if options.columns is None:
        known = {c for part in parts for c in part.index}
        unnamed = names[0] if len(names) > 1 and _UNNAMED.fullmatch(names[0]) else None
        skipped |= {c: "an index written by pandas" for c in columns if c in known or c == unnamed or _INDEX.fullmatch(c)}
        columns = [c for c in columns if c not in skipped]
    elif skipped:
        column = next(c for c in wanted if c in skipped)
        raise DatasetError(f"{name}: column {column!r} must hold numbers to be chosen, got {skipped[column]}")
    if not wanted:
        raise DatasetError(f"{name}: `exclude` must leave at least one column, got {list(options.exclude)!r}")
    if not columns:
        reasons = "; ".join(f"{c!r}: {r}" for c, r in list(skipped.items())[:6])
        hint = delimiter_hint(names, options)
        raise DatasetError(f"{name}: no numeric columns among {', '.join(names[:20])} ({reasons}){hint}")
    if skipped:
        shown = [f"{c!r} ({reason})" for c, reason in skipped.items()]
        more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
        notice(f"{name}: skipped {'column' if len(shown) == 1 else 'columns'} {', '.join(shown[:20])}{more}")
    reader = Reader(name, parts, columns, float32, options, label)
    widths = reader.widths()
    flat = [c if w == 1 and c not in reader.lists else f"{c}[{k}]" for c, w in widths.items() for k in range(w)]
    counts = [part.n for part in parts if part.n is not None]
    n = sum(counts) if options.missing is None and len(counts) == len(parts) else None
    found = Stream(
        name, reader.matrices, n, flat if parts[0].named else None,
        skipped=skipped, split_labels=functools.partial(_split_labels, name, parts, options),
    )  # fmt: skip
    return found, reader


def _skipped_columns(parts: list[Part], wanted: list[str], options: TableOptions) -> tuple[dict[str, str], bool]:
    """Return the columns that are skipped, with the reason, and whether float32 holds the values of all others."""
    skipped, float32 = {}, True

    def reason_for(part: Part, column: str) -> str | None:
        if column in part.extensions:
            return f"of the type {part.extensions[column]}"
        return skip_reason(part.types[column], options)

    samples = [_first_rows(part, [c for c in wanted if reason_for(part, c) == "text"]) for part in parts]
    for column in wanted:
        reasons: dict[str, str | None] = {}
        for part, sample in zip(parts, samples, strict=True):
            kind = part.types[column]
            if part.n == 0 or (pa.types.is_null(kind) and len(parts) > 1):
                continue  # a file without rows, or without a value in this column, has no type of its own
            reason = reason_for(part, column)
            if reason == "text" and _holds_numbers(part, column, sample.get(column), options):
                reason = None
            reasons[part.name] = reason
            float32 &= reason is not None or fits_float32(kind)
        kinds = set(reasons.values()) or {"empty: no value in it"}
        if None in kinds and len(kinds) > 1:
            one, given = next((name, r) for name, r in reasons.items() if r is not None)
            other = next(name for name, r in reasons.items() if r is None)
            raise DatasetError(f"{one}: column {column!r} must hold numbers as in {other}, got {given}")
        if None not in kinds:
            skipped[column] = str(next(iter(kinds)))
    return skipped, float32


def _first_rows(part: Part, columns: list[str]) -> dict[str, Column]:
    """Return the first batch of some columns; the pass over the numbers reports errors."""
    try:
        batch = next(iter(part.batches(columns, ())), None) if columns else None
    except (pa.ArrowException, OSError, UnicodeError):
        return {}
    return {} if batch is None else {c: batch.column(c) for c in columns}


def _holds_numbers(part: Part, column: str, values: Column | None, options: TableOptions) -> bool:
    """Return True if all cells are numbers in the format of the options, False if none is; otherwise raise DatasetError."""
    cells = [] if values is None else values.to_pylist()[:BATCH_ROWS]
    known = [(k, v) for k, v in enumerate(cells) if v is not None and v.strip() and v not in (options.missing or ())]
    numbers = [options.is_number(v) for _, v in known]
    if known and all(numbers):
        if part.typed:
            notice(f"{part.name}: the text of column {column!r} is read as numbers")
        return True
    if not options.resemble_numbers([v for _, v in known]):
        return False
    row, cell = next(pair for pair, valid in zip(known, numbers, strict=True) if not valid)
    raise cell_error(part.name, column, part.place(row), cell)
