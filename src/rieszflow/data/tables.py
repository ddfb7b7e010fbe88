"""`Table`: the columns of a table and passes over its rows. Needs duckdb and pyarrow."""

from __future__ import annotations

import contextlib
import copy
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rieszflow._infra.messages import notice, one_line
from rieszflow._types import PointSource
from rieszflow.data.csv_file import literal
from rieszflow.data.options import (
    FORMATTED_NUMBER,
    MISSING_MARKERS,
    TableOptions,
    check_known,
    column_difference,
)  # fmt: skip
from rieszflow.data.parts import Part, kind_of, open_parts
from rieszflow.data.paths import quoted
from rieszflow.data.points import MAX_ROUNDING
from rieszflow.data.streams import Stream, rows_per_batch
from rieszflow.errors import DatasetError

_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"|Unnamed: 0(\.\d+)?")
_NUMBERS = ("number", "whole", "boolean")
_SETTINGS: dict[str, Any] = {
    "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    "python_enable_replacements": False, "temp_directory": tempfile.gettempdir(),
}  # fmt: skip
_SHORT = {"BOOLEAN", "TINYINT", "SMALLINT", "UTINYINT", "USMALLINT", "FLOAT"}  # types whose values float32 holds


class Table:
    """A table, accepted by all functions that accept points: those that compare points encode its columns, see `TableEncoding`.

    Files are read in batches, never as a whole. Columns that are guessed, dropped or converted are named by notices.

    Args:
        source: A .csv, .tsv, .parquet or .json file (text files also as .gz), a folder of them, a pattern such as
            "day=*/*.parquet", a list of files, a query of DuckDB such as "FROM 'old/*.parquet' WHERE country = 'SE'", or a data
            frame of pandas, polars, Arrow, Ibis, or any other library that exports Arrow streams.
        columns: Columns to read, in this order; None for all.
        exclude: Columns to leave out.
        header: True if the first row of a CSV file has the names; "auto": if that row does not consist of numbers.
        delimiter: Separator of the cells of a CSV file; None to guess it.
        decimal: Decimal separator in text, "." or ",".
        thousands: Separator of thousands in text.
        missing: Texts that mark a missing value, in addition to empty cells, nulls and those that pandas recognises.
        categories: Columns whose cells are read as text, even if they are numbers, such as codes of products.
        encoding: Encoding of CSV files.

    Attributes:
        name: Name of the source, for messages.
        kinds: The kind of every column by its name: "number", "whole", "boolean", "time", "text"; or why it cannot be read.
            Lists of numbers have an entry for each of their items, such as "e[0]".
        named: False for a CSV file without header.

    Raises:
        DatasetError, InputError: A file is missing or damaged, columns differ between files, or a column has numbers and other
            text.

    Example:
        >>> import pyarrow
        >>> Table(pyarrow.table({"age": [31, 45], "job": ["baker", "clerk"]})).kinds
        {'age': 'whole', 'job': 'text'}
    """

    def __init__(
        self,
        source: PointSource,
        *,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        header: bool | str = "auto",
        delimiter: str | None = None,
        decimal: str = ".",
        thousands: str | None = None,
        missing: Sequence[str] | None = None,
        categories: Sequence[str] = (),
        encoding: str = "utf-8",
    ) -> None:
        options = TableOptions(columns, exclude, header, delimiter, decimal, thousands, missing, categories, encoding)
        self.options = options
        self._connection = duckdb.connect(config=_SETTINGS)
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        self.name, self.parts = open_parts(source, options, self._connection)
        names = self.parts[0].names
        for part in self.parts:
            if set(part.names) != set(names):
                difference = column_difference(part.names, names, f"{self.parts[0].name} has")
                raise DatasetError(f"{part.name}: {difference}; all files must have the same columns")
        check_known(self.name, names, (*(options.columns or ()), *options.exclude, *options.categories))
        wanted = [name for name in options.columns or names if name not in options.exclude]
        if not wanted:
            raise DatasetError(f"{self.name}: `exclude` must leave at least one column, got {list(options.exclude)!r}")
        self.named = self.parts[0].csv is None or self.parts[0].csv.named
        if options.columns is None:
            wanted = self._without_index(wanted)
        for part in self.parts:
            self._find_numbers_in_text(part, wanted)
        self.kinds: dict[str, str] = {}
        for name in wanted:
            kind = self._kind(name)
            items = [f"{name}[{k}]" for k in range(self._list_width(name))] if kind == "list" else [name]
            self.kinds |= dict.fromkeys(items, "number" if kind == "list" else kind)

    def __repr__(self) -> str:
        return f"Table({self.name}, {len(self.kinds)} columns)"

    def drop(self, columns: Sequence[str], reason: str = "") -> Table:
        """Return the table without some columns, with a notice if there is a reason to name."""
        found = copy.copy(self)
        found.kinds = {name: kind for name, kind in self.kinds.items() if name not in columns}
        if reason and columns:
            notice(f"{self.name}: skipped {quoted(list(columns))}: {reason}")
        return found

    def as_text(self, column: str) -> Table:
        """Return the table with one column as text, such as labels that are numbers."""
        found = copy.copy(self)
        found.kinds = {**self.kinds, column: "text"}
        found.parts = [part.as_text([column]) for part in self.parts]
        return found

    def _without_index(self, names: list[str]) -> list[str]:
        known = {column for part in self.parts for column in part.index}
        unnamed = names[0] if len(names) > 1 and _UNNAMED.fullmatch(names[0]) else None
        index = [name for name in names if name in known or name == unnamed or _INDEX.fullmatch(name)]
        if index and len(index) < len(names):
            notice(f"{self.name}: skipped {quoted(index)} (an index written by pandas)")
            return [name for name in names if name not in index]
        return names

    def _find_numbers_in_text(self, part: Part, wanted: Sequence[str]) -> None:
        """Decide which columns of text in a CSV file hold numbers, in one pass; numbers among other text are an error.

        In other sources, whose columns have types, text is text.
        """
        texts = [n for n in wanted if kind_of(part.type_of(n)) == "text" and n not in self.options.categories]
        if not texts or part.csv is None:
            return
        queries = []
        for name in texts:
            text, number = part.text(name), part.number(name)
            padded = f"regexp_full_match({text}, '[+-]?0\\d+')"  # codes, such as those of places
            formatted = f"regexp_full_match({text}, {literal(FORMATTED_NUMBER)}) AND NOT {padded}"
            marks = f"lower({text}) IN ({', '.join(map(literal, sorted(MISSING_MARKERS)))})"
            queries += [
                f"count({text})", f"count(*) FILTER (NOT isnan({number}) AND NOT {padded})",
                f"count(*) FILTER (({formatted}) OR {marks} OR NOT isnan({number}))", f"count(*) FILTER ({formatted})",
            ]  # fmt: skip
        found = self.aggregate(queries, part)
        for k, name in enumerate(texts):
            cells, numbers, alike, formatted = found[4 * k : 4 * k + 4]
            if not cells:
                part.types[part.names.index(name)] = '"NULL"'
            elif numbers == cells or 2 * numbers >= cells or (alike == cells and formatted):
                part.types[part.names.index(name)] = "DOUBLE"
                if numbers < cells:
                    self.aggregate([f"count(c{part.names.index(name)})"], part)  # raises an error with the line

    def _kind(self, name: str) -> str:
        """Return the kind of a column, which all parts with values must share."""
        if name in self.options.categories:
            return "text"
        kinds: dict[str, str] = {}
        for part in self.parts:
            if name in part.extensions:
                return f"of the type {part.extensions[name]}"
            kind = kind_of(part.type_of(name))
            if kind == "number" and part.csv is not None and part.csv.whole[part.names.index(name)]:
                kind = "whole"
            if kind != "empty":
                kinds.setdefault(kind, part.name)
        if set(kinds) <= {"number", "whole", "boolean"} and len(kinds) > 1:
            return "number"
        if len(kinds) > 1:
            number = next((kind for kind in kinds if kind in _NUMBERS), None)
            if number is not None and "text" in kinds:
                raise DatasetError(f"{kinds['text']}: column {name!r} must hold numbers as in {kinds[number]}, got text")
            (one, first), (other, second) = list(kinds.items())[:2]
            raise DatasetError(f"{second}: column {name!r} must hold the same type as in {first}, {one}, got {other}")
        return next(iter(kinds), "empty")

    # Passes.

    def aggregate(self, expressions: Sequence[str], part: Part) -> tuple[Any, ...]:
        """Return the values of aggregate functions over the columns c0, c1, … of a part."""
        with self._errors(part):
            row: tuple[Any, ...] = self._query(part, expressions)[1].fetchall()[0]
            return row

    def matrices(self, codes: Callable[[Part], Sequence[str]], width: int) -> Iterator[np.ndarray]:
        """Yield matrices (m, width) of float64 with the values of expressions for each part."""
        for part in self.parts:
            for batch in self._batches(part, codes(part), width):
                yield np.stack([column.to_numpy() for column in batch.columns], 1) if width else np.empty((batch.num_rows, 0))

    def labels(self, column: str) -> list[object]:
        """Return the cells of a column as Python objects, or None if missing; those of a CSV file as unparsed text."""
        found: list[object] = []
        for part in self.parts:
            check_known(part.name, part.names, [column])
            if kind := part.extensions.get(column):
                raise DatasetError(f"{part.name}: labels in column {column!r} must have a plain type, got {kind}")
            is_text = part.csv is not None or kind_of(part.type_of(column)) == "time"
            part = part.as_text([column])
            with self._errors(part):
                cell = part.text(column) if is_text else part.locate(column)[0]
                found += [row[0] for row in self._query(part, [cell])[1].fetchall()]
        return found

    def column(self, name: str) -> pa.ChunkedArray[Any]:
        """Return the cells of a column as they are."""
        texts = [part.as_text([name]) for part in self.parts]  # the cells of a CSV file as they are
        parts = [pa.Table.from_batches(list(self._batches(part, [part.locate(name)[0]], 1))) for part in texts]
        return pa.concat_tables(parts, promote_options="permissive").column(0)

    def numbers(self) -> Stream:
        """Return the columns of numbers, in their units, as points; a notice names all other columns.

        Raises:
            DatasetError: No column has numbers, a column that was chosen by name has none, or a cell is missing.
        """
        kinds = {name: kind for name, kind in self.kinds.items() if kind in _NUMBERS}
        skipped = {name: _reason(kind) for name, kind in self.kinds.items() if name not in kinds}
        if skipped and self.options.columns is not None:
            name, reason = next(iter(skipped.items()))
            raise DatasetError(f"{self.name}: column {name!r} must hold numbers to be chosen, got {reason}")
        if not kinds:
            reasons = "; ".join(f"{c!r}: {r}" for c, r in list(skipped.items())[:6])
            raise DatasetError(f"{self.name}: no numeric columns among {', '.join(list(self.kinds)[:20])} ({reasons})")
        if skipped:
            shown = [f"{c!r} ({reason})" for c, reason in skipped.items()]
            more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
            notice(f"{self.name}: skipped {'column' if len(shown) == 1 else 'columns'} {', '.join(shown[:20])}{more}")
        names = list(kinds)
        types = {part.type_of(name) for part in self.parts for name in kinds}
        dtype = np.float32 if types <= _SHORT and all(part.csv is None for part in self.parts) else np.float64

        def batches() -> Iterator[np.ndarray]:
            row = 0
            for matrix in self.matrices(lambda part: [part.number(name) for name in names], len(names)):
                if (bad := np.isnan(matrix)).any():
                    k, i = (int(v[0]) for v in np.nonzero(bad.T))
                    advice = "fill them, or encode the table by `TableEncoding`, which treats them as a state of their own"
                    where = f"row {row + i}, counted from 0"
                    raise DatasetError(f"{self.name}: column {names[k]!r} has missing values ({where}); {advice}")
                self.check_rounding(matrix, [kind == "whole" for kind in kinds.values()], names)
                row += len(matrix)
                yield matrix.astype(dtype, copy=False)

        return Stream(self.name, batches, self.count(), names if self.named else None)

    def count(self) -> int:
        """Return the number of rows."""
        return sum(int(self.aggregate(["count(*)"], part)[0]) for part in self.parts)

    def check_rounding(self, codes: np.ndarray, whole: Sequence[bool], names: Sequence[str]) -> None:
        """Refuse whole numbers beyond 2^53 if float64 rounds away too much of their spread in a batch."""
        size = np.abs(codes).max(0, initial=0)
        if not (far := (size > 2.0**53) & np.array(whole)).any():
            return
        step, spread = np.spacing(size), np.nanmax(codes, 0) - np.nanmin(codes, 0)
        if (bad := far & (step > MAX_ROUNDING * spread)).any():
            k = int(bad.argmax())
            problem = f"holds whole numbers near {size[k]:.6g}, which float64 rounds to multiples of {step[k]:.6g}"
            raise DatasetError(f"{self.name}: column {names[k]!r} {problem}; subtract an offset, or exclude the column")

    def _list_width(self, name: str) -> int:
        """Return the number of values in the lists of a column, which must be the same in all rows."""
        widths: set[int] = set()
        for part in self.parts:
            cell, kind = part.locate(name)
            nested = kind.count("[") - 1
            cell = f"len({'flatten(' * nested}{cell}{')' * nested})"
            widths |= {w for w in self.aggregate([f"min({cell})", f"max({cell})"], part) if w is not None}
        if len(widths) != 1 or 0 in widths:
            raise DatasetError(f"{self.name}: column {name!r}: lists must have one length, at least 1, got {sorted(widths)}")
        return widths.pop()

    def _query(self, part: Part, expressions: Sequence[str]) -> tuple[Any, Any]:
        """Return a cursor, which must live as long as its result, and the result of a query."""
        cursor = self._connection.cursor()
        if part.frame is not None:
            cursor.register("frame", part.frame)
        return cursor, cursor.sql(f"SELECT {', '.join(expressions) or '0'} FROM {part.source()}")

    def _batches(self, part: Part, expressions: Sequence[str], width: int) -> Iterator[pa.RecordBatch]:
        with self._errors(part):
            _cursor, found = self._query(part, expressions)
            yield from found.to_arrow_reader(rows_per_batch(width))

    @contextlib.contextmanager
    def _errors(self, part: Part) -> Iterator[None]:
        """Convert errors of DuckDB into one line that names the line of a file."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError, UnicodeError) as error:
            if part.csv is not None:
                raise part.csv.explain(error) from None
            raise DatasetError(f"{part.name}: cannot be read, or damaged ({one_line(error)})") from None


def _reason(kind: str) -> str:
    return {"time": "dates or times", "empty": "empty: no value in it"}.get(kind, kind)
