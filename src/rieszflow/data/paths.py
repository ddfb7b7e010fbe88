"""Names and folders of files. Files that operating systems leave behind are ignored, and links are followed once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rieszflow._infra.messages import suggestion
from rieszflow.errors import DatasetError

TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET = (".parquet", ".pq")
SQL = re.compile(r"\s*(from|select|with)\s", re.IGNORECASE)
JSON = (".json", ".jsonl", ".ndjson")

_MARKERS = ("_success", "_metadata", "_common_metadata", ".ds_store")  # left by table writers next to the data
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "_spark_metadata": "Spark's streaming sink"}
_SYSTEM = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")


def quoted(names: Sequence[str], most: int = 6) -> str:
    """Quote names for a message: the first ones, and the number of the others."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def path_hint(path: Path) -> str:
    """Return "; did you mean …?" with the most similar path in the same folder, or an empty string."""
    exists = path.name and path.parent.is_dir()
    similar = suggestion(path, [str(path.parent / f) for f in os.listdir(path.parent)] if exists else [], 0.75)
    return similar and f"; {similar}"


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder in alphabetical order, without hidden ones and those of operating systems."""
    try:
        with os.scandir(folder) as found:
            visible = [e for e in found if not e.name.startswith(".") and e.name.lower() not in _SYSTEM]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from None
    return sorted(visible, key=lambda e: e.name)


def all_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return all files below a folder, and the links that are not followed because their folders are read already."""
    found, repeated, seen = [], [], set()
    places, links = [folder], list[Path]()
    while places or links:
        place = places.pop() if places else links.pop(0)  # links after all folders
        if (real := os.path.realpath(place)) in seen:
            repeated.append(place)
            continue
        seen.add(real)
        for entry in entries(place):
            if os.path.isdir(entry.path):  # unlike `entry.is_dir`, never raises, as for circular links
                (links if entry.is_symlink() else places).append(Path(entry.path))
            else:
                found.append(Path(entry.path))
    return sorted(found), repeated


def folders_below(path: Path, depth: int = 2) -> list[Path]:
    """Return a folder and those below it, the nearest first."""
    found = level = [path] if path.is_dir() else []
    for _ in range(depth):
        level = [Path(e.path) for folder in level for e in entries(folder) if os.path.isdir(e.path)]
        found = found + level
    return found


def searched_paths(path: Path, folders: list[Path]) -> str:
    """Describe for a message which folders were searched."""
    if not folders:
        return f"{path} ({'a file, not a folder' if path.exists() else 'no such folder'})"
    below = [str(f.relative_to(path)) for f in folders if f not in (path, path.parent)]
    return f"{path}" + (f" and {len(below)} folders below it ({quoted(below, 3)})" if below else "")


def suffix(path: Path) -> str:
    """Return the suffix of a file name in lower case; for a compressed file with that of its content, such as `.csv.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_table(path: Path) -> bool:
    """Return True if a file has the suffix of a table."""
    return suffix(path) in TEXT + PARQUET + JSON


def is_system(path: Path) -> bool:
    """Return True for a file that an operating system or a table writer leaves in a folder of tables."""
    name = path.name.lower()
    system = name in _MARKERS or name.startswith("._") or (name.startswith(".") and name.endswith(".crc"))
    return system or any(part.lower() in _SYSTEM for part in path.parts)


def table_format(folder: Path, below: Sequence[Path]) -> str | None:
    """Return the format of a table with a log of its current files, if the folder is, contains or lies in one, or None."""
    around = [folder, *folder.absolute().parents]
    names = {path.name for path in below}
    for log, kind in _LOGS.items():
        if log in names or any((place / log).is_dir() for place in around):
            return kind
    if any(path.match("metadata/*.metadata.json") for path in below):
        return "Iceberg"
    return "Iceberg" if any(next(place.glob("metadata/*.metadata.json"), None) for place in around[:4]) else None
