"""CSV files: their dialect, header and types, which DuckDB's sniffer guesses and the options set, and the lines of errors."""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from rieszflow._infra.messages import notice, one_line
from rieszflow.data.paths import check_distinct, suffix
from rieszflow.errors import DatasetError, InputError

# Cells that mark missing values in every text file, as in pandas.
MISSING = ("", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
# Cells that mark a missing value if other cells of the column are numbers.
MARKERS = ("", "?", "-", "--", ".", "*", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown", "#n/a")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
# Numbers with separators of thousands, a decimal comma, a currency or a percent sign; the syntax is that of Python and DuckDB.
FORMATTED = (
    r"\s*[$€£¥]?\s*[+-]?(\d+[.,]?\d*|[.,]\d+|\d{1,3}([,.' _"
    "\u00a0\u202f"
    r"]\d{3})+([.,]\d+)?)([eE][+-]?\d+)?\s*[%$€£¥]?\s*"
)
_DELIMITERS = (",", ";", "\t", "|")
_CONVERSION = re.compile(r'converting column "c(\d+)". Could not convert string "(.*?)" to .(\w+)', re.DOTALL)
_CELLS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")


@dataclass(frozen=True)
class TableOptions:
    """The arguments of `Table` that define how it is read."""

    columns: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    header: bool | str = "auto"
    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing: Sequence[str] | None = None
    categories: Sequence[str] = ()
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        for name in ("columns", "exclude", "missing", "categories"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(v, str) for v in value or ()):
                raise InputError(f"`{name}` must be a list of strings, got {value!r}")
        for name, valid, accepted in (
            ("columns", self.columns is None or len(set(self.columns)) == len(self.columns) > 0, "one or more different names"),
            ("header", self.header in ("auto", True, False), "True, False or 'auto'"),
            ("delimiter", self.delimiter is None or len(self.delimiter) == 1, "a single character"),
            ("decimal", self.decimal in (".", ","), "'.' or ','"),
            ("thousands", self.thousands is None or len(self.thousands) == 1, "a single character"),
            ("thousands", self.thousands != self.decimal, "different from `decimal`"),
        ):
            if not valid:
                raise InputError(f"`{name}` must be {accepted}, got {getattr(self, name)!r}")

    def number(self, cell: str) -> float | None:
        """Return the number in a cell; None if it is not one."""
        cell = cell.replace(self.thousands or "\0", "")
        cell = cell.replace(".", "\0").replace(",", ".") if self.decimal == "," else cell
        return float(cell) if NUMBER.fullmatch(cell) else None


class CsvFile:
    """A file of separated values; `types` are those in its first 20,480 rows, `whole` the columns of whole numbers in them.

    Whole numbers are read as float64, because later ones may have fractions. `named` is False for a file without header, whose
    columns are numbered. `options` has the decimal separator of the file.
    """

    def __init__(self, file: Path, options: TableOptions, connection: duckdb.DuckDBPyConnection) -> None:
        self.file, self.name, self.options, self._connection = file, str(file), options, connection
        self._reading: dict[str, object] = {
            "quote": '"', "escape": '"', "skip": 0, "comment": "", "decimal_separator": options.decimal,
            "encoding": options.encoding, "hive_partitioning": False, "nullstr": [*MISSING, *(options.missing or ())],
        }  # fmt: skip
        if options.thousands:
            self._reading["thousands"] = options.thousands
        line = self._first_line()
        default = "\t" if suffix(file).startswith(".tsv") else ","
        sniffed = {} if options.delimiter else self._sniff()
        delimiter = options.delimiter or sniffed.get("Delimiter", default)
        texts = [column["type"] for column in sniffed.get("Columns", ())] in ([], ["VARCHAR"])
        if options.delimiter is None and texts and delimiter not in line:  # unequal rows look like a single column
            delimiter = max((default, *_DELIMITERS), key=line.count)
        first = next(csv.reader([line], delimiter=delimiter))
        self.named = self._has_header(first)
        names = [cell.strip() for cell in first] if self.named else [f"column {k}" for k in range(len(first))]
        if self.named and names[0].startswith("#"):
            names[0] = names[0].lstrip("#").strip()  # numpy.savetxt writes its header as a comment
        self.names = check_distinct(self.name, names)
        self._reading |= {"delim": delimiter, "header": self.named}
        sniffed = self._sniff()
        if options.decimal == "." and delimiter != ",":
            comma = self._sniff(decimal_separator=",")
            numbers = [sum(c["type"] in ("BIGINT", "DOUBLE") for c in found.get("Columns", ())) for found in (sniffed, comma)]
            if numbers[1] > numbers[0]:
                sniffed, self.options = comma, replace(options, decimal=",")
                self._reading["decimal_separator"] = ","
        # Y and N or t and f are truth values for DuckDB, whose spelling would be lost.
        types = [column["type"].replace("BOOLEAN", "VARCHAR") for column in sniffed.get("Columns", ())]
        types = types if len(types) == len(names) else ["VARCHAR"] * len(names)
        formats = {f"{key.lower()}format": sniffed.get(f"{key}Format") for key in ("Date", "Timestamp")}
        self._reading |= {key: value for key, value in formats.items() if value is not None}
        self.whole = [n for n, kind in zip(names, types, strict=True) if kind in ("BIGINT", "HUGEINT")]
        self.types = ["DOUBLE" if n in self.whole else kind for n, kind in zip(names, types, strict=True)]
        found = [] if delimiter in (options.delimiter, default) else [f"the delimiter {delimiter!r}"]
        found += ["decimal commas"] if self.options is not options else []
        found += [f"dates as {value}" for value in formats.values() if value is not None and "%Y-%m-%d" not in value]
        if found:
            notice(f"{self.name}: read with {', '.join(found)}")

    def query(self, types: Sequence[str]) -> str:
        """Return the query that reads all columns with the given types; as VARCHAR, a cell is its unparsed text."""
        return self._read_csv({f"c{k}": kind for k, kind in enumerate(types)}, self._reading)

    def _read_csv(self, columns: dict[str, str], reading: dict[str, object]) -> str:
        return f"FROM read_csv({_arguments(self.file, columns=columns, auto_detect=False, **reading)})"

    def _sniff(self, **more: object) -> dict[str, Any]:
        """Return what DuckDB's sniffer decides; an empty dict if it finds no dialect."""
        try:
            found = self._connection.sql(f"FROM sniff_csv({_arguments(self.file, **{**self._reading, **more})})")
            return dict(zip(found.columns, found.fetchall()[0], strict=True))
        except duckdb.Error:
            return {}  # the pass over all rows reports the error with its line

    def _first_line(self) -> str:
        whole_lines = {"header": False, "delim": "\x1f", "quote": "", "escape": "", "encoding": self.options.encoding}
        try:
            rows = self._connection.sql(f"{self._read_csv({'line': 'VARCHAR'}, whole_lines)} LIMIT 1").fetchall()
        except duckdb.Error as error:
            raise self.explain(error) from None
        line = str(rows[0][0] or "").removeprefix("\ufeff") if rows else ""
        if "\0" in line:
            raise DatasetError(f"{self.name}: must be text, got zero bytes; if its encoding is UTF-16, give encoding='utf-16'")
        if not line.strip():
            raise DatasetError(f"{self.name}: must begin with a header or numbers, got no line of up to two megabytes")
        return line

    def _has_header(self, first: Sequence[str]) -> bool:
        """Return True if the first row has the names; "auto": a first row of numbers is a point."""
        numbers = [self.options.number(cell) for cell in first]
        if self.options.header != "auto" or None in numbers:
            return bool(self.options.header)
        # pandas gives the names 0, 1, 2, … to unnamed columns, but such a row may be a point as well.
        if any(numbers == [k + start for k in range(len(numbers))] for start in (0, 1)):
            row, advice = ",".join(first[:4]), "give header=True or header=False"
            raise DatasetError(f"{self.name}: its first row, {row}, can be a header or a point; {advice}")
        notice(f"{self.name}: has no header, so its first row, which consists of numbers, is read as a point")
        return False

    def explain(self, error: Exception) -> DatasetError:
        """Return an error of DuckDB as one line that names the line of the file."""
        text = str(error)
        with open(self.file, "rb") as file:
            start = file.read(2)
        line = f"line {next(iter(re.findall('CSV Error on Line: ([0-9]+)', text)), '?')}"
        if start == b"\x1f\x8b" and suffix(self.file)[-3:] != ".gz":
            problem = "must be text, but it is compressed, and its name must end in .gz"
        elif found := _CONVERSION.search(text):
            kind = "" if found[3] == "DOUBLE" else found[3].lower()
            return cell_error(self.name, self.names[int(found[1])], line, found[2], kind)
        elif found := _CELLS.search(text):
            problem = f"{line} must have {found[1]} cells as the first line, got {found[2]}"
            problem += "; if its cells have another separator, give delimiter=…" if found[1] == "1" else ""
        elif "nicode" in text or "encod" in text:
            encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
            problem = f"must be text in the encoding {self.options.encoding}; give its encoding, as encoding={encoding!r}"
        else:
            problem = f"not a table of separated values, or damaged ({one_line(text, 160)})"
        return DatasetError(f"{self.name}: {problem}")


def cell_error(name: str, column: str, place: str, cell: str, kind: str = "") -> DatasetError:
    """Return the error for a cell that is not a number, or not of another kind, in a column of those."""
    advice = "give thousands=… or decimal=…" if not kind and re.fullmatch(FORMATTED, cell) else "correct it"
    if cell.strip().lower() in MARKERS:
        advice = f"give missing=[{cell!r}] if it marks a missing value"
    either = f"or categories=[{column!r}] to read all cells as text, or exclude the column"
    wanted = f"a {kind} as other cells" if kind else "a number"
    return DatasetError(f"{name}: column {column!r}, {place}: must be {wanted}, got {cell!r}; {advice}, {either}")


def _arguments(file: Path, **options: object) -> str:
    return ", ".join([literal(file), *(f"{option} = {literal(value)}" for option, value in options.items())])


def literal(value: object) -> str:
    """Return a value as a literal of SQL, and a path as a pattern that matches this path only."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    value = glob.escape(str(value)) if isinstance(value, Path) else value
    return str(value).lower() if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
