"""Columns by their names: which are there, which are meant, and how two tables differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from rieszflow._infra.text import suggestion
from rieszflow.data.options import Reading
from rieszflow.errors import DatasetError

__all__ = ["difference", "different", "known", "named", "other_delimiter", "without_index"]

_INDEX = re.compile(r"__index_level_\d+__")
_UNNAMED = re.compile(r"|Unnamed: 0(\.\d+)?")


def named(names: Sequence[str], most: int = 6) -> str:
    """Some names for a message: all of a few, else the first ones and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def difference(mine: Sequence[str], theirs: Sequence[str], whose: str) -> str:
    """How two sets of names differ."""
    only, lacking = [n for n in mine if n not in set(theirs)], [n for n in theirs if n not in set(mine)]
    said = [f"has {named(only)}"] if only else []
    said += [f"{whose} {named(lacking)}"] if lacking else []
    if only and lacking:
        return f"its columns are others: it {said[0]}, {said[1]}"
    return f"has the column {named(only)} more than the other" if only else f"lacks {named(lacking)}"


def different(name: str, names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DatasetError(f"{name}: two columns are called {twice!r}; names must differ, for columns are matched by them")
    return names


def known(name: str, names: list[str], asked: Iterable[str]) -> None:
    for column in asked:
        if column not in names:
            raise DatasetError(f"{name}: no column {column!r}; {suggestion(column, names) or 'it has ' + named(names, 20)}")


def without_index(names: list[str], columns: list[str], left: dict[str, str], index: Collection[str]) -> list[str]:
    """Drop the columns of a pandas index: those in `index`, known from metadata, and those with the usual names."""
    kept = []
    for column in columns:
        unnamed = column == names[0] and len(names) > 1 and _UNNAMED.fullmatch(column)
        if column in index or unnamed or _INDEX.fullmatch(column):
            left[column] = "an index, as pandas writes it"
        else:
            kept.append(column)
    return kept


def other_delimiter(names: list[str], reading: Reading) -> str:
    if len(names) == 1 and reading.delimiter is None:
        for delimiter in (";", "\t", "|"):
            if delimiter in names[0]:
                return f"; if its cells are separated by {delimiter!r}, give delimiter={delimiter!r}"
    return ""
