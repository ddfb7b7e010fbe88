"""CSV files: header, types of the columns, batches, and the line of an error. Needs pyarrow."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rieszflow._infra.messages import notice, one_line
from rieszflow.data.arrow import Part
from rieszflow.data.options import TableOptions, cell_error, check_distinct, delimiter_hint
from rieszflow.data.paths import suffix
from rieszflow.errors import DatasetError

_INFERRED = 1 << 20  # bytes from which pyarrow infers the types of the columns
_LONGEST = 1 << 24  # characters in a row; a compressed file could unpack to an endless one
_ARROW_ERRORS = (pa.ArrowException, OSError, UnicodeError)
_READ_ERRORS = (OSError, EOFError, csv.Error, zlib.error)  # also for a compressed file that is truncated or damaged


class CsvFile(Part):
    """A file of separated values. Numbers are read as float64; integers beyond 2^53 as they are, to detect rounding."""

    typed = False

    def __init__(self, file: Path, options: TableOptions) -> None:
        super().__init__(str(file), {})
        self.file, self.options = file, options
        self.delimiter = options.delimiter or ("\t" if suffix(file).startswith(".tsv") else ",")
        self.missing = [*(pa.csv.ConvertOptions().null_values or ()), *(options.missing or ())]
        self.header_lines = self.row_bytes = 0
        self.columns = check_distinct(self.name, self._read_header())
        self.named = self.header_lines > 0
        self._infer_types()

    def _infer_types(self) -> None:
        try:
            with self.batches(None) as reader:
                schema, first = reader.schema, next(iter(reader), None)
        except _ARROW_ERRORS as error:
            raise self.explain(self.columns, error) from None
        for k, name in enumerate(self.columns):
            kind = schema.field(k).type
            if pa.types.is_integer(kind):
                # A column of integers in the first megabyte may have fractions later.
                ends = () if first is None else pc.min_max(first.column(k)).values()
                kind = kind if any(abs(end.as_py() or 0) > 2**53 for end in ends) else pa.float64()
            elif pa.types.is_null(kind) and first is not None and not self._is_empty(name):
                kind = pa.float64()
            self.types[name] = kind

    def batches(
        self, columns: list[str] | None, as_text: Collection[str] = (), null_texts: bool = False
    ) -> pa.csv.CSVStreamingReader:
        """Read some columns with the types found, or as unparsed text; or all columns, to infer their types, if None."""
        read = pa.csv.ReadOptions(encoding=self.options.encoding, block_size=max(_INFERRED, 16 * self.row_bytes))
        read.column_names, read.skip_rows = self.columns, self.header_lines
        # Cells may contain line breaks: pyarrow then never splits one.
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        convert = pa.csv.ConvertOptions(include_columns=columns, decimal_point=self.options.decimal)
        convert.null_values, convert.strings_can_be_null = list(self.missing), null_texts
        convert.column_types = {c: pa.string() if c in as_text else self.types[c] for c in columns or ()}
        return pa.csv.open_csv(self.file, read, parse, convert)

    def _is_empty(self, name: str) -> bool:
        """Return True if a column without a value in the first megabyte has none at all."""
        try:
            with self.batches([name], [name], null_texts=True) as reader:
                return all(batch.column(0).null_count == batch.num_rows for batch in reader)
        except _ARROW_ERRORS:
            return False  # the pass over the numbers reports the error

    def _open_text(self) -> io.TextIOWrapper:
        encoding = self.options.encoding
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
            encoding = "utf-8-sig"  # keeps a byte order mark out of the first name
        packed = suffix(self.file).endswith(".gz")
        raw = gzip.open(self.file) if packed else open(self.file, "rb")  # noqa: SIM115  (closed with the text)
        return io.TextIOWrapper(cast("IO[bytes]", raw), encoding, newline="")

    def _rows(self, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the last line of each row, and its cells."""
        length = 0

        def lines() -> Iterator[str]:
            nonlocal length
            while line := text.readline(_LONGEST):
                length += len(line)
                if length >= _LONGEST:
                    raise csv.Error(f"a row of more than {_LONGEST} characters")
                yield line

        rows = csv.reader(lines(), delimiter=self.delimiter)
        for row in rows:
            length = 0
            yield rows.line_num, row

    def _read_header(self) -> list[str]:
        """Return the names of the columns, numbered ones without a header; "auto": a first row of numbers is a point."""
        try:
            with self._open_text() as text:
                lines, first = next(self._rows(text), (0, []))
        except UnicodeError:
            raise self._encoding_error() from None
        except _READ_ERRORS as error:
            raise DatasetError(f"{self.file}: cannot be read ({one_line(error)})") from None
        self.row_bytes = 4 * sum(len(cell) + 3 for cell in first)  # an estimate
        if any("\0" in cell for cell in first):
            raise DatasetError(f"{self.file}: must be text, got zero bytes; if its encoding is UTF-16, give encoding='utf-16'")
        if not any(cell.strip() for cell in first):
            raise DatasetError(f"{self.file}: must begin with a header or numbers, got an empty first line")
        header = self.options.header
        if header == "auto":
            header = not all(map(self.options.is_number, first))
            if not header:
                self._refuse_counting(first)
                notice(f"{self.file}: has no header, so its first row, which consists of numbers, is read as a point")
        if not header:
            return [f"column {k}" for k in range(len(first))]
        self.header_lines = lines
        if first[0].startswith("#"):
            first[0] = first[0].lstrip("#")  # numpy.savetxt writes its header as a comment
        return [name.strip() for name in first]

    def _refuse_counting(self, first: list[str]) -> None:
        """Refuse a first row 0, 1, 2, …: pandas gives these names to unnamed columns, but it may be a point as well."""
        numbers = [float(self.options.normalized(cell)) for cell in first]
        if any(numbers == [k + start for k in range(len(numbers))] for start in (0, 1)):
            shown = self.delimiter.join(first[:4]) + ("…" if len(first) > 4 else "")
            advice = "give header=True or header=False"
            raise DatasetError(f"{self.file}: its first row, {shown}, can be a header or a point; {advice}")

    def _encoding_error(self) -> DatasetError:
        with open(self.file, "rb") as file:
            start = file.read(2)
        advice = "save it as UTF-8, or give its encoding, for example encoding='latin-1'"
        if start in (b"\xff\xfe", b"\xfe\xff"):
            advice = "give encoding='utf-16'"
        elif start == b"\x1f\x8b":
            advice = "it is compressed, and its name must end in .gz"
        return DatasetError(f"{self.file}: must be text in the encoding {self.options.encoding}; {advice}")

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows after the header and their lines; slow, only to name the line of an error."""
        with self._open_text() as text:
            for line, row in self._rows(text):
                if row and line > self.header_lines:
                    yield line, row

    def place(self, row: int) -> str:
        try:
            return next(f"line {line}" for line, _ in itertools.islice(self._cells(), row, None))
        except (StopIteration, UnicodeError, *_READ_ERRORS):
            return f"row {row}"

    def explain(self, columns: list[str], error: Exception) -> DatasetError:
        """Return an error that names the line which pyarrow could not read."""
        if isinstance(error, UnicodeError) or "UTF8" in str(error):
            return self._encoding_error()
        wanted = [(self.columns.index(c), c) for c in columns] if "conversion" in str(error) else []
        try:
            for line, row in self._cells():
                if len(row) != len(self.columns):
                    expected = f"{len(self.columns)} cells as the first line"
                    hint = delimiter_hint(self.columns, self.options)
                    return DatasetError(f"{self.file}: line {line} must have {expected}, got {len(row)}{hint}")
                for k, name in wanted:
                    cell = row[k]
                    if not (cell.strip() in self.missing or self.options.is_number(cell) or "inf" in cell.lower()):
                        return cell_error(str(self.file), name, f"line {line}", cell)
        except UnicodeError:
            return self._encoding_error()
        except _READ_ERRORS:
            pass
        problem = f"not a table of values separated by {self.delimiter!r}, or damaged"
        return DatasetError(f"{self.file}: {problem} ({one_line(error)})")
