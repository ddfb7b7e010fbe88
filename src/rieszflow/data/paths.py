"""Names and kinds of columns, and names and folders of files. System files are ignored, and links are followed once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeGuard

from rieszflow._infra.messages import suggestion
from rieszflow.errors import DatasetError, InputError

TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET = (".parquet", ".pq")
JSON = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
NUMBERS = ("number", "whole", "boolean")  # kinds of columns that hold numbers
SYSTEM = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")


def quoted(names: Sequence[str], most: int = 6) -> str:
    """Quote names for a message: the first ones, and the number of the others."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def skipped(reasons: dict[str, str]) -> str:
    """Return columns with the reasons why they are left out, for a notice."""
    more = f" and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    return ", ".join(f"{name!r} ({reason})" for name, reason in list(reasons.items())[:20]) + more


def column_difference(mine: Iterable[str], theirs: Iterable[str], whose: str) -> str:
    """Describe how two sets of column names differ; `whose` is the subject and verb of the other, such as "b.csv has"."""
    extra, lacking = [n for n in mine if n not in set(theirs)], [n for n in theirs if n not in set(mine)]
    if extra and lacking:
        return f"has different columns: it has {quoted(extra)}, {whose} {quoted(lacking)}"
    return f"has the additional column {quoted(extra)}" if extra else f"lacks {quoted(lacking)}"


def check_same_columns(name: str, mine: Iterable[str], theirs: Iterable[str], whose: str) -> None:
    """Raise InputError unless both sets of column names are equal."""
    if set(mine) != set(theirs):
        difference = column_difference(mine, theirs, whose)
        raise InputError(f"{name}: {difference}; columns are matched by name: choose those to compare")


def check_distinct(name: str, columns: Sequence[str]) -> list[str]:
    """Return the columns' names, or raise DatasetError if two are equal."""
    if twice := [column for column, number in Counter(columns).items() if number > 1]:
        raise DatasetError(f"{name}: column names must be different, got {twice[0]!r} twice")
    return list(columns)


def check_known(name: str, columns: Sequence[str], wanted: Iterable[str]) -> None:
    """Raise DatasetError unless all wanted columns exist."""
    for column in wanted:
        if column not in columns:
            hint = suggestion(column, columns) or f"it has {quoted(columns, 20)}"
            raise DatasetError(f"{name}: no column {column!r}; {hint}")


def common_kind(column: str, kinds: Iterable[tuple[str, str]]) -> str:
    """Return the kind of a column that several sources share, given as kinds and names; raise DatasetError if they do not."""
    common, first = "empty", ""
    for kind, name in kinds:
        if common == "empty":
            common, first = kind, name
        elif kind in NUMBERS and common in NUMBERS:
            common = kind if kind == common else "number"
        elif kind not in ("empty", common):
            accepted = {"time": "dates or times", **dict.fromkeys(NUMBERS, "numbers")}.get(common, common)
            raise DatasetError(f"{name}: column {column!r} must hold {accepted} as in {first}, got {kind}")
    return common


def path_hint(path: Path) -> str:
    """Return "; did you mean …?" with the most similar path in the same folder, or an empty string."""
    similar = suggestion(path, map(str, path.parent.glob("*") if path.name else ()), 0.75)
    return similar and f"; {similar}"


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder in alphabetical order, without hidden ones and those of operating systems."""
    try:
        return sorted(e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in SYSTEM)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from None


def all_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return all files below a folder, and the links that are not followed because their folders are read already."""
    found, repeated, seen, places = list[Path](), list[Path](), set[str](), [folder]
    while places:
        places.sort(key=os.path.islink, reverse=True)  # links after all folders
        place = places.pop()
        if (real := os.path.realpath(place)) in seen:
            repeated.append(place)
            continue
        seen.add(real)
        for entry in entries(place):
            (places if os.path.isdir(entry) else found).append(entry)
    return sorted(found), repeated


def folders_below(path: Path, depth: int = 2) -> list[Path]:
    """Return a folder and those below it, the nearest first."""
    if not path.is_dir():
        return []
    below = [e for e in entries(path) if os.path.isdir(e)] if depth else []
    return sorted([path, *(f for folder in below for f in folders_below(folder, depth - 1))], key=lambda f: len(f.parts))


def searched_paths(path: Path, folders: Sequence[Path]) -> str:
    """Describe for a message which folders were searched."""
    if not folders:
        return f"{path} ({'a file, not a folder' if path.exists() else 'no such folder'})"
    below = [str(f.relative_to(path)) for f in folders if f != path]
    return f"{path}" + (f" and {len(below)} folders below it ({quoted(below, 3)})" if below else "")


def is_query(source: object) -> TypeGuard[str]:
    """Return True for a query of DuckDB, and not the name of a file."""
    return isinstance(source, str) and bool(re.match(r"\s*(from|select|with)\s", source, re.I)) and not os.path.exists(source)


def suffix(path: Path) -> str:
    """Return the suffix of a file name in lower case; for a compressed file with that of its content, such as `.csv.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_table(path: Path) -> bool:
    """Return True if a file has the suffix of a table."""
    return suffix(path) in TEXT + PARQUET + JSON
