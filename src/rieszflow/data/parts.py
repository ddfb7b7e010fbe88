"""The parts of a table: files, queries of DuckDB and data frames, with the names and types of their columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet

from rieszflow._infra.messages import notice, one_line
from rieszflow._types import PointSource
from rieszflow.data.csv_file import MISSING, NUMBER, CsvFile, TableOptions, literal
from rieszflow.data.paths import JSON, PARQUET, SYSTEM, check_distinct, is_query, is_table, quoted, suffix
from rieszflow.data.points import conversion_hint, is_frame
from rieszflow.errors import DatasetError

_WHOLE = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")} | {"INTEGER", "UINTEGER"}
_MARKERS = ("_success", "_metadata", "_common_metadata", ".ds_store")  # left by table writers next to the data
_LOGS = {
    "_delta_log": "Delta Lake", ".hoodie": "Hudi", "_spark_metadata": "Spark's streaming sink",
    "metadata/*.metadata.json": "Iceberg",
}  # fmt: skip
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_KINDS = {"BOOLEAN": "boolean", "VARCHAR": "text", "ENUM": "text", '"NULL"': "empty", "BLOB": "binary", "INTERVAL": "time"}


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
    frame: pa.Table | None = None
    csv: CsvFile | None = None
    partitions: Sequence[str] = ()  # literals of the last columns, which the names of folders give

    def locate(self, column: str) -> tuple[str, str]:
        """Return the expression for a column, or for an item of a list such as "e[0]", and its type."""
        if column in self.names:
            k = self.names.index(column)
            return f"c{k}", self.types[k]
        name, _, item = column.removesuffix("]").rpartition("[")
        return f"{self.flat(name)}[{int(item) + 1}]", self.type_of(name).partition("[")[0]

    def flat(self, column: str) -> str:
        """Return the expression for a column of lists, without lists in them."""
        cell, kind = self.locate(column)
        nested = kind.count("[") - 1
        return f"{'flatten(' * nested}{cell}{')' * nested}"

    def type_of(self, column: str) -> str:
        return self.locate(column)[1]

    def retyped(self, column: str, kind: str) -> Part:
        """Return the part with another type of a column."""
        return replace(self, types=[kind if n == column else t for n, t in zip(self.names, self.types, strict=True)])

    def source(self) -> str:
        """Return what a query selects from, with columns c0, c1, …"""
        query = self.query if self.csv is None else self.csv.query(self.types[: len(self.csv.names)])
        names = ", ".join(f"c{k}" for k in range(len(self.names)))
        return f"(SELECT {', '.join(['*', *self.partitions])} FROM ({query})) AS part({names})"

    def number(self, name: str) -> str:
        """Return the expression for a column's numbers, or its times in seconds, with missing cells as NaN."""
        cell, kind = self.locate(name)
        if kind_of(kind) == "text":
            cell, options = self.text(name), self.options
            cell = f"replace({cell}, {literal(options.thousands)}, '')" if options.thousands else cell
            cell = f"replace(replace({cell}, '.', '?'), ',', '.')" if options.decimal == "," else cell
            return f"coalesce(TRY_CAST({cell} AS DOUBLE), 'nan'::DOUBLE)"
        if kind_of(kind) == "time":
            cell += {"TIME_NS": "::TIME", "TIMESTAMPTZ_NS": "::TIMESTAMPTZ"}.get(kind, "")
            cell = f"epoch_us({cell}) / 1e6" if kind.startswith("TIMESTAMP") else f"epoch({cell})"
        return f"coalesce(CAST({cell} AS DOUBLE), 'nan'::DOUBLE)"

    def text(self, name: str) -> str:
        """Return the expression for the text of a column's cells, NULL for missing ones, without blanks around CSV cells."""
        cell, kind = self.locate(name)
        text = f"trim(CAST({cell} AS VARCHAR))" if self.csv else f"CAST({cell} AS VARCHAR)"
        if kind_of(kind) == "number":  # pandas turns whole numbers with missing values into floats
            whole = f"{cell} = floor({cell}) AND abs({cell}) < 1e15"
            text = f"CASE WHEN {whole} THEN CAST(CAST({cell} AS BIGINT) AS VARCHAR) ELSE {text} END"
        missing = ["", *(self.options.missing or ()), *(MISSING if self.csv else ())]
        return f"CASE WHEN trim({text}) NOT IN ({', '.join(map(literal, missing))}) THEN {text} END"


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
    if base.startswith(("DATE", "TIME")):
        return "time"
    nested = "nested: " if base in ("STRUCT", "MAP", "UNION") else ""
    return _KINDS.get(base, nested + duckdb_type.lower()[:60])


def open_parts(source: PointSource, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> tuple[str, list[Part]]:
    """Return the name of a table and its parts: a frame, a query, or all of its files."""
    if is_frame(source):
        part = _frame_part(source, options, connection)
        return part.name, [part]
    if is_query(source):
        return "query", [_described("query", f"FROM ({source})", options, connection)]
    paths = [Path(str(s)) for s in (source if isinstance(source, (list, tuple)) else [source])]
    name, root = str(paths[0]) + ", …" * (len(paths) > 1), paths[0]
    if len(paths) == 1 and root.is_dir():
        paths = _files_in(root)
    elif len(paths) == 1 and not root.exists() and re.search(r"[*?\[]", name):
        root = next(parent for parent in root.parents if not re.search(r"[*?\[]", str(parent)))
        paths = sorted(root.glob(str(paths[0].relative_to(root)))) or paths
    for path in paths:
        if not is_table(path):
            raise DatasetError(f"{path}: must be a table ({', '.join(('.csv', '.tsv', *PARQUET, *JSON))}), got another format")
        if not path.is_file():
            raise DatasetError(f"{path}: no such file or folder")
    return name, [_file_part(path, root, options, connection) for path in paths]


def _file_part(path: Path, root: Path, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    """Return a file as a part. Folders such as "year=2024" below the root (Hive partitions) give its last columns."""
    part = _single_file(path, options, connection)
    below = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    if not (pairs := [unquote(folder).split("=", 1) for folder in below if "=" in folder]):
        return part
    values = [v if NUMBER.fullmatch(v) else "NULL" if v == _NO_VALUE else literal(v) for _, v in pairs]
    types = [*part.types, *map(str, connection.sql(f"SELECT {', '.join(values)}").types)]
    names = check_distinct(part.name, [*part.names, *(key for key, _ in pairs)])
    return replace(part, names=names, types=types, partitions=values)


def _single_file(path: Path, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    name = str(path)
    if suffix(path) in JSON:
        return _described(name, f"FROM read_json({literal(path)}, hive_partitioning = false)", options, connection)
    if suffix(path) not in PARQUET:
        csv = CsvFile(path, options, connection)
        types = ["VARCHAR" if n in options.categories else t for n, t in zip(csv.names, csv.types, strict=True)]
        return Part(name, "", csv.names, types, csv.options, csv=csv)
    try:
        schema = pa.parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet data set, or damaged ({one_line(error)})") from None
    part = _described(name, f"FROM read_parquet({literal(path)}, hive_partitioning = false)", options, connection)
    return replace(part, names=check_distinct(name, schema.names), **_metadata(schema))


def _described(name: str, query: str, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    try:
        relation = connection.sql(query)
        return Part(name, query, check_distinct(name, relation.columns), [str(kind) for kind in relation.types], options)
    except duckdb.Error as error:
        raise DatasetError(f"{name}: cannot be read ({one_line(error)})") from None


def _frame_part(frame: Any, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> Part:
    name, index = type(frame).__name__, list[str]()
    try:
        if any(base.__module__.partition(".")[0] == "pandas" for base in type(frame).__mro__):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            index = [str(label) for label in frame.index.names if label is not None]
        else:
            table = pa.table(frame)
    except Exception as error:  # any library may raise anything
        problem = f"cannot be read as a table with named columns ({one_line(error)}){conversion_hint(frame)}"
        raise DatasetError(f"{name}: {problem}") from None
    if index:
        notice(f"{name}: skipped the index {quoted(index)}, which is not a column; reset_index() makes it one")
    schema, names = table.schema, check_distinct(name, table.schema.names)
    for k, kind in enumerate(schema.types):  # types that DuckDB does not read
        if pa.types.is_float16(kind) or pa.types.is_decimal256(kind):
            table = table.set_column(k, names[k], table.column(k).cast(pa.float64()))
    connection.register("frame", table)
    part = _described(name, "FROM frame", options, connection)
    return replace(part, frame=table, **_metadata(schema))


def _files_in(folder: Path) -> list[Path]:
    """Return the tables below a folder, all of one kind."""
    below, around = sorted(folder.rglob("*")), [folder, *folder.absolute().parents]
    for log, kind in _LOGS.items():
        if any(path.match(log) for path in below) or any(True for place in around for _ in place.glob(log)):
            advice = "whose log lists the current files; read it with a library for this format and pass the data frame"
            raise DatasetError(f"{folder}: must be a folder of plain tables, got a table of {kind}, {advice}")
    hidden, tables, rest = set[str](), list[Path](), list[str]()
    for file in below:
        parts, name = file.relative_to(folder).parts, file.name.lower()
        written = name in _MARKERS or name.startswith("._") or (name.startswith(".") and name.endswith(".crc"))
        if not file.is_file() or written or any(part.lower() in SYSTEM for part in parts):
            continue
        if first := [part for part in parts if part.startswith((".", "_"))][:1]:
            hidden.update(first)
        elif is_table(file):
            tables.append(file)
        else:
            rest.append(file.name)
    if hidden:
        notice(f"{folder}: skipped {quoted(sorted(hidden))}: names that begin with '_' or '.' are hidden")
    if rest:
        notice(f"{folder}: skipped {quoted(rest)}: not tables")
    parquet = [file for file in tables if suffix(file) in PARQUET]
    if 0 < len(parquet) < len(tables):
        other = next(file for file in tables if file not in parquet)
        raise DatasetError(f"{folder}: must hold tables of one kind, got {parquet[0].name} and {other.name}")
    if not tables:
        raise DatasetError(f"{folder}: must hold tables, got only hidden ones")
    return tables


def _metadata(schema: pa.Schema) -> dict[str, Any]:
    """Return the columns that hold a pandas index, and the extension types, except of lists, such as pandas periods."""
    try:
        index = {c for c in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(c, str)}
    except (ValueError, AttributeError, TypeError):  # foreign metadata under this name
        index = set()
    extensions = {}
    for column in schema:
        name = (column.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")  # of an unregistered type
        name = getattr(column.type, "extension_name", name)
        if name and name != "arrow.bool8" and "list" not in str(getattr(column.type, "storage_type", column.type)):
            extensions[column.name] = name
    return {"index": index, "extensions": extensions}
