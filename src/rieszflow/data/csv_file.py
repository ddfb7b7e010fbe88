"""CSV files: their dialect, header and types, which DuckDB's sniffer guesses and the options set, and the lines of errors."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rieszflow._infra.messages import notice, one_line
from rieszflow.data.options import TableOptions, cell_error, check_distinct
from rieszflow.data.paths import suffix
from rieszflow.errors import DatasetError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Cells that mark missing values in every file, as in pandas.
MISSING = (
    "", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
_DELIMITERS = (",", ";", "\t", "|")
_CONVERSION = re.compile(r'converting column "c(\d+)". Could not convert string "(.*?)" to .(\w+)', re.DOTALL)
_CELLS = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")


class CsvFile:
    """A file of separated values. Whole numbers are read as float64, because later ones may have fractions.

    Attributes:
        names: Names of the columns.
        types: Their types in DuckDB, in the sniffed sample of 20,480 rows.
        whole: True for columns of whole numbers in the sample.
        named: False for a file without header, whose columns are numbered.
    """

    def __init__(self, file: Path, options: TableOptions, connection: DuckDBPyConnection) -> None:
        self.file, self.name, self.options, self._connection = file, str(file), options, connection
        self._common: dict[str, object] = {
            "quote": '"', "escape": '"', "skip": 0, "comment": "", "decimal_separator": options.decimal,
            "encoding": options.encoding, "nullstr": [*MISSING, *(options.missing or ())],
        }  # fmt: skip
        if options.thousands:
            self._common["thousands"] = options.thousands
        line = self._first_line()
        sniffed = self._sniff() if options.delimiter is None else None
        default = "\t" if suffix(file).startswith(".tsv") else ","
        self.delimiter = options.delimiter or (sniffed or {}).get("Delimiter", default)
        texts = sniffed is None or [column["type"] for column in sniffed["Columns"]] == ["VARCHAR"]
        if options.delimiter is None and texts and self.delimiter not in line:  # unequal rows look like a single column
            self.delimiter = max((default, *_DELIMITERS), key=line.count)
        first = next(csv.reader([line], delimiter=self.delimiter))
        self.named = self._has_header(first)
        names = [name.strip() for name in first] if self.named else [f"column {k}" for k in range(len(first))]
        if self.named and names[0].startswith("#"):
            names[0] = names[0].lstrip("#").strip()  # numpy.savetxt writes its header as a comment
        self.names = check_distinct(self.name, names)
        sniffed = self._sniff(delim=self.delimiter, header=self.named)
        if options.decimal == "." and self.delimiter != ",":
            comma = self._sniff(delim=self.delimiter, header=self.named, decimal_separator=",")
            if sniffed and comma and _numeric(comma) > _numeric(sniffed):
                sniffed, self.options = comma, replace(options, decimal=",")
                self._common["decimal_separator"] = ","
        self.types = ["VARCHAR"] * len(names)
        if sniffed is not None and len(sniffed["Columns"]) == len(names):
            self.types = [column["type"] for column in sniffed["Columns"]]
            for key, option in (("DateFormat", "dateformat"), ("TimestampFormat", "timestampformat")):
                if sniffed[key] is not None:
                    self._common[option] = sniffed[key]
        self.whole = [kind in ("BIGINT", "HUGEINT") for kind in self.types]
        self.types = ["DOUBLE" if whole else kind for kind, whole in zip(self.types, self.whole, strict=True)]
        found = [] if self.delimiter in (options.delimiter, default) else [f"the delimiter {self.delimiter!r}"]
        found += ["decimal commas"] if self.options.decimal != options.decimal else []
        found += [f"dates as {v}" for o, v in self._common.items() if o.endswith("format") and "%Y-%m-%d" not in str(v)]
        if found:
            notice(f"{self.name}: read with {', '.join(found)}")

    def query(self, types: Sequence[str]) -> str:
        """Return the query that reads all columns with the given types; as VARCHAR, a cell is its unparsed text."""
        columns = {f"c{k}": kind for k, kind in enumerate(types)}
        options = {**self._common, "delim": self.delimiter, "header": self.named, "auto_detect": False}
        return f"FROM read_csv({literal(self.name)}, columns = {literal(columns)}, {_arguments(options)})"

    def _sniff(self, **options: object) -> dict[str, Any] | None:
        """Return what DuckDB's sniffer decides; None if it finds no dialect."""
        import duckdb

        try:
            found = self._connection.sql(f"FROM sniff_csv({literal(self.name)}, {_arguments({**self._common, **options})})")
            return dict(zip(found.columns, found.fetchall()[0], strict=True))
        except duckdb.Error:
            return None  # the pass over all rows reports the error with its line

    def _first_line(self) -> str:
        import duckdb

        whole_lines = {"auto_detect": False, "header": False, "delim": "\x1f", "quote": "", "escape": ""}
        arguments = _arguments({**whole_lines, "encoding": self.options.encoding})
        try:
            query = f"FROM read_csv({literal(self.name)}, columns = {{'line': 'VARCHAR'}}, {arguments}) LIMIT 1"
            rows = self._connection.sql(query).fetchall()
        except duckdb.Error as error:
            raise self.explain(error) from None
        if not rows:
            raise DatasetError(f"{self.name}: must begin with a header or numbers, got no line of up to two megabytes")
        line = rows[0][0] or ""
        if "\0" in line:
            raise DatasetError(f"{self.name}: must be text, got zero bytes; if its encoding is UTF-16, give encoding='utf-16'")
        if not line.strip():
            raise DatasetError(f"{self.name}: must begin with a header or numbers, got an empty first line")
        return str(line).removeprefix("\ufeff")

    def _has_header(self, first: Sequence[str]) -> bool:
        """Return True if the first row has the names; "auto": a first row of numbers is a point."""
        if self.options.header != "auto":
            return bool(self.options.header)
        if not all(map(self.options.is_number, first)):
            return True
        # pandas gives the names 0, 1, 2, … to unnamed columns, but such a row may be a point as well.
        numbers = [float(self.options.normalized(cell)) for cell in first]
        if any(numbers == [k + start for k in range(len(numbers))] for start in (0, 1)):
            shown = self.delimiter.join(first[:4]) + ("…" if len(first) > 4 else "")
            advice = "give header=True or header=False"
            raise DatasetError(f"{self.name}: its first row, {shown}, can be a header or a point; {advice}")
        notice(f"{self.name}: has no header, so its first row, which consists of numbers, is read as a point")
        return False

    def explain(self, error: Exception) -> DatasetError:
        """Return an error of DuckDB as one line that names the line of the file."""
        text = str(error)
        with open(self.file, "rb") as file:
            start = file.read(2)
        if start == b"\x1f\x8b" and suffix(self.file)[-3:] != ".gz":
            return DatasetError(f"{self.name}: must be text, but it is compressed, and its name must end in .gz")
        line = next(iter(re.findall(r"CSV Error on Line: (\d+)", text)), "?")
        if found := _CONVERSION.search(text):
            column, cell = self.names[int(found[1])], found[2]
            if found[3] == "DOUBLE":
                return cell_error(self.name, column, f"line {line}", cell)
            problem = f"must be a {found[3].lower()} as other cells, got {cell!r}"
            advice = f"correct it, or give categories=[{column!r}] to read all cells as text"
            return DatasetError(f"{self.name}: column {column!r}, line {line}: {problem}; {advice}")
        if found := _CELLS.search(text):
            expected, got = found.groups()
            hint = next((c for c in _DELIMITERS if expected == "1" and c in self.names[0]), None)
            more = f"; if its cells are separated by {hint!r}, give delimiter={hint!r}" if hint else ""
            return DatasetError(f"{self.name}: line {line} must have {expected} cells as the first line, got {got}{more}")
        if "nicode" in text or "encod" in text:
            advice = "save it as UTF-8, or give its encoding, for example encoding='latin-1'"
            if start in (b"\xff\xfe", b"\xfe\xff"):
                advice = "give encoding='utf-16'"
            return DatasetError(f"{self.name}: must be text in the encoding {self.options.encoding}; {advice}")
        return DatasetError(f"{self.name}: not a table of separated values, or damaged ({one_line(text, 160)})")


def _numeric(sniffed: dict[str, Any]) -> int:
    return sum(column["type"] in ("BIGINT", "DOUBLE") for column in sniffed["Columns"])


def _arguments(options: dict[str, object]) -> str:
    return ", ".join(f"{name} = {literal(value)}" for name, value in options.items())


def literal(value: object) -> str:
    """Return a value as a literal of SQL."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
