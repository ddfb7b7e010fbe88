"""A file of separated values: its header, its types, a pass over its numbers, and the lines that messages name."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rieszflow._infra.notices import notice
from rieszflow._infra.text import one_line
from rieszflow.data.columns import different, other_delimiter
from rieszflow.data.options import Reading
from rieszflow.data.parts import PLAIN, Part, mixed
from rieszflow.data.paths import suffix
from rieszflow.errors import DatasetError

__all__ = ["CsvFile"]

_SNIFFED = 1 << 20  # bytes that pyarrow looks at to tell the columns' types
_LONGEST = 1 << 24  # characters in a row; more are not unpacked from a compressed file


class CsvFile:
    """A file of separated values: its header, a pass over its numbers, and the lines that messages name.

    Numbers are read as float64; whole ones beyond 2^53 as they are, to see what rounding would do to them.
    """

    def __init__(self, file: Path, reading: Reading, pa: Any) -> None:
        self.file, self.reading, self.pa = file, reading, pa
        self.delimiter = reading.delimiter or ("\t" if suffix(file).startswith(".tsv") else ",")
        self.lines = 0  # of the header
        self.longest = 0
        self.names = different(str(file), self._header())
        self.types: dict[str, Any] = {}

    def part(self) -> Part:
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
                kind = kind if first is not None and far(first.column(k), pa) else pa.float64()
            elif t.is_null(kind) and first is not None and not self._empty(name):
                kind = pa.float64()
            self.types[name] = kind
        empty = self._no_values(pa.csv.ConvertOptions())
        return Part(
            str(self.file), self.types, self._open, self.where, None, self.lines > 0, False, self.explained, empty=empty
        )

    def _open(self, columns: list[str] | None = None, as_text: Collection[str] = (), nulls: bool = False) -> Any:
        """Open a reader: of some columns with the types found or as text, or of all columns with types yet to be inferred.

        Args:
            columns: their names; None for all of them.
            as_text: those whose cells are returned unparsed, as text.
            nulls: True to read text that stands for a missing value as null.
        """
        pa = self.pa
        read = pa.csv.ReadOptions(encoding=self.reading.encoding, block_size=max(_SNIFFED, 16 * self.longest))
        read.column_names, read.skip_rows = self.names, self.lines
        # Cells may go over several lines; told so, pyarrow never cuts one in two.
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        convert = pa.csv.ConvertOptions(include_columns=columns, decimal_point=self.reading.decimal, strings_can_be_null=nulls)
        convert.null_values = self._no_values(convert)
        if columns is not None:
            convert.column_types = {c: pa.string() if c in as_text else self.types[c] for c in columns}
        return pa.csv.open_csv(self.file, read, parse, convert)

    def _no_values(self, convert: Any) -> list[str]:
        return [*convert.null_values, *(self.reading.missing or ())]

    def _empty(self, name: str) -> bool:
        """Whether a column without a value at the file's beginning has none at all."""
        try:
            with self._open([name], [name], nulls=True) as reader:
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

    def _rows(self, text: Any) -> Iterator[tuple[int, list[str]]]:
        """Pass over the rows of cells, with the number of each one's last line.

        Raises:
            csv.Error: a row has more than `_LONGEST` characters.
        """
        spent = 0

        def lines() -> Iterator[str]:
            nonlocal spent
            while line := text.readline(_LONGEST):
                spent += len(line)
                if spent >= _LONGEST:
                    raise csv.Error(f"a row of more than {_LONGEST} characters")
                yield line

        rows = csv.reader(lines(), delimiter=self.delimiter)
        for row in rows:
            spent = 0
            yield rows.line_num, row

    def _header(self) -> list[str]:
        """The columns' names. A first row of numbers has none."""
        file, reading = self.file, self.reading
        try:
            with self._text() as text:
                lines, first = next(self._rows(text), (0, []))
                self.longest = 4 * sum(len(cell) + 3 for cell in first)  # bytes of a row, more or less
        except UnicodeError:
            raise self._other_encoding() from None
        except (OSError, EOFError, csv.Error, zlib.error) as error:
            raise DatasetError(f"{file}: cannot be read ({one_line(error)})") from None
        if any("\0" in cell for cell in first):
            raise DatasetError(f"{file}: holds zero bytes; if it is text in another encoding, give encoding='utf-16', say")
        if not any(cell.strip() for cell in first):
            raise DatasetError(f"{file}: its first line is empty; a header or numbers are needed")
        header = reading.header
        if header == "auto":
            header = not all(PLAIN.fullmatch(reading.plain(cell)) for cell in first)
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
            for line, row in self._rows(text):
                if row and line > self.lines:
                    yield line, row

    def where(self, column: str, row: int) -> str:
        try:
            return next(f"line {line}" for line, _ in itertools.islice(self._cells(), row, None))
        except (StopIteration, UnicodeError, OSError, EOFError, csv.Error, zlib.error):
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
                        + other_delimiter(self.names, self.reading)
                    )
                for k, name in wanted if "conversion" in str(error) else ():
                    cell = self.reading.plain(row[k])
                    if row[k].strip() not in no_values and not PLAIN.fullmatch(cell) and "inf" not in cell.lower():
                        return mixed(str(self.file), name, f"line {line}", row[k])
        except UnicodeError:
            return self._other_encoding()
        except (OSError, EOFError, csv.Error, zlib.error):  # also of a packed file that is cut off or damaged
            pass
        return DatasetError(
            f"{self.file}: not a table of values separated by {self.delimiter!r}, or damaged ({one_line(error)})"
        )


def far(column: Any, pa: Any) -> bool:
    ends = pa.compute.min_max(column).as_py()
    return ends["min"] is not None and max(-ends["min"], ends["max"]) > 2**53
