"""Arrow tables as matrices: which types hold numbers, and a pass over the batches of a table. Needs pyarrow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from rieszflow._infra.messages import notice, one_line
from rieszflow.data.options import TableOptions, cell_error, is_missing
from rieszflow.data.points import as_points
from rieszflow.errors import DatasetError

Column: TypeAlias = "pa.Array[Any]"


class Part:
    """One file of a table, or a data frame: the types of its columns, and passes over some of them."""

    n: int | None = None  # number of rows, if known
    named = True  # False for a CSV file without header
    typed = True  # False if types were inferred from cells
    extensions: Mapping[str, str] = MappingProxyType({})  # extension types of columns whose numbers mean something else
    index: Collection[str] = ()  # columns that hold a pandas index
    missing: Collection[str] = ()  # texts that mark a missing value

    def __init__(self, name: str, types: dict[str, pa.DataType]) -> None:
        self.name, self.types = name, types

    def batches(self, columns: list[str], as_text: Collection[str]) -> Iterable[pa.RecordBatch]:
        """Start a pass over some columns; a CSV file reads those in `as_text` as unparsed text."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """Describe the position of a row for messages."""
        return f"row {row}, counted from 0"

    def explain(self, columns: list[str], error: Exception) -> Exception:
        """Convert an error of Arrow into one that names the line or the file."""
        return error


def skip_reason(kind: pa.DataType, options: TableOptions) -> str | None:
    """Return why a column of this type is skipped; "text" if that depends on its cells, None if it is read."""
    kind = storage(kind)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return None
    if types.is_temporal(kind) and not types.is_interval(kind):
        return None if options.dates else "dates or times; dates=True reads them as seconds"
    if is_list(kind):
        inner = skip_reason(kind.value_type, options)
        return None if inner is None else f"lists of {inner}"
    if _is_text(kind):
        return "text"
    if types.is_null(kind):
        return "empty: no value in it"
    nested = types.is_struct(kind) or types.is_map(kind) or types.is_union(kind)
    return ("nested: " if nested else "") + str(kind)[:60]


def storage(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values that a column of an extension, dictionary or run-end encoded type holds."""
    if isinstance(kind, pa.BaseExtensionType):
        return storage(kind.storage_type)
    return storage(kind.value_type) if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind


def is_list(kind: pa.DataType) -> TypeGuard[pa.ListType[Any]]:
    """Return True for a list type of any kind, with lists of equal or different lengths."""
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists or types.is_list_view(kind) or types.is_large_list_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def fits_float32(kind: pa.DataType) -> bool:
    """Return True if float32 holds every value of the type."""
    kind = storage(kind)
    if is_list(kind):
        return fits_float32(kind.value_type)
    small = types.is_integer(kind) and kind.bit_width <= 16
    return small or types.is_boolean(kind) or types.is_float16(kind) or types.is_float32(kind)


def to_seconds(column: Column) -> Column:
    """Convert times and durations to seconds, and dates to seconds since 1970."""
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if types.is_date32(column.type) else "ms"))
    kind = column.type
    # Divide integers first: float64 does not hold nanoseconds since 1970 exactly.
    ticks = column.cast(pa.int32() if types.is_time32(kind) else pa.int64()).cast(pa.int64())
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    seconds = pc.divide(ticks, per_second)
    rest = pc.subtract(ticks, pc.multiply(seconds, per_second))
    return pc.add(seconds.cast(pa.float64()), pc.divide(rest.cast(pa.float64()), float(per_second)))


def label_values(column: Column | pa.ChunkedArray[Any]) -> list[object]:
    """Return the values of a column as Python objects; times of day in nanoseconds as strings, to keep all digits."""
    return (column.cast(pa.string()) if column.type == pa.time64("ns") else column).to_pylist()


@dataclass(frozen=True)
class _Place:
    """A column of a part, for messages; `row` maps the index of a value to its row in the part."""

    part: Part
    column: str
    row: Callable[[int], int]

    def __str__(self) -> str:
        return f"{self.part.name}: column {self.column!r}"

    def of_value(self, k: int) -> str:
        return self.part.place(self.row(k))


class Reader:
    """Passes over the chosen columns of a table and its labels; with `options.missing`, incomplete rows are skipped."""

    def __init__(
        self, name: str, parts: list[Part], columns: list[str], float32: bool, options: TableOptions, label: str | None
    ) -> None:
        self.name, self.parts, self.columns, self.options, self.label = name, parts, columns, options, label
        self.dtype = np.float32 if float32 else np.float64
        self.skips = options.missing is not None
        self.found: dict[str, int] = {}  # width of each column, once known
        self.lists = {c for c in columns if any(is_list(storage(part.types[c])) for part in parts)}

    def widths(self) -> dict[str, int]:
        """Return how many numbers each column has in a row: one, unless it holds lists."""
        if self.lists:
            next(self.matrices(), None)
        return {c: self.found.get(c, 1) for c in self.columns}

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield all rows as matrices (m, d)."""
        skipped = 0
        for part, batch, row in self._batches(self.columns, self.skips):
            matrix, bad = self._matrix(part, batch, row)
            if self.skips:
                bad |= self._labels(part, batch)[1]
                matrix = matrix[~bad]
            skipped += batch.num_rows - len(matrix)
            if len(matrix):
                yield matrix
        if skipped:
            notice(f"{self.name}: skipped {'1 row' if skipped == 1 else f'{skipped} rows'} with missing values")

    def labels(self) -> list[object]:
        """Return the label of every row of `matrices`, or None if it is missing."""
        found: list[object] = []
        for part, batch, row in self._batches(self.columns if self.skips else [], True):
            values, missing = self._labels(part, batch)
            if self.skips:
                found += itertools.compress(values, ~(self._matrix(part, batch, row)[1] | missing))
            else:
                found += [None if out else value for value, out in zip(values, missing, strict=True)]
        return found

    def _labels(self, part: Part, batch: pa.RecordBatch) -> tuple[list[object], np.ndarray]:
        """Return the labels of a batch and a mask of the missing ones."""
        if self.label is None:
            return [], np.zeros(batch.num_rows, bool)
        try:
            values = label_values(batch.column(self.label))
        except (ValueError, OverflowError) as error:  # times out of the range of Python's types
            raise DatasetError(f"{part.name}: column {self.label!r} of labels cannot be read ({one_line(error)})") from None
        markers = {*part.missing, *(self.options.missing or ())}
        return values, np.array([is_missing(value, markers) for value in values], bool)

    def _batches(self, columns: list[str], with_label: bool) -> Iterator[tuple[Part, pa.RecordBatch, int]]:
        """Yield parts, batches of some columns, and the index of each batch's first row."""
        label = [self.label] if with_label and self.label is not None else []
        for part in self.parts:
            row = 0
            try:
                for batch in part.batches([*columns, *label], label):
                    if batch.num_rows:
                        yield part, batch, row
                    row += batch.num_rows
            except (pa.ArrowException, OSError, UnicodeError) as error:
                raise part.explain(self.columns, error) from None

    def _matrix(self, part: Part, batch: pa.RecordBatch, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a batch (m, d), and a mask of the rows that lack one."""
        columns, bad = [], np.zeros(batch.num_rows, bool)
        for name in self.columns:
            column = batch.column(name)
            if column.type in (pa.float64(), pa.float32()) and not column.null_count and not self.skips:
                columns.append(column.to_numpy()[:, None])  # the common case, and tables can have many columns
                continue
            place = _Place(part, name, lambda k: row + k)
            values, missing = self._values(column, place)
            if (width := self.found.setdefault(name, values.shape[1])) != values.shape[1]:
                raise DatasetError(f"{place}: lists must have {width} numbers as earlier ones, got {values.shape[1]}")
            if not self.skips and missing.any():
                where = place.of_value(int(missing.argmax()))
                raise DatasetError(f"{place} has missing values ({where}); fill them, or give missing=[] to skip such rows")
            bad |= missing
            columns.append(values)
        return np.concatenate(columns, 1, dtype=self.dtype), bad

    def _values(self, column: Column, place: _Place) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a column (m, width), and a mask of the rows that lack one."""
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        elif types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)  # type: ignore[attr-defined]  # the stubs lack it
        if is_list(column.type):
            return self._lists(column, place)
        if _is_text(column.type):
            column = self._parsed(column, place)
        elif types.is_decimal(column.type) or types.is_null(column.type):
            column = column.cast(pa.float64())
        elif types.is_temporal(column.type):
            column = to_seconds(column)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        if column.null_count:
            column = column.fill_null(False if types.is_boolean(column.type) else 0)
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind in "iu":
            values = as_points(values[:, None], str(place))[:, 0]
        values = values.astype(self.dtype, copy=False)
        return values[:, None], missing | np.isnan(values) if self.skips else missing

    def _lists(self, column: Any, place: _Place) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a column of lists of one length, as `_values` does."""
        missing = column.is_null().to_numpy(zero_copy_only=False).copy()
        present = np.flatnonzero(~missing)
        lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)[present]
        width = int(lengths[0]) if len(present) else 1
        if (lengths != width).any():
            k = int((lengths != width).argmax())
            where = place.of_value(int(present[k]))
            raise DatasetError(f"{place}: lists must have {width} numbers as earlier ones, got {lengths[k]} ({where})")
        if width == 0:
            raise DatasetError(f"{place}: lists must have at least one number, got empty ones")
        inner_place = _Place(place.part, place.column, lambda k: place.row(int(present[int(k) // width])))
        inner, lacking = self._values(column.drop_null().flatten(), inner_place)
        values = np.zeros((len(column), width * inner.shape[1]), self.dtype)
        values[present] = inner.reshape(len(present), -1)
        missing[present] = lacking.reshape(len(present), -1).any(1)
        return values, missing

    def _parsed(self, column: Column, place: _Place) -> Column:
        """Convert text to numbers in the format of the options."""
        options = self.options
        text: Any = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
        for marker in ("", *(options.missing or ())):
            text = pc.if_else(pc.equal(text, pa.scalar(marker)), None, text)
        if options.thousands:
            text = pc.replace_substring(text, options.thousands, "")
        if options.decimal != ".":
            text = pc.replace_substring(pc.replace_substring(text, ".", "\0"), options.decimal, ".")
        try:
            numbers: Column = text.cast(pa.float64())
            return numbers
        except pa.ArrowInvalid:
            for k, cell in enumerate(column.to_pylist()):
                if cell is not None and cell not in (options.missing or ()) and not options.is_number(cell):
                    raise cell_error(place.part.name, place.column, place.of_value(k), cell) from None
            raise
