"""The pass over the chosen columns of all parts of a table: Arrow batches in, matrices out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rieszflow._infra.notices import notice
from rieszflow._infra.text import one_line
from rieszflow.data.arrow import is_list, label_values, seconds, storage
from rieszflow.data.options import Reading
from rieszflow.data.parts import PLAIN, Part, is_missing, mixed
from rieszflow.data.points import as_points
from rieszflow.errors import DatasetError

__all__ = ["Reader"]


class Reader:
    """The pass over the chosen columns of all parts, and over a column of labels.

    If `reading.missing` is given, rows without a label are left out, as those without a number are.
    """

    def __init__(
        self, name: str, parts: list[Part], columns: list[str], single: bool, reading: Reading, pa: Any, label: str | None
    ) -> None:
        self.name, self.parts, self.columns, self.reading, self.pa = name, parts, columns, reading, pa
        self.dtype = np.float32 if single else np.float64
        self.label = label
        self.found: dict[str, int] = {}  # numbers a row has in a column, once seen
        self.lists = {c for c in columns if any(self._nested(part.types[c]) for part in parts)}

    def _nested(self, kind: Any) -> bool:
        return is_list(storage(kind, self.pa), self.pa)

    def widths(self) -> dict[str, int]:
        """Numbers that a row has in every column; the first rows tell."""
        if not self.lists:
            return dict.fromkeys(self.columns, 1)
        next(self.matrices(), None)
        return {c: self.found.get(c, 1) for c in self.columns}

    def matrices(self) -> Iterator[np.ndarray]:
        dropped, drops = 0, self.reading.missing is not None
        for part, batch, row in self._batches(self.columns, drops):
            matrix, bad = self._matrix(part, batch, row)
            if drops:
                bad = bad | self._unlabelled(part, batch)
                matrix = matrix[~bad]
            dropped += batch.num_rows - len(matrix)
            if len(matrix):
                yield matrix
        if dropped:
            rows = "1 row" if dropped == 1 else f"{dropped} rows"
            notice(f"{self.name}: left out {rows} with missing values")

    def labels(self) -> list[Any]:
        """Return the label of every row that `matrices` keeps; None if it is missing."""
        found: list[Any] = []
        drops = self.reading.missing is not None
        for part, batch, row in self._batches(self.columns if drops else [], True):
            values, gone = self._labels(part, batch), self._unlabelled(part, batch)
            if drops:
                bad = self._matrix(part, batch, row)[1] | gone
                found += [value for value, out in zip(values, bad, strict=True) if not out]
            else:
                found += [None if out else value for value, out in zip(values, gone, strict=True)]
        return found

    def _labels(self, part: Part, batch: Any) -> list[Any]:
        try:
            values: list[Any] = label_values(batch.column(self.label), self.pa)
        except (ValueError, OverflowError) as error:  # times out of the range of Python's types
            raise DatasetError(f"{part.name}: column {self.label!r} of labels cannot be read ({one_line(error)})") from None
        return values

    def _unlabelled(self, part: Part, batch: Any) -> np.ndarray:
        if self.label is None:
            return np.zeros(batch.num_rows, bool)
        empty = {*part.empty, *(self.reading.missing or ())}
        return np.array([is_missing(value, empty) for value in self._labels(part, batch)], bool)

    def _batches(self, columns: list[str], labels: bool) -> Iterator[tuple[Part, Any, int]]:
        """Yield parts, batches of some columns (with `labels` also the label's), and the index of each batch's first row."""
        label = [self.label] if labels and self.label is not None else []
        for part in self.parts:
            row = 0
            try:
                for batch in part.batches([*columns, *label], label):
                    if batch.num_rows:
                        yield part, batch, row
                    row += batch.num_rows
            except (self.pa.ArrowException, OSError, UnicodeError) as error:
                if part.explain is None:
                    raise
                raise part.explain(self.columns, error) from None

    def _matrix(self, part: Part, batch: Any, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a batch, (m, d), and a mask of the rows that lack one."""
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
        return np.concatenate(columns, 1, dtype=self.dtype), bad

    def _values(self, column: Any, place: str, where: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
        """A column as (m, width), and which rows lack a value."""
        pa, t = self.pa, self.pa.types
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if t.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif t.is_run_end_encoded(column.type):
            column = pa.compute.run_end_decode(column)
        if is_list(column.type, pa):
            return self._lists(column, place, where)
        kind = column.type
        if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
            column = self._from_text(column, place, where)
        elif t.is_decimal(kind):
            column = column.cast(pa.float64())
        elif t.is_temporal(kind):
            column = seconds(column, pa)
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
        text = compute.utf8_trim_whitespace(column.cast(self.pa.large_string()))
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
                    and not PLAIN.fullmatch(self.reading.plain(cell))
                ):
                    name, _, own = place.rpartition(": column ")
                    raise mixed(name, own.strip("'"), where(k), cell) from None
            raise


def _at(part: Part, column: str, first: int, k: int) -> str:
    return part.place(column, first + k)
