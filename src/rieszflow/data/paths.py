"""Names and folders of files. Files that systems leave behind are passed over, links are followed once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rieszflow.errors import DatasetError

__all__ = [
    "PARQUET",
    "TEXT",
    "all_files",
    "answers",
    "folders_below",
    "is_system",
    "is_table",
    "lake",
    "listed",
    "looked",
    "meant",
    "some",
    "suffix",
]

TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET = (".parquet", ".pq")

_MARKERS = ("_success", "_metadata", "_common_metadata", ".ds_store")  # left by table writers next to the data
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "_spark_metadata": "Spark's streaming sink"}
_SYSTEM = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, but for hidden files and those that systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _SYSTEM]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from None
    return sorted(found, key=lambda e: e.name)


def answers(what: Callable[[], bool]) -> bool:
    """The answer, or no: links in a circle, and what we may not look at, raise."""
    try:
        return what()
    except OSError:
        return False


def all_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, and the links to folders that are not followed: each is read once, links after the rest."""
    found, again, seen = [], [], set()
    places, links = [folder], list[Path]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        if (real := os.path.realpath(place)) in seen:
            again.append(place)
            continue
        seen.add(real)
        for entry in listed(place):
            if answers(entry.is_dir):
                (links if entry.is_symlink() else places).append(Path(entry.path))
            else:
                found.append(Path(entry.path))
    return sorted(found), again


def folders_below(path: Path, depth: int = 2) -> list[Path]:
    """A folder and those below it, nearest first: where the files of a data set may be."""
    found = level = [path] if path.is_dir() else []
    for _ in range(depth):
        level = [Path(e.path) for folder in level for e in listed(folder) if answers(e.is_dir)]
        found = found + level
    return found


def looked(path: Path, folders: list[Path]) -> str:
    """Where was looked, for messages."""
    if not folders:
        return f"{path} ({'a file, no folder' if path.exists() else 'no such folder'})"
    below = [str(f.relative_to(path)) for f in folders if f not in (path, path.parent)]
    return f"{path}" + (f" and {len(below)} folders below it ({some(below)})" if below else "")


def some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def meant(name: str, sets: Sequence[str] = ()) -> str:
    """What a name that is not known may have been meant to be: a data set, or something beside the path."""
    path = Path(name)
    beside = [str(path.parent / f) for f in os.listdir(path.parent)] if path.name and path.parent.is_dir() else []
    known = {n.replace("-", ""): n for n in sets}
    close = difflib.get_close_matches(re.sub("[-_ ]", "", name.lower()), known, 1, 0.75)
    close = [known[c] for c in close] or difflib.get_close_matches(str(path), beside, 1, 0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def suffix(path: Path) -> str:
    """The file name's ending in lower case, with that of the file inside a compressed one: `.csv.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_system(path: Path) -> bool:
    """Return True for a file that an operating system or a table writer leaves in a folder of tables."""
    name = path.name.lower()
    system = name in _MARKERS or name.startswith("._") or (name.startswith(".") and name.endswith(".crc"))
    return system or any(part.lower() in _SYSTEM for part in path.parts)


def lake(folder: Path, below: Sequence[Path]) -> str | None:
    """Return the format of a table whose log says which files are current, if a folder is, contains or lies in one; or None.

    Args:
        folder: the folder.
        below: all paths in it, at any depth.
    """
    around = [folder, *folder.absolute().parents]
    names = {path.name for path in below}
    for log, kind in _LOGS.items():
        if log in names or any((place / log).is_dir() for place in around):
            return kind
    if any(path.match("metadata/*.metadata.json") for path in below):
        return "Iceberg"
    return "Iceberg" if any(next(place.glob("metadata/*.metadata.json"), None) for place in around[:4]) else None


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return suffix(path) in TEXT + PARQUET
