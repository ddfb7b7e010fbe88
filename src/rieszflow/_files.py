"""Files that appear whole or not at all, and tensor files that say what they are. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["FORMAT", "VERSION", "FileError", "atomically", "load_tensors", "save_tensors"]

FORMAT = "rieszflow"
VERSION = 3


class FileError(ValueError):
    """A file or folder of ours is not there, damaged, foreign or of another version. The message names it."""


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write(temporary)` beside `path`, flushes it to disk, and renames it: readers see the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, kind: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes tensors and JSON-able metadata as safetensors, with kind, version and a checksum in the header."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    header = {"version": VERSION, "kind": kind, "meta": meta, "checksum": _checksum(tensors, meta)}
    # One entry: safetensors writes several in random order, and equal contents should be equal files. As bytes: its own
    # `save_file` makes a second temporary file under a name that only it knows, which a killed process would leave behind.
    content = save(tensors, {FORMAT: json.dumps(header)})
    atomically(path, lambda temporary: temporary.write_bytes(content))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote, and refuses everything else with a `FileError`."""
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path}: damaged, or no safetensors file ({error})") from None
    if FORMAT not in metadata:
        raise FileError(f"{path}: a safetensors file, but not one of rieszflow's")
    try:
        header = json.loads(metadata[FORMAT])
        version, found, meta, checksum = (header[key] for key in ("version", "kind", "meta", "checksum"))
    except (ValueError, TypeError, KeyError):
        raise FileError(f"{path}: damaged: its header is not readable") from None
    if version != VERSION:
        raise FileError(f"{path}: of version {version}; this rieszflow reads version {VERSION}")
    if found != kind:
        raise FileError(f"{path}: holds a {found}, a {kind} is needed")
    if checksum != _checksum(tensors, meta):
        raise FileError(f"{path}: damaged: its checksum does not fit its contents")
    return tensors, meta


def _checksum(tensors: dict[str, Tensor], meta: dict[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(meta).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
