"""Atomic writes, and safetensors files with a kind, a version and a checksum. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from rieszflow._infra.messages import one_line
from rieszflow.errors import FileError, InputError, RankError, WriteError

MARK = "rieszflow"  # marks all files of this library
Json: TypeAlias = dict[str, Any]  # JSON has no narrower type


@dataclass(frozen=True)
class Format:
    """The kind of a tensor file, and the version of its layout; files of other versions are refused."""

    kind: str
    version: int


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)`, flush the file to disk and rename it to `path`, so that readers see the old file or the new one.

    If that fails, for example because the disk is full, WriteError is raised and the old file is still there.
    """
    try:
        with aside(path) as temporary:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        left = "what was there before is untouched" if os.path.lexists(path) else "nothing is left behind"
        wrapped = WriteError(f"{path}: cannot be written ({error.strerror or one_line(error)}); {left}")
        wrapped.errno = error.errno
        raise wrapped from error


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a hidden path next to `path`, which is removed in the end, together with those that killed processes left."""
    if not path.name or "\0" in path.name:
        raise InputError(f"{str(path)!r}: the name of a file or folder is needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsencode(path.name)
    stem = path.stem if len(name) < 150 else hashlib.blake2b(name, digest_size=8).hexdigest()
    remove_leftovers(path.parent, f".{stem}.", f".tmp{path.suffix}")
    temporary = path.with_name(f".{stem}.{_HERE}-{os.getpid()}-{next(_count)}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        _remove(temporary)


try:
    _space = os.stat("/proc/self/ns/pid").st_ino
except OSError:
    _space = 0
# An identifier of the machine and the container, in which process numbers are unique.
_HERE = hashlib.blake2b(f"{platform.node()} {_space}".encode(), digest_size=4).hexdigest()
_count = itertools.count()  # two threads may write to one path
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.tmp(\.[^.]*)?", re.DOTALL)  # the names of `aside`


def remove_leftovers(folder: Path, start: str = ".", end: str = "") -> None:
    """Remove temporary files in a folder whose processes have ended; those of other machines are left alone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(start) and entry.name.endswith(end) and _left_over(entry.name):
                _remove(Path(entry.path))


def _left_over(name: str) -> bool:
    found = TEMPORARY.fullmatch(name)
    if found is None or found[1] != _HERE or os.name != "posix":  # on other systems, signal 0 is no query
        return False
    with contextlib.suppress(OSError, OverflowError):  # a process of another user exists
        try:
            os.kill(int(found[2]), 0)
        except ProcessLookupError:
            return True
    return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error reports exhausted memory, so that a file being read need not be damaged."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return (isinstance(error, OSError) and error.errno == errno.ENOMEM) or "allocate memory" in str(error)


@contextlib.contextmanager
def as_file_error(problem: str) -> Iterator[None]:
    """Convert the errors that malformed content causes in this block to FileError, but not those of memory or other ranks."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, RankError) or out_of_memory(error):
            raise
        raise FileError(f"{problem} ({one_line(error)})") from None


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, or raise FileError: a pipe would block, and a device like /dev/zero has no end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the name
        raise FileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path}: must be a regular file, got a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, most: int) -> str:
    """Return the text of a file of at most that many bytes. Raises FileError."""
    try:
        with open_regular(path) as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise FileError(f"{path}: must not be larger than {most / 1e6:g} MB; damaged, or not a file of rieszflow")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: damaged, or not a text file: it contains bytes that are not UTF-8") from None


def save_tensors(path: Path, form: Format, tensors: dict[str, Tensor], meta: Json) -> str:
    """Write tensors and JSON-able metadata as safetensors, with kind, version and checksum in the header; return the checksum.

    Equal contents give equal files, and at most one tensor at a time is copied in memory. Raises WriteError like `atomically`.
    """
    checksum = _checksum(tensors, meta)
    header, names = _header(tensors, {"version": form.version, "kind": form.kind, "meta": meta, "checksum": checksum})

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(header)
            for name in names:
                file.write(_bytes(tensors[name]))

    atomically(path, write)
    return checksum


_DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32",
    torch.uint32: "U32", torch.float32: "F32", torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64",
    torch.uint64: "U64",
}  # fmt: skip
"""Names of dtypes in a safetensors file. Tensors come in the reverse order, which aligns each to its item size."""


def _header(tensors: dict[str, Tensor], content: Json) -> tuple[bytes, list[str]]:
    """Return the header of a safetensors file, as the library writes it, and the names of the tensors in order."""
    if wrong := [f"{name} of {t.dtype}" for name, t in tensors.items() if t.dtype not in _DTYPES]:
        raise InputError(f"`tensors` must have dtypes that a safetensors file can hold, got {wrong[0]}")
    order = list(_DTYPES)
    names = sorted(tensors, key=lambda name: (-order.index(tensors[name].dtype), name))
    ends = list(itertools.accumulate(tensors[name].nbytes for name in names))
    # One entry of metadata: safetensors writes several in random order, and equal contents should give equal files.
    entries: Json = {"__metadata__": {MARK: json.dumps(content)}}
    for name, end in zip(names, ends, strict=True):
        t = tensors[name]
        entries[name] = {"dtype": _DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [end - t.nbytes, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def prefixed(prefix: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under names that begin with "prefix."."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def below(prefix: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[tuple[int, ...], *tuple[torch.dtype, ...]]]) -> None:
    """Raise KeyError or ValueError unless tensors from a file are finite and have the shape and one of the dtypes wanted."""
    for name, (shape, *dtypes) in wanted.items():
        t = found[name]
        if t.shape != shape or t.dtype not in dtypes or not t.isfinite().all():
            raise ValueError(f"{name}: {tuple(t.shape)} {t.dtype}, or NaN or infinity")


def load_tensors(path: Path, form: Format) -> tuple[dict[str, Tensor], Json]:
    """Return what `save_tensors` wrote. Raises FileError if it is missing, damaged, foreign, or of another kind or version."""
    tensors, meta, checksum = _load(path, form, whole=True)
    if checksum != _checksum(tensors, meta):
        raise FileError(f"{path}: damaged: its checksum does not fit its contents")
    return tensors, meta


def load_header(path: Path, form: Format) -> tuple[Json, str]:
    """Return the metadata and the checksum that a file states, without reading the tensors and verifying the checksum."""
    return _load(path, form, whole=False)[1:]


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file that `load_header` has accepted."""
    with open_regular(path) as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _load(path: Path, form: Format, whole: bool) -> tuple[dict[str, Tensor], Json, str]:
    open_regular(path).close()
    try:
        tensors, metadata = _read(path, whole)
    except Exception as error:  # safetensors', the system's, and torch's for an unexpected dtype
        if out_of_memory(error):
            raise
        raise FileError(f"{path}: damaged, or no safetensors file ({one_line(error)})") from None
    if MARK not in metadata:
        raise FileError(f"{path}: a safetensors file, but not one of rieszflow's")
    try:
        header = json.loads(metadata[MARK])
        version, kind, meta, checksum = (header[key] for key in ("version", "kind", "meta", "checksum"))
        if not isinstance(meta, dict) or not isinstance(kind, str) or not isinstance(checksum, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FileError(f"{path}: damaged: its header is not readable") from None
    if kind != form.kind:
        raise FileError(f"{path}: must hold a {form.kind}, got a {kind[:40]}")
    if version != form.version:
        raise FileError(f"{path}: of version {str(version)[:20]}; this rieszflow reads version {form.version}")
    return tensors, meta, checksum


def _read(path: Path, whole: bool) -> tuple[dict[str, Tensor], Json]:
    """Return the metadata of a safetensors file, and its tensors if `whole`."""
    if os.fsencode(path).decode(errors="ignore") == str(path):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} if whole else {}  # noqa: SIM118  (not a mapping)
            return tensors, file.metadata() or {}
    raw = path.read_bytes()  # safetensors does not accept names that are not UTF-8
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return load(raw), header.get("__metadata__", {})


def _checksum(tensors: dict[str, Tensor], meta: Json) -> str:
    digest = hashlib.blake2b(json.dumps(meta).encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, of a contiguous one on the CPU without a copy."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
