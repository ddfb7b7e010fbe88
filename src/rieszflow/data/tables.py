"""`Table`: the columns of files, queries and data frames, and passes over its rows. Needs duckdb and pyarrow."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from rieszflow._infra.messages import notice, one_line
from rieszflow._types import PointSource
from rieszflow.data.csv_file import FORMATTED, MARKERS, TableOptions, literal
from rieszflow.data.parts import Part, kind_of, open_parts
from rieszflow.data.paths import NUMBERS, check_known, check_same_columns, common_kind, is_query, quoted, skipped
from rieszflow.data.points import MAX_ROUNDING
from rieszflow.data.streams import Stream, rows_per_batch
from rieszflow.errors import DatasetError

_SETTINGS: dict[str, Any] = {
    "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    "python_enable_replacements": False, "temp_directory": tempfile.gettempdir(),
}  # fmt: skip
_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"|Unnamed: 0(\.\d+)?")
_EXPRESSIONS = 1000  # in a query, whose planning takes quadratic time
_FLOAT32 = {"BOOLEAN", "TINYINT", "SMALLINT", "UTINYINT", "USMALLINT", "FLOAT"}  # types whose values float32 holds


class Table:
    """A table, accepted by all functions that accept points: those that compare points encode its columns, see `TableEncoding`.

    Files are read in batches, never as a whole. Columns that are guessed, dropped or converted are named by notices.

    Args:
        source: A .csv, .tsv, .json or .parquet file (text also as .gz), a folder of them, a pattern such as
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
        path: The absolute path of the files, or the query; None for frames and lists of files.

    Raises:
        DatasetError, InputError: A damaged file, other columns in another file, or a column of numbers and other text.

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
        self._rows: int | None = None
        self._connection = duckdb.connect(config=_SETTINGS)
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        self.name, self.parts = open_parts(source, options, self._connection)
        self.path = source if is_query(source) else os.path.abspath(source) if isinstance(source, (str, os.PathLike)) else None
        first = self.parts[0]
        for part in self.parts:
            check_same_columns(part.name, part.names, first.names, f"{first.name} has")
        check_known(self.name, first.names, (*(columns or ()), *exclude, *categories))
        wanted = [name for name in columns or first.names if name not in exclude]
        if columns is None:
            known = {column for part in self.parts for column in part.index}
            known |= {name for k, name in enumerate(wanted) if _INDEX.fullmatch(name) or (k == 0 and _UNNAMED.fullmatch(name))}
            if (index := [name for name in wanted if name in known]) and len(index) < len(wanted):
                notice(f"{self.name}: skipped {quoted(index)} (an index written by pandas)")
                wanted = [name for name in wanted if name not in known]
        if not wanted:
            raise DatasetError(f"{self.name}: `exclude` must leave at least one column, got {list(exclude)!r}")
        self.named = first.csv is None or first.csv.named
        for part in self.parts:
            self._find_kinds_of_text(part, wanted)
        self.kinds: dict[str, str] = {}
        for name in wanted:
            kind = self._kind(name)
            items = [f"{name}[{k}]" for k in range(self._list_width(name))] if kind == "list" else [name]
            self.kinds |= dict.fromkeys(items, "number" if kind == "list" else kind)

    def drop(self, columns: Sequence[str], reason: str = "") -> Table:
        """Return the table without some columns, with a notice if there is a reason to name."""
        found = copy.copy(self)
        found.kinds = {name: kind for name, kind in self.kinds.items() if name not in columns}
        if reason and columns:
            notice(f"{self.name}: skipped {quoted(columns)}: {reason}")
        return found

    def as_text(self, column: str) -> Table:
        """Return the table with one column as text, such as labels that are numbers."""
        found = copy.copy(self)
        found.kinds = {**self.kinds, column: "text"}
        found.parts = [part if part.csv is None else part.retyped(column, "VARCHAR") for part in self.parts]
        return found

    def _find_kinds_of_text(self, part: Part, wanted: Sequence[str]) -> None:
        """Decide which columns of text in a CSV file hold numbers, or true and false; numbers among other text are an error.

        In other sources, whose columns have types, text is text.
        """
        if part.csv is None:
            return
        texts = [n for n in wanted if kind_of(part.type_of(n)) == "text" and n not in self.options.categories]
        queries = []
        for name in texts:
            text, number = part.text(name), part.number(name)
            conditions = (
                f"NOT isnan({number})", f"regexp_full_match({text}, {literal(FORMATTED)})",
                f"lower({text}) NOT IN {literal(MARKERS)}", f"regexp_full_match({text}, '[+-]?0\\d+')",
                f"lower({text}) IN ('true', 'false')",
            )  # fmt: skip
            queries += [f"count({text})", *(f"count(*) FILTER ({condition})" for condition in conditions)]
        values = self.aggregate(queries, part) if texts else ()
        for name, cells, numbers, formatted, words, codes, truths in zip(texts, *(values[k::6] for k in range(6)), strict=True):
            if codes:
                continue  # such as those of places
            k = part.names.index(name)
            if not cells:
                part.types[k] = '"NULL"'
            elif truths == cells:
                part.types[k] = "BOOLEAN"
            elif numbers == cells or (formatted and 2 * formatted >= words):
                part.types[k] = "DOUBLE"
                if numbers < cells:
                    self.aggregate([f"count(c{k})"], part)  # raises an error with the line

    def _kind(self, name: str) -> str:
        """Return the kind of a column, which all parts with values must share."""
        if name in self.options.categories:
            return "text"
        kinds = []
        for part in self.parts:
            if name in part.extensions:
                return f"of the type {part.extensions[name]}"
            kinds.append(("whole" if part.csv and name in part.csv.whole else kind_of(part.type_of(name)), part.name))
        return common_kind(name, kinds)

    def _list_width(self, name: str) -> int:
        """Return the number of values in the lists of a column, which must be the same in all rows."""
        ends = [self.aggregate([f"{f}(len({part.flat(name)}))" for f in ("min", "max")], part) for part in self.parts]
        widths = {width for pair in ends for width in pair if width is not None}
        if len(widths) != 1 or 0 in widths:
            raise DatasetError(f"{self.name}: column {name!r}: lists must have one length, at least 1, got {sorted(widths)}")
        return int(widths.pop())

    # Passes.

    def aggregate(self, expressions: Sequence[str], part: Part) -> list[Any]:
        """Return the values of aggregate functions over the columns c0, c1, … of a part."""
        found: list[Any] = []
        with self._errors(part):
            for k in range(0, len(expressions), _EXPRESSIONS):
                found += self._query(part, expressions[k : k + _EXPRESSIONS])[1].fetchall()[0]
        return found

    def matrices(self, codes: Callable[[Part], Sequence[str]], width: int) -> Iterator[np.ndarray]:
        """Yield matrices (m, width) of float64 with the values of expressions for each part."""
        for part in self.parts:
            for batch in self._batches(part, codes(part), width):
                yield np.stack([c.to_numpy() for c in batch.columns], 1) if width else np.empty((batch.num_rows, 0))

    def labels(self, column: str) -> list[object]:
        """Return the cells of a column as Python objects, or None if missing; those of a CSV file as unparsed text."""
        found: list[object] = []
        for part in self.as_text(column).parts:
            check_known(part.name, part.names, [column])
            if kind := part.extensions.get(column):
                raise DatasetError(f"{part.name}: labels in column {column!r} must have a plain type, got {kind}")
            is_text = part.csv is not None or kind_of(part.type_of(column)) == "time"
            with self._errors(part):
                cell = part.text(column) if is_text else part.locate(column)[0]
                found += [row[0] for row in self._query(part, [cell])[1].fetchall()]
        return found

    def column(self, name: str) -> pa.ChunkedArray[Any]:
        """Return the cells of a column as they are, those of a CSV file as text."""
        batches = [batch for part in self.as_text(name).parts for batch in self._batches(part, [part.locate(name)[0]], 1)]
        return pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="permissive").column(0)

    def numbers(self) -> Stream:
        """Return the columns of numbers, in their units, as points; a notice names all other columns.

        Raises DatasetError if no column has numbers, a column that was chosen by name has none, or a cell is missing.
        """
        names = [name for name, kind in self.kinds.items() if kind in NUMBERS]
        reasons = {"time": "dates or times", "empty": "empty: no value in it"}
        left_out = {name: reasons.get(kind, kind) for name, kind in self.kinds.items() if name not in names}
        if left_out and self.options.columns is not None:
            name = next(iter(left_out))
            raise DatasetError(f"{self.name}: column {name!r} must hold numbers to be chosen, got {left_out[name]}")
        if not names:
            raise DatasetError(f"{self.name}: no numeric columns among {skipped(left_out)}")
        if left_out:
            notice(f"{self.name}: skipped {'column' + 's' * (len(left_out) > 1)} {skipped(left_out)}")
        types = {"" if part.csv is not None else part.type_of(name) for part in self.parts for name in names}
        dtype = np.float32 if types <= _FLOAT32 else np.float64

        def batches() -> Iterator[np.ndarray]:
            row = 0
            for matrix in self.matrices(lambda part: [part.number(name) for name in names], len(names)):
                if (bad := np.isnan(matrix)).any():
                    k, i = (int(v[0]) for v in np.nonzero(bad.T))
                    where = f"row {row + i}, counted from 0"
                    advice = "fill them, or encode the table by `TableEncoding`, which treats them as a state of their own"
                    raise DatasetError(f"{self.name}: column {names[k]!r} has missing values ({where}); {advice}")
                self.check_rounding(matrix, names)
                row += len(matrix)
                yield matrix.astype(dtype, copy=False)

        return Stream(self.name, batches, self.count(), names if self.named else None)

    def count(self) -> int:
        """Return the number of rows, which takes a pass over a text file the first time."""
        if self._rows is None:
            self._rows = sum(int(self.aggregate(["count(*)"], part)[0]) for part in self.parts)
        return self._rows

    def check_rounding(self, codes: np.ndarray, names: Sequence[str]) -> None:
        """Refuse whole numbers beyond 2^53 if float64 rounds away too much of their spread in a batch."""
        for name, values, size in zip(names, codes.T, np.abs(codes).max(0, initial=0), strict=True):
            step = np.spacing(size)
            if size > 2.0**53 and self.kinds[name] == "whole" and step > MAX_ROUNDING * np.ptp(values[~np.isnan(values)]):
                problem = f"holds whole numbers near {size:.6g}, which float64 rounds to multiples of {step:.6g}"
                raise DatasetError(f"{self.name}: column {name!r} {problem}; subtract an offset, or exclude the column")

    def _query(self, part: Part, expressions: Sequence[str]) -> tuple[Any, Any]:
        """Return a cursor, which must live as long as its result, and the result of a query."""
        cursor = self._connection.cursor()
        if part.frame is not None:
            cursor.register("frame", part.frame)
        return cursor, cursor.sql(f"SELECT {', '.join(expressions) or '0'} FROM {part.source()}")

    def _batches(self, part: Part, expressions: Sequence[str], width: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of the values of expressions, of which a row has `width` numbers."""
        with self._errors(part):
            _cursor, found = self._query(part, expressions)
            yield from found.to_arrow_reader(rows_per_batch(width))

    @contextlib.contextmanager
    def _errors(self, part: Part) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError, UnicodeError) as error:
            if part.csv is not None:
                raise part.csv.explain(error) from None
            raise DatasetError(f"{part.name}: cannot be read, or damaged ({one_line(error)})") from None
