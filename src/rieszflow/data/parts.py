"""The parts of a table: files, queries of DuckDB and data frames, with the names and types of their columns.

Needs duckdb and pyarrow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from rieszflow._infra.messages import notice, one_line
from rieszflow._types import PointSource
from rieszflow.data.csv_file import MISSING, CsvFile, literal
from rieszflow.data.options import NUMBER, TableOptions, check_distinct
from rieszflow.data.paths import JSON, PARQUET, SQL, is_system, is_table, quoted, suffix, table_format
from rieszflow.data.points import conversion_hint, is_frame
from rieszflow.errors import DatasetError, InputTypeError

_WHOLE = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")} | {"INTEGER", "UINTEGER"}


@dataclass
class Part:
    """A file, a query or a data frame: a query for all of its columns, their names, and their types in DuckDB."""

    name: str
    query: str
    names: list[str]
    types: list[str]
    options: TableOptions
    index: Collection[str] = ()  # columns that hold a pandas index
    extensions: Mapping[str, str] = field(default_factory=dict)  # types of columns whose numbers mean something else
    csv: CsvFile | None = None
    frame: pa.Table | None = None

    def locate(self, column: str) -> tuple[str, str]:
        """Return the expression for a column, or for an item of a list such as "e[0]", and its type."""
        if column in self.names:
            k = self.names.index(column)
            return f"c{k}", self.types[k]
        name, _, item = column.removesuffix("]").rpartition("[")
        cell, kind = self.locate(name)
        base = kind[: kind.index("[")]
        return f"{'flatten(' * (kind.count('[') - 1)}{cell}{')' * (kind.count('[') - 1)}[{int(item) + 1}]", base

    def type_of(self, column: str) -> str:
        return self.locate(column)[1]

    def as_text(self, columns: Collection[str]) -> Part:
        """Return the part with some columns of a CSV file as unparsed text."""
        if self.csv is None:
            return self
        return replace(self, types=["VARCHAR" if n in columns else t for n, t in zip(self.names, self.types, strict=True)])

    def source(self) -> str:
        """Return what a query selects from, with columns c0, c1, …"""
        query = self.query if self.csv is None else self.csv.query(self.types)
        return f"({query}) AS part({', '.join(f'c{k}' for k in range(len(self.names)))})"

    def number(self, name: str) -> str:
        """Return the expression for a column's numbers, or its times in seconds, with missing cells as NaN."""
        cell, kind = self.locate(name)
        if kind_of(kind) == "text":
            cell, options = self.text(name), self.options
            if options.thousands:
                cell = f"replace({cell}, {literal(options.thousands)}, '')"
            cell = f"replace(replace({cell}, '.', '?'), ',', '.')" if options.decimal == "," else cell
            return f"coalesce(TRY_CAST({cell} AS DOUBLE), 'nan'::DOUBLE)"
        if kind_of(kind) == "time":
            seconds = kind in ("DATE", "INTERVAL") or not kind.startswith("TIMESTAMP")
            cell += {"TIME_NS": "::TIME", "TIMESTAMPTZ_NS": "::TIMESTAMPTZ"}.get(kind, "")
            cell = f"epoch({cell})" if seconds else f"epoch_us({cell}) / 1e6"
        return f"coalesce(CAST({cell} AS DOUBLE), 'nan'::DOUBLE)"

    def text(self, name: str) -> str:
        """Return the expression for the text of a column's cells, NULL for missing ones."""
        cell, kind = self.locate(name)
        text = f"trim(CAST({cell} AS VARCHAR))"
        if kind_of(kind) == "number":  # pandas turns whole numbers with missing values into floats
            whole = f"{cell} = floor({cell}) AND abs({cell}) < 1e15"
            text = f"CASE WHEN {whole} THEN CAST(CAST({cell} AS BIGINT) AS VARCHAR) ELSE {text} END"
        missing = ["", *(self.options.missing or ()), *(MISSING if self.csv is not None else ())]
        return (
            f"nullif({text}, '')"
            if len(missing) == 1
            else f"CASE WHEN {text} NOT IN ({', '.join(map(literal, missing))}) THEN {text} END"
        )


def kind_of(duckdb_type: str) -> str:
    """Return "number", "whole", "boolean", "time", "text", "list" or "empty"; for other types their names, shortened."""
    base = duckdb_type.partition("(")[0]
    if duckdb_type.endswith("]"):
        inner = kind_of(duckdb_type[: duckdb_type.rindex("[")])
        return "list" if inner in ("number", "whole", "boolean", "list") else f"lists of {inner}"
    if base in _WHOLE:
        return "whole"
    if base in ("FLOAT", "DOUBLE", "DECIMAL"):
        return "number"
    if base in ("DATE", "INTERVAL") or base.startswith("TIME"):
        return "time"
    known = {"BOOLEAN": "boolean", "VARCHAR": "text", "ENUM": "text", '"NULL"': "empty", "BLOB": "binary"}
    nested = base in ("STRUCT", "MAP", "UNION")
    return known.get(base, ("nested: " if nested else "") + duckdb_type.lower()[:60])


def open_parts(source: PointSource, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> tuple[str, list[Part]]:
    """Return the name of a table and its parts: a frame, a query, or all of its files."""
    if is_frame(source):
        part = _frame_part(source, options, connection)
        return part.name, [part]
    if isinstance(source, str) and SQL.match(source):
        return "query", [_described("query", f"FROM ({source})", options, connection)]
    paths = [Path(str(s)) for s in (source if isinstance(source, (list, tuple)) else [source])]
    name = str(paths[0]) + (", …" if len(paths) > 1 else "")
    root = paths[0].parent if len(paths) > 1 else paths[0]
    if len(paths) == 1 and paths[0].is_dir():
        paths = _files_in(paths[0])
    elif len(paths) == 1 and not paths[0].exists() and re.search(r"[*?\[]", name):
        root = next(parent for parent in paths[0].parents if not re.search(r"[*?\[]", str(parent)))
        paths = sorted(Path(paths[0].anchor or ".").glob(str(paths[0]).removeprefix(paths[0].anchor)))
        if not paths:
            raise DatasetError(f"{name}: no such file")
    for path in paths:
        if not path.is_file() and is_table(path):
            raise DatasetError(f"{path}: no such file or folder")
        if not is_table(path):
            raise DatasetError(f"{path}: must be a table ({', '.join(('.csv', '.tsv', *PARQUET, *JSON))}), got another format")
    return name, [_file_part(path, root, options, connection).as_text(options.categories) for path in paths]


def _file_part(path: Path, root: Path, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    name = str(path)
    if suffix(path) not in (*PARQUET, *JSON):
        csv = CsvFile(path, options, connection)
        return Part(name, "", csv.names, csv.types, csv.options, csv=csv)
    if suffix(path) in JSON:
        return _described(name, f"FROM read_json({literal(name)})", options, connection)
    try:
        schema = pa.parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet data set, or damaged ({one_line(error)})") from None
    below = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    partitions = [part.split("=", 1) for part in below if "=" in part]
    query = f"FROM read_parquet({literal(name)}, hive_partitioning = false)"
    if partitions:
        values = ", ".join(
            f"{value if NUMBER.fullmatch(value) else literal(value)} AS part_{k}" for k, (_, value) in enumerate(partitions)
        )
        query = f"SELECT *, {values} {query}"
    part = _described(name, query, options, connection)
    part.names = check_distinct(name, [*schema.names, *(key for key, _ in partitions)])
    part.index, part.extensions = _pandas_index(schema), _extensions(schema)
    return part


def _described(name: str, query: str, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    try:
        relation = connection.sql(query)
        return Part(name, query, check_distinct(name, list(relation.columns)), [str(kind) for kind in relation.types], options)
    except duckdb.Error as error:
        raise DatasetError(f"{name}: cannot be read ({one_line(error)})") from None


def _frame_part(frame: Any, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    name, index = type(frame).__name__, []
    try:
        if any(base.__module__.partition(".")[0] == "pandas" for base in type(frame).__mro__):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            index = [str(label) for label in frame.index.names if label is not None]
        elif hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        else:
            raise InputTypeError("it has no __arrow_c_stream__")
    except Exception as error:  # any library may raise anything
        hint = conversion_hint(frame)
        raise DatasetError(f"{name}: cannot be read as a table with named columns ({one_line(error)}){hint}") from None
    if index:
        notice(f"{name}: skipped the index {quoted(index)}, which is not a column; reset_index() makes it one")
    names = check_distinct(name, table.schema.names)
    known = _pandas_index(table.schema), _extensions(table.schema)
    for k, kind in enumerate(table.schema.types):  # types that DuckDB does not read
        if pa.types.is_float16(kind) or pa.types.is_decimal256(kind):
            table = table.set_column(k, names[k], table.column(k).cast(pa.float64()))
    connection.register("frame", table)
    types = [str(kind) for kind in connection.sql("FROM frame").types]
    return Part(name, "FROM frame", names, types, options, *known, frame=table)


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
    return [folder / f for f in tables]


def _pandas_index(schema: pa.Schema) -> set[str]:
    """Return the columns that hold a pandas index, by the metadata that pandas writes."""
    try:
        return {c for c in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(c, str)}
    except (ValueError, AttributeError, TypeError):  # foreign metadata under this name
        return set()


def _extensions(schema: pa.Schema) -> dict[str, str]:
    """Return the extension types of columns whose numbers mean something else, such as pandas periods; not those of lists."""
    found = {}
    for field_ in schema:
        name = (field_.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")  # of an unregistered type
        if isinstance(field_.type, pa.BaseExtensionType):
            name = getattr(field_.type, "extension_name", str(field_.type))
        if name and name != "arrow.bool8" and "list" not in str(getattr(field_.type, "storage_type", field_.type)):
            found[field_.name] = name
    return found
