"""Tables in, points out: CSV files, Parquet files, folders of them, and data frames, through pyarrow.

A column is what has a name; a point is a row. Numbers, truth values, decimals, dictionary columns of numbers and lists of
numbers of one length are read, whatever their width. Nothing else is guessed: a column that is left out is named in a notice,
with the reason, and a column that holds numbers and something else is an error that names its column and line.
"""

from __future__ import annotations

import csv
import difflib
import functools
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._notices import notice
from rieszflow.data import as_points
from rieszflow.errors import DatasetError, InputError, InputTypeError, MissingPackageError

__all__ = ["Reading", "Table", "is_frame", "is_table", "named", "open_frame", "open_table", "suffix"]

TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET = (".parquet", ".pq")
_ROWS = 1 << 16  # rows in a batch
_MOST_NUMBERS = 1 << 24  # numbers in a batch
_SNIFFED = 1 << 20  # bytes that pyarrow looks at to tell the columns' types
_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"|Unnamed: 0(\.\d+)?")
_PLAIN = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
# What people write and mean as a number: with separators of thousands, a decimal comma, a sign of currency, per cent.
_MEANT = re.compile(
    r"\s*[$€£¥]?\s*[+-]?(\d+[.,]?\d*|[.,]\d+|\d{1,3}([,.' _\u00a0\u202f]\d{3})+([.,]\d+)?)([eE][+-]?\d+)?\s*[%$€£¥]?\s*"
)
# Cells that stand for no value, where other cells of the column are numbers.
_NO_VALUE = {"", "?", "-", "--", ".", "*", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown", "#n/a"}


@dataclass(frozen=True)
class Reading:
    """How tables are read; the keyword arguments of `rieszflow.stream`, which says what each means."""

    columns: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    header: bool | str = "auto"
    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing: Sequence[str] | None = None
    dates: bool = False
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        for name in ("columns", "exclude", "missing"):
            value = getattr(self, name)
            if value is None and name != "exclude":
                continue
            if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
                what = "texts" if name == "missing" else "names of columns"
                raise InputError(f"{name}: {value!r} given; a list of {what} is accepted")
            object.__setattr__(self, name, tuple(value))  # equal to another only as a tuple
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise InputError(f"columns: {list(self.columns)!r} given; one or more different names are accepted")
        if self.header not in ("auto", True, False):
            raise InputError(f"header: {self.header!r} given; True, False and 'auto' are accepted")
        for name, none in (("delimiter", True), ("decimal", False), ("thousands", True)):
            value = getattr(self, name)
            if not (none and value is None) and not (isinstance(value, str) and len(value) == 1):
                raise InputError(f"{name}: {value!r} given; a single character is accepted")
        if self.thousands == self.decimal:
            raise InputError(f"thousands: {self.thousands!r} given, and decimal is the same; they must differ")
        if not isinstance(self.dates, bool):
            raise InputError(f"dates: {self.dates!r} given; True and False are accepted")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError):
            raise InputError(f"encoding: {self.encoding!r} given; a name like 'utf-8' or 'latin-1' is accepted") from None

    def plain(self, cell: str) -> str:
        """A cell as Python writes numbers, if it is one."""
        cell = cell.strip()
        if self.thousands:
            cell = cell.replace(self.thousands, "")
        return cell.replace(".", "\0").replace(self.decimal, ".") if self.decimal != "." else cell


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


@dataclass
class _Part:
    """One file, or a frame: its columns' types, and a pass over some of them. `place(column, row)` says where a row is."""

    name: str
    types: dict[str, Any]
    batches: Callable[[list[str]], Iterator[Any]]
    place: Callable[[str, int], str]
    n: int | None = None
    named: bool = True
    typed: bool = True  # the types are the file's own, not found by looking at the cells
    explain: Callable[[list[str], Exception], Exception] | None = None


def suffix(path: Path) -> str:
    """The file name's ending in lower case, with that of the file inside a compressed one: `.csv.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return suffix(path) in TEXT + PARQUET


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
    files = path if isinstance(path, list) else _files(path) if path.is_dir() else [path]
    parts = []
    for file in files:
        if not file.is_file():
            raise DatasetError(f"{file}: no such file or folder")
        parts.append(_parquet(file, pa) if suffix(file) in PARQUET else _Csv(file, reading, pa).part())
    return _table(name, parts, reading, pa)


def open_frame(frame: Any, reading: Reading) -> Table:
    """A table in memory: whatever gives itself to Arrow."""
    name = type(frame).__name__
    pa = arrow(name)
    try:
        if hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        elif type(frame).__module__.partition(".")[0] == "pandas":
            table = pa.Table.from_pandas(frame)
        else:
            raise InputTypeError("it does not give itself to Arrow")
    except Exception as error:  # any library may be behind it
        raise DatasetError(f"{name}: cannot be read as a table with named columns ({_line(error)})") from None

    def batches(columns: list[str]) -> Iterator[Any]:
        return iter(table.select(columns).to_batches(_ROWS))

    return _table(name, [_Part(name, _types(name, table.schema), batches, _row, table.num_rows)], reading, pa)


def arrow(name: str) -> Any:
    """pyarrow, which is an extra."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise MissingPackageError(f"{name}: tables need the extra: pip install 'rieszflow[tables]'") from None
    return pyarrow


def _types(name: str, schema: Any) -> dict[str, Any]:
    return dict(zip(_different(name, schema.names), schema.types, strict=True))


def _row(column: str, row: int) -> str:
    return f"row {row}, counted from 0"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def named(names: Sequence[str], most: int = 6) -> str:
    """Some names for a message: all of a few, else the first ones and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


# What a file's columns are.


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


def _parquet(file: Path, pa: Any) -> _Part:
    def opened() -> Any:
        try:
            return pa.parquet.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file}: not a Parquet data set, or damaged ({_line(error)})") from None

    with opened() as content:
        schema, n = content.schema_arrow, content.metadata.num_rows

    def batches(columns: list[str]) -> Iterator[Any]:
        with opened() as content:
            # A list column is one column here, and its leaves are several to Parquet: names with dots are paths.
            yield from content.iter_batches(_rows(len(columns)), columns=columns)

    def explain(columns: list[str], error: Exception) -> Exception:
        return DatasetError(f"{file}: damaged ({_line(error)})")

    return _Part(str(file), _types(str(file), schema), batches, _row, n, explain=explain)


def _rows(d: int) -> int:
    return max(1, min(_ROWS, _MOST_NUMBERS // max(1, d)))


class _Csv:
    """A file of separated values: its header, a pass over its numbers, and the lines that messages name.

    Numbers are read as float64; whole ones beyond 2^53 as they are, to see what rounding would do to them.
    """

    def __init__(self, file: Path, reading: Reading, pa: Any) -> None:
        self.file, self.reading, self.pa = file, reading, pa
        self.delimiter = reading.delimiter or ("\t" if suffix(file).startswith(".tsv") else ",")
        self.lines = 0  # of the header
        self.longest = 0
        self.names = _different(str(file), self._header())
        self.types: dict[str, Any] = {}

    def part(self) -> _Part:
        pa, t = self.pa, self.pa.types
        first = None
        try:
            with self._open() as reader:
                schema = reader.schema
                first = reader.read_next_batch()
        except StopIteration:
            pass
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise self.explained(self.names, error) from None
        for k, name in enumerate(self.names):
            kind = schema.field(k).type
            if t.is_integer(kind):
                # What looks whole for a megabyte may have a fraction later.
                kind = kind if first is not None and _far(first.column(k), pa) else pa.float64()
            elif t.is_null(kind) and first is not None and not self._empty(name):
                kind = pa.float64()
            self.types[name] = kind
        return _Part(str(self.file), self.types, self._open, self.where, None, self.lines > 0, False, self.explained)

    def _open(self, columns: list[str] | None = None, text: bool = False) -> Any:
        """A reader of some columns, by the types found, or as text; of all of them by types to be found."""
        pa = self.pa
        read = pa.csv.ReadOptions(encoding=self.reading.encoding, block_size=max(_SNIFFED, 16 * self.longest))
        read.column_names, read.skip_rows = self.names, self.lines
        # Cells may go over several lines; told so, pyarrow never cuts one in two.
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        convert = pa.csv.ConvertOptions(include_columns=columns, decimal_point=self.reading.decimal, strings_can_be_null=text)
        convert.null_values = self._no_values(convert)
        if columns is not None:
            convert.column_types = {c: pa.string() if text else self.types[c] for c in columns}
        return pa.csv.open_csv(self.file, read, parse, convert)

    def _no_values(self, convert: Any) -> list[str]:
        return [*convert.null_values, *(self.reading.missing or ())]

    def _empty(self, name: str) -> bool:
        """Whether a column without a value at the file's beginning has none at all."""
        try:
            with self._open([name], text=True) as reader:
                return all(batch.column(0).null_count == batch.num_rows for batch in reader)
        except (self.pa.ArrowException, OSError, UnicodeError):
            return False  # the pass over the numbers will say what is wrong

    def _text(self) -> Any:
        encoding = self.reading.encoding
        # A byte order mark is no part of the first name.
        encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        packed = suffix(self.file).endswith(".gz")
        raw: Any = gzip.open(self.file) if packed else open(self.file, "rb")  # noqa: SIM115  (closed with the text)
        return io.TextIOWrapper(raw, encoding, newline="")

    def _header(self) -> list[str]:
        """The columns' names. A first row of numbers has none."""
        file, reading = self.file, self.reading
        try:
            with self._text() as text:
                rows = csv.reader(text, delimiter=self.delimiter)
                first, lines = next(rows, []), rows.line_num
                self.longest = 4 * sum(len(cell) + 3 for cell in first)  # bytes of a row, more or less
        except UnicodeError:
            raise self._other_encoding() from None
        except (OSError, EOFError, csv.Error, zlib.error) as error:
            raise DatasetError(f"{file}: cannot be read ({_line(error)})") from None
        if any("\0" in cell for cell in first):
            raise DatasetError(f"{file}: holds zero bytes; if it is text in another encoding, give encoding='utf-16', say")
        if not any(cell.strip() for cell in first):
            raise DatasetError(f"{file}: its first line is empty; a header or numbers are needed")
        header = reading.header
        if header == "auto":
            header = not all(_PLAIN.fullmatch(reading.plain(cell)) for cell in first)
            if not header:
                self._refuse_counting(first)
                notice(f"{file}: has no header: its first row is made of numbers and is read as a point")
        if not header:
            return [f"column {k}" for k in range(len(first))]
        self.lines = lines
        if first[0].startswith("#"):
            first[0] = first[0].lstrip("#")  # numpy.savetxt marks its header as a comment
        return [name.strip() for name in first]

    def _refuse_counting(self, first: list[str]) -> None:
        """0, 1, 2, … is what pandas calls columns without names, and may be a point as well."""
        counted = [float(self.reading.plain(cell)) for cell in first]
        if any(counted == [k + start for k in range(len(counted))] for start in (0, 1)):
            shown = self.delimiter.join(first[:4]) + ("…" if len(first) > 4 else "")
            raise DatasetError(
                f"{self.file}: its first row, {shown}, can be a header or a point; give header=True or header=False"
            )

    def _other_encoding(self) -> DatasetError:
        with open(self.file, "rb") as file:
            start = file.read(2)
        advice = "give encoding='latin-1', say, or save it as UTF-8"
        if start in (b"\xff\xfe", b"\xfe\xff"):
            advice = "give encoding='utf-16'"
        elif start == b"\x1f\x8b":
            advice = "it is compressed: a name that ends in .gz is read"
        return DatasetError(f"{self.file}: not text in the encoding {self.reading.encoding}; {advice}")

    # Slowly, line by line, for messages only.

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        with self._text() as text:
            rows = csv.reader(text, delimiter=self.delimiter)
            for row in rows:
                if row and rows.line_num > self.lines:
                    yield rows.line_num, row

    def where(self, column: str, row: int) -> str:
        try:
            return next(f"line {line}" for line, _ in itertools.islice(self._cells(), row, None))
        except (StopIteration, UnicodeError, OSError, csv.Error):
            return f"row {row}"

    def explained(self, columns: list[str], error: Exception) -> DatasetError:
        """What pyarrow did not like, with the line, which it does not tell."""
        if isinstance(error, UnicodeError) or "UTF8" in str(error):
            return self._other_encoding()
        no_values = set(self._no_values(self.pa.csv.ConvertOptions()))
        where = {name: k for k, name in enumerate(self.names)}
        wanted = [(where[c], c) for c in columns]
        try:
            for line, row in self._cells():
                if len(row) != len(self.names):
                    return DatasetError(
                        f"{self.file}: line {line} has {len(row)} cells, the first line has {len(self.names)}"
                        + _other_delimiter(self.names, self.reading)
                    )
                for k, name in wanted if "conversion" in str(error) else ():
                    cell = self.reading.plain(row[k])
                    if row[k].strip() not in no_values and not _PLAIN.fullmatch(cell) and "inf" not in cell.lower():
                        return _mixed(str(self.file), name, f"line {line}", row[k])
        except UnicodeError:
            return self._other_encoding()
        except (OSError, csv.Error):
            pass
        return DatasetError(f"{self.file}: not a table of values separated by {self.delimiter!r}, or damaged ({_line(error)})")


def _far(column: Any, pa: Any) -> bool:
    ends = pa.compute.min_max(column).as_py()
    return ends["min"] is not None and max(-ends["min"], ends["max"]) > 2**53


def _mixed(name: str, column: str, place: str, cell: str) -> DatasetError:
    """The error of a column that holds numbers and something else."""
    if cell.strip().lower() in _NO_VALUE:
        how = f"give missing=[{cell!r}] to leave such rows out"
    elif _MEANT.fullmatch(cell):
        how = "give thousands=… or decimal=… if it is a number so written"
    else:
        how = "mend it"
    return DatasetError(
        f"{name}: column {column!r}, {place}: {cell!r} is no number as the others are; {how}, or exclude the column"
    )


# Which columns are read, and as what.


def _table(name: str, parts: list[_Part], reading: Reading, pa: Any) -> Table:
    names = list(parts[0].types)
    for part in parts:
        mine = list(part.types)
        if set(mine) != set(names):
            raise DatasetError(
                f"{part.name}: {difference(mine, names, f'{parts[0].name} has')}; all files need the same columns"
            )
    _known(name, names, (*(reading.columns or ()), *reading.exclude))
    wanted = [c for c in reading.columns or names if c not in reading.exclude]
    left, single = _left_out(parts, wanted, reading, pa)
    columns = [c for c in wanted if c not in left]
    if reading.columns is None:
        columns = _without_index(names, columns, left)
    elif left:
        column = next(c for c in wanted if c in left)
        raise DatasetError(f"{name}: column {column!r} was asked for and holds no numbers: {left[column]}")
    if not wanted:
        raise DatasetError(f"{name}: no column is left after exclude={list(reading.exclude)!r}")
    if not columns:
        reasons = "; ".join(f"{c!r}: {r}" for c, r in list(left.items())[:6])
        hint = _other_delimiter(names, reading)
        raise DatasetError(f"{name}: no numeric columns among {', '.join(names[:20])} ({reasons}){hint}")
    if left:
        shown = [f"{c!r} ({reason})" for c, reason in left.items()]
        more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
        notice(f"{name}: left out {'column' if len(shown) == 1 else 'columns'} {', '.join(shown[:20])}{more}")
    reader = _Reader(name, parts, columns, single, reading, pa)
    widths = reader.widths()
    flat = [c if w == 1 and c not in reader.lists else f"{c}[{k}]" for c, w in widths.items() for k in range(w)]
    counted = [part.n for part in parts]
    n = None if reading.missing is not None or any(k is None for k in counted) else sum(k or 0 for k in counted)
    return Table(name, flat if parts[0].named else None, n, reader.matrices, left)


def _different(name: str, names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DatasetError(f"{name}: two columns are called {twice!r}; names must differ, for columns are matched by them")
    return names


def difference(mine: Sequence[str], theirs: Sequence[str], whose: str) -> str:
    """How two sets of names differ."""
    only, lacking = [n for n in mine if n not in set(theirs)], [n for n in theirs if n not in set(mine)]
    said = [f"has {named(only)}"] if only else []
    said += [f"{whose} {named(lacking)}"] if lacking else []
    if only and lacking:
        return f"its columns are others: it {said[0]}, {said[1]}"
    return f"has the column {named(only)} more than the other" if only else f"lacks {named(lacking)}"


def _known(name: str, names: list[str], asked: Iterable[str]) -> None:
    for column in asked:
        if column not in names:
            close = difflib.get_close_matches(column, names, 1)
            mean = f"did you mean {close[0]!r}?" if close else f"it has {named(names, 20)}"
            raise DatasetError(f"{name}: no column {column!r}; {mean}")


def _without_index(names: list[str], columns: list[str], left: dict[str, str]) -> list[str]:
    """Without the columns that pandas writes its index into."""
    kept = []
    for column in columns:
        if _INDEX.fullmatch(column) or (column == names[0] and len(names) > 1 and _UNNAMED.fullmatch(column)):
            left[column] = "an index, as pandas writes it"
        else:
            kept.append(column)
    return kept


def _other_delimiter(names: list[str], reading: Reading) -> str:
    if len(names) == 1 and reading.delimiter is None:
        for delimiter in (";", "\t", "|"):
            if delimiter in names[0]:
                return f"; if its cells are separated by {delimiter!r}, give delimiter={delimiter!r}"
    return ""


def _left_out(parts: list[_Part], wanted: list[str], reading: Reading, pa: Any) -> tuple[dict[str, str], bool]:
    """Columns that are not read, with the reason, and whether float32 holds all of the others."""
    left, single = {}, True
    samples = [_first(part, [c for c in wanted if _reason(part.types[c], reading, pa) == "text"], pa) for part in parts]
    for column in wanted:
        reasons: dict[str, str | None] = {}
        for part, sample in zip(parts, samples, strict=True):
            kind = part.types[column]
            if part.n == 0 or (pa.types.is_null(kind) and len(parts) > 1):
                continue  # a file without rows, or without a value in this column, has no type of its own
            reason = _reason(kind, reading, pa)
            reasons[part.name] = _text_kind(part, column, sample.get(column), reading) if reason == "text" else reason
            single &= reason is not None or _is_single(kind, pa)
        kinds = set(reasons.values()) or {"empty: no value in it"}
        if None in kinds and len(kinds) > 1:
            one, why = next((name, r) for name, r in reasons.items() if r is not None)
            other = next(name for name, r in reasons.items() if r is None)
            raise DatasetError(f"{one}: column {column!r} holds no numbers here ({why}), and does in {other}")
        if None not in kinds:
            left[column] = str(next(iter(kinds)))
    return left, single


def _reason(kind: Any, reading: Reading, pa: Any) -> str | None:
    """Why a column of this type is not read; None if it is."""
    t = pa.types
    kind = _storage(kind, pa)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _reason(kind.value_type, reading, pa)
    if t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal(kind):
        return None
    if t.is_temporal(kind) and not t.is_interval(kind):
        return None if reading.dates else "dates or times; dates=True reads them as seconds"
    if _is_list(kind, pa):
        inner = _reason(kind.value_type, reading, pa)
        return None if inner is None else f"lists of {inner}"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    if t.is_null(kind):
        return "empty: no value in it"
    if t.is_struct(kind) or t.is_map(kind) or t.is_union(kind):
        return "nested: " + str(kind)[:60]
    return str(kind)[:60]


def _storage(kind: Any, pa: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: Any, pa: Any) -> bool:
    t = pa.types
    return any(test(kind) for test in (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view))


def _is_single(kind: Any, pa: Any) -> bool:
    """Whether float32 holds every value of the type."""
    t = pa.types
    kind = _storage(kind, pa)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind) or _is_list(kind, pa):
        return _is_single(kind.value_type, pa)
    small = t.is_integer(kind) and kind.bit_width <= 16
    return small or t.is_boolean(kind) or t.is_float16(kind) or t.is_float32(kind)


def _first(part: _Part, columns: list[str], pa: Any) -> dict[str, Any]:
    """The first rows of some columns."""
    if not columns:
        return {}
    try:
        batch = next(iter(part.batches(columns)), None)
    except (pa.ArrowException, OSError, UnicodeError):
        return {}
    return {} if batch is None else {c: batch.column(c) for c in columns}


def _text_kind(part: _Part, column: str, values: Any, reading: Reading) -> str | None:
    """Whether cells of text are numbers that the options read (None), no numbers (the reason), or a mixture (an error)."""
    cells = [] if values is None else values.to_pylist()[:_ROWS]
    known = [(k, v) for k, v in enumerate(cells) if v is not None and v.strip() and v not in (reading.missing or ())]
    plain = [bool(_PLAIN.fullmatch(reading.plain(v))) for _, v in known]
    if known and all(plain):
        if part.typed:
            notice(f"{part.name}: column {column!r} is of text that reads as numbers, and is read so")
        return None
    if not any(plain) and not any(_MEANT.fullmatch(v) for _, v in known):
        if known and all(v.strip().lower() in _NO_VALUE for _, v in known):
            raise _mixed(part.name, column, part.place(column, known[0][0]), known[0][1])
        return "text"
    row, cell = next(pair for pair, fine in zip(known, plain, strict=True) if not fine)
    raise _mixed(part.name, column, part.place(column, row), cell)


def _at(part: _Part, column: str, first: int, k: int) -> str:
    return part.place(column, first + k)


class _Reader:
    """The pass over the chosen columns of all parts."""

    def __init__(self, name: str, parts: list[_Part], columns: list[str], single: bool, reading: Reading, pa: Any) -> None:
        self.name, self.parts, self.columns, self.reading, self.pa = name, parts, columns, reading, pa
        self.dtype = np.float32 if single else np.float64
        self.found: dict[str, int] = {}  # numbers a row has in a column, once seen
        self.lists = {c for c in columns if any(self._nested(part.types[c]) for part in parts)}

    def _nested(self, kind: Any) -> bool:
        return _is_list(_storage(kind, self.pa), self.pa)

    def widths(self) -> dict[str, int]:
        """Numbers that a row has in every column; the first rows tell."""
        if not self.lists:
            return dict.fromkeys(self.columns, 1)
        next(self.matrices(), None)
        return {c: self.found.get(c, 1) for c in self.columns}

    def matrices(self) -> Iterator[np.ndarray]:
        dropped = 0
        for part in self.parts:
            row = 0
            try:
                for batch in part.batches(self.columns):
                    if not batch.num_rows:
                        continue
                    matrix = self._matrix(part, batch, row)
                    row += batch.num_rows
                    dropped += batch.num_rows - len(matrix)
                    if len(matrix):
                        yield matrix
            except (self.pa.ArrowException, OSError, UnicodeError) as error:
                if part.explain is None:
                    raise
                raise part.explain(self.columns, error) from None
        if dropped:
            rows = "1 row" if dropped == 1 else f"{dropped} rows"
            notice(f"{self.name}: left out {rows} with missing values")

    def _matrix(self, part: _Part, batch: Any, row: int) -> np.ndarray:
        pa, columns, bad = self.pa, [], np.zeros(batch.num_rows, bool)
        for name in self.columns:
            place, column = f"{part.name}: column {name!r}", batch.column(name)
            if column.type in (pa.float64(), pa.float32()) and not column.null_count and self.reading.missing is None:
                columns.append(column.to_numpy()[:, None])  # what most columns are, and tables can have many
                continue
            values, missing = self._values(column, place, functools.partial(_at, part, name, row))
            if self.found.setdefault(name, values.shape[1]) != values.shape[1]:
                raise DatasetError(
                    f"{place}: lists of {values.shape[1]} numbers, earlier ones have {self.found[name]}; one length is needed"
                )
            if self.reading.missing is None and missing.any():
                k = int(missing.argmax())
                raise DatasetError(
                    f"{place} has missing values ({part.place(name, row + k)}); fill them, or give missing=[] to drop such rows"
                )
            bad |= missing
            columns.append(values)
        matrix = np.concatenate(columns, 1, dtype=self.dtype)
        return matrix[~bad] if bad.any() else matrix

    def _values(self, column: Any, place: str, where: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        """A column as (m, width), and which rows lack a value."""
        pa, t = self.pa, self.pa.types
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if t.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif t.is_run_end_encoded(column.type):
            column = pa.compute.run_end_decode(column)
        if _is_list(column.type, pa):
            return self._lists(column, place, where)
        kind = column.type
        if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
            column = self._from_text(column, place, where)
        elif t.is_decimal(kind):
            column = column.cast(pa.float64())
        elif t.is_temporal(kind):
            column = _seconds(column, pa)
        elif t.is_null(kind):
            column = column.cast(pa.float64())
        missing = column.is_null().to_numpy(zero_copy_only=False)
        if column.null_count:
            column = column.fill_null(False if t.is_boolean(column.type) else 0)
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind in "iu":
            values = as_points(values[:, None], place)[:, 0]
        values = values.astype(self.dtype, copy=False)
        if self.reading.missing is not None:
            missing = missing | np.isnan(values)
        return values[:, None], missing

    def _lists(self, column: Any, place: str, where: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        pa = self.pa
        lengths = pa.compute.list_value_length(column)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        many = lengths.fill_null(-1).to_numpy(zero_copy_only=False)
        there = many[~missing]
        width = int(there[0]) if len(there) else 1
        if len(there) and (there != width).any():
            k = int(np.flatnonzero((many != width) & ~missing)[0])
            raise DatasetError(
                f"{place}: a list of {many[k]} numbers ({where(k)}), earlier ones have {width}; one length is needed"
            )
        if width == 0:
            raise DatasetError(f"{place}: empty lists; at least one number is needed")
        inner, lost = self._values(
            column.drop_null().flatten(), place, lambda k: where(int(np.flatnonzero(~missing)[int(k) // width]))
        )
        values = np.zeros((len(column), width * inner.shape[1]), self.dtype)
        values[~missing] = inner.reshape(len(there), -1)
        missing = missing.copy()
        missing[~missing] |= lost.reshape(len(there), -1).any(1)
        return values, missing

    def _from_text(self, column: Any, place: str, where: Callable[[int], str]) -> Any:
        compute = self.pa.compute
        text = compute.utf8_trim_whitespace(column)
        for missing in ("", *(self.reading.missing or ())):
            text = compute.if_else(compute.equal(text, missing), None, text)
        if self.reading.thousands:
            text = compute.replace_substring(text, self.reading.thousands, "")
        if self.reading.decimal != ".":
            text = compute.replace_substring(compute.replace_substring(text, ".", "\0"), self.reading.decimal, ".")
        try:
            return text.cast(self.pa.float64())
        except self.pa.ArrowInvalid:
            for k, cell in enumerate(column.to_pylist()):
                if (
                    cell is not None
                    and cell not in (self.reading.missing or ())
                    and not _PLAIN.fullmatch(self.reading.plain(cell))
                ):
                    name, _, own = place.rpartition(": column ")
                    raise _mixed(name, own.strip("'"), where(k), cell) from None
            raise


def _seconds(column: Any, pa: Any) -> Any:
    """Dates, times and durations as seconds, dates since 1970."""
    kind = column.type
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    if pa.types.is_date32(kind):
        values, per = column.cast(pa.int32()).cast(pa.float64()), 1 / 86400
    elif pa.types.is_date64(kind):
        values, per = column.cast(pa.int64()).cast(pa.float64()), 1e3
    else:
        wide = pa.int32() if pa.types.is_time32(kind) else pa.int64()
        # Whole seconds and the rest apart: nanoseconds since 1970 are beyond what float64 counts one by one.
        whole = column.cast(wide).cast(pa.int64())
        per = units[kind.unit]
        seconds = pa.compute.divide(whole, per)
        rest = pa.compute.subtract(whole, pa.compute.multiply(seconds, per))
        return pa.compute.add(seconds.cast(pa.float64()), pa.compute.divide(rest.cast(pa.float64()), float(per)))
    return pa.compute.divide(values, float(per))
