"""Files that appear whole or not at all, and tensor files that say what they are. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from rieszflow.errors import FileError, InputError, WriteError

__all__ = [
    "MARK", "Format", "Json", "aside", "atomically", "is_temporary", "load_header", "load_tensors", "one_line", "read_text",
    "remove_leftovers", "save_tensors",
]  # fmt: skip

MARK = "rieszflow"  # what all our files are marked with
Json: TypeAlias = dict[str, Any]  # what JSON can say, which has no narrower type


@dataclass(frozen=True)
class Format:
    """What a tensor file holds, and the version of its layout. It stands beside the code that writes such files.

    Raise the version when the names or the meaning of what is inside change: older files are then refused.
    """

    kind: str
    version: int


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary)` beside `path`, flushes it to disk, and renames it: readers see the old file or the new.

    Raises:
        WriteError: the disk is full, the folder is read-only, and the like; the old file is still there.
    """
    try:
        with aside(path) as temporary:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        # The file that we were about to write under another name is not what the reader knows.
        reason = error.strerror if error.strerror and _ours(error.filename, path) else one_line(error)
        left = "what was there before is untouched" if os.path.lexists(path) else "nothing is left behind"
        wrapped = WriteError(f"{path}: cannot be written ({reason}); {left}")
        wrapped.errno = error.errno
        raise wrapped from error


def _ours(name: str | bytes | None, path: Path) -> bool:
    return name is None or os.path.dirname(os.fsdecode(name)) == str(path.parent) or Path(os.fsdecode(name)) in path.parents


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to. Whatever is under it in the end is removed.

    So is what processes that were killed in the middle have left of the same path: their number is in the name.
    """
    if not path.name or "\0" in path.name:
        raise InputError(f"{str(path)!r}: the name of a file or folder is needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = (
        path.stem if len(os.fsencode(path.name)) < 150 else hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    )
    remove_leftovers(path.parent, f".{stem}.", f".tmp{path.suffix}")
    temporary = path.with_name(f".{stem}.{_HERE}-{os.getpid()}-{next(_count)}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        _remove(temporary)


_count = itertools.count()  # of this process's temporaries: two threads may write to one path


def _here() -> str:
    """Where a process's number means something: this machine, and in it this container."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return hashlib.blake2b(f"{platform.node()} {space}".encode(), digest_size=4).hexdigest()


_HERE = _here()
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.tmp(\.[^.]*)?", re.DOTALL)


def is_temporary(name: str) -> bool:
    """Whether it is the name of a file that we were about to write."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path, start: str = ".", end: str = "") -> None:
    """Removes our temporaries in a folder whose processes have ended; those of other machines are left alone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(start) and entry.name.endswith(end) and _left_over(entry.name):
                _remove(Path(entry.path))


def _left_over(name: str) -> bool:
    found = _TEMPORARY.fullmatch(name)
    if found is None or found[1] != _HERE or os.name != "posix":  # elsewhere signal 0 is no question
        return False
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's process
        return False
    return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def one_line(error: object, most: int = 300) -> str:
    """An error's message without line breaks, cut where libraries write whole pages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[:most] + " …"


def read_text(path: Path, most: int) -> str:
    """A text file of ours, at most that many bytes. Raises FileError."""
    if not path.is_file():  # a pipe would be waited for
        raise FileError(f"{path}: is a folder, or no regular file")
    try:
        with open(path, "rb") as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise FileError(f"{path}: damaged, or not ours: larger than {most / 1e6:g} MB")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: damaged, or no text file: it holds bytes that are not UTF-8") from None


def save_tensors(path: Path, form: Format, tensors: dict[str, Tensor], meta: Json) -> str:
    """Writes tensors and JSON-able metadata as safetensors, with kind, version and a checksum in the header.

    Returns:
        The checksum.

    Raises:
        WriteError: as `atomically`.
    """
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    checksum = _checksum(tensors, meta)
    header = {"version": form.version, "kind": form.kind, "meta": meta, "checksum": checksum}
    # One entry: safetensors writes several in random order, and equal contents should be equal files. As bytes: its own
    # `save_file` makes a second temporary file under a name that only it knows, which a killed process would leave behind.
    content = save(tensors, {MARK: json.dumps(header)})
    atomically(path, lambda temporary: temporary.write_bytes(content))
    return checksum


def load_tensors(path: Path, form: Format) -> tuple[dict[str, Tensor], Json]:
    """Reads what `save_tensors` wrote.

    Raises:
        FileError: missing, damaged, not ours, of another kind or version.
    """
    tensors, meta, checksum = _load(path, form, whole=True)
    if checksum != _checksum(tensors, meta):
        raise FileError(f"{path}: damaged: its checksum does not fit its contents")
    return tensors, meta


def load_header(path: Path, form: Format) -> tuple[Json, str]:
    """The metadata and the checksum that a file states. The tensors are not read, so the checksum is not verified."""
    _, meta, checksum = _load(path, form, whole=False)
    return meta, checksum


def _load(path: Path, form: Format, whole: bool) -> tuple[dict[str, Tensor], Json, str]:
    if not path.is_file():
        raise FileError(f"{path}: {'is a folder, or no regular file' if os.path.lexists(path) else 'no such file'}")
    try:
        tensors, metadata = _read(path, whole)
    except Exception as error:  # safetensors' own, the system's, and torch's for a dtype that does not fit
        raise FileError(f"{path}: damaged, or no safetensors file ({one_line(error)})") from None
    if MARK not in metadata:
        raise FileError(f"{path}: a safetensors file, but not one of rieszflow's")
    try:
        header = json.loads(metadata[MARK])
        version, kind, meta, checksum = (header[key] for key in ("version", "kind", "meta", "checksum"))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FileError(f"{path}: damaged: its header is not readable") from None
    if not isinstance(meta, dict) or not isinstance(kind, str) or not isinstance(checksum, str):
        raise FileError(f"{path}: damaged: its header is not readable")
    if kind != form.kind:
        raise FileError(f"{path}: holds a {kind[:40]}, a {form.kind} is needed")
    if version != form.version:
        raise FileError(f"{path}: of version {str(version)[:20]}; this rieszflow reads version {form.version}")
    return tensors, meta, checksum


def _read(path: Path, whole: bool) -> tuple[dict[str, Tensor], Json]:
    """A safetensors file: its tensors, if `whole`, and its metadata."""
    if os.fsencode(path).decode(errors="ignore") == str(path):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} if whole else {}  # noqa: SIM118  (no mapping)
            return tensors, file.metadata() or {}
    raw = path.read_bytes()  # a name that is not UTF-8, which safetensors does not take
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return load(raw), header.get("__metadata__", {})


def _checksum(tensors: dict[str, Tensor], meta: Json) -> str:
    digest = hashlib.blake2b(json.dumps(meta).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        if tensors[name].numel():  # torch cannot look at nothing as bytes
            digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
