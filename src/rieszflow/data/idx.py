"""IDX files, the format of MNIST, and folders of the four that make a data set."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from rieszflow.data.dataset import Parts
from rieszflow.data.paths import folders_below, looked, some
from rieszflow.errors import DatasetError

__all__ = ["idx_file", "idx_folder", "idx_places", "read_idx"]

IDX = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
_CHUNK = 1 << 20
_IDX_TWINS = ("fashion", "kmnist", "kuzushiji", "emnist", "qmnist")  # data sets whose files have MNIST's names


def idx_file(folder: Path, part: str, kind: str) -> Path | None:
    """The file of a part: plain, gzipped, with a dot in its name, or in a folder of its own name, as Kaggle gives it."""
    for stem in (f"{part}-{kind}", f"{part}-{kind}".replace("-idx", ".idx")):
        for file in (folder / stem, folder / f"{stem}.gz", folder / stem / stem):
            if file.is_file():
                return file
    return None


def idx_places(path: Path, name: str = "") -> list[Path]:
    """Folders with all four files: the one given, or else those below it that are not another data set's by their names."""
    folders = [f for f in folders_below(path) if all(idx_file(f, *part) for part in IDX)]
    if path in folders:
        return [path]

    def other(folder: Path) -> bool:
        below = [part.lower() for part in folder.relative_to(path).parts]
        if name == "fashion-mnist":
            return "mnist" in below or any(t in part for part in below for t in _IDX_TWINS[1:])
        return name == "mnist" and any(t in part for part in below for t in _IDX_TWINS)

    return [f for f in folders if not other(f)]


def idx_folder(path: Path, name: str, advice: str) -> Parts:
    places = idx_places(path, "" if name == str(path) else name)
    if len(places) > 1:
        raise DatasetError(
            f"{name}: several data sets below {path}: {some([str(p) for p in places], 9)}; say which one is meant"
        )
    if not places:
        # The folder that has some of the files, if there is one, to name those that it lacks.
        folders = folders_below(path)
        near = next((f for f in folders if any(idx_file(f, *part) for part in IDX)), None)
        missing = some(["-".join(part) + "[.gz]" for part in IDX if near is None or not idx_file(near, *part)], 4)
        raise DatasetError(f"{name}: no file {missing} in {near or looked(path, folders)}; {advice}")
    files = [idx_file(places[0], *part) for part in IDX]
    arrays = [read_idx(f) for f in files if f is not None]
    for k in (0, 2):
        x, y = arrays[k : k + 2]
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise DatasetError(f"{name}: images {x.shape} and labels {y.shape} in {places[0]} do not belong together")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise DatasetError(f"{name}: images of {arrays[0].shape[1:]} and {arrays[2].shape[1:]} pixels in {places[0]}")
    return Parts(arrays[0][:, None], arrays[1], arrays[2][:, None], arrays[3])


def read_idx(file: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped (the format of MNIST).

    No more is unpacked than the header states, and memory grows only with the bytes that were read.

    Raises:
        DatasetError: the file is damaged or has another format.
    """
    file = Path(file)
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            content = gzip.GzipFile(fileobj=raw) if packed else raw
            start = content.read(4)
            sizes = content.read(4 * start[3]) if start[:3] == b"\0\0\x08" and len(start) == 4 and 1 <= start[3] <= 4 else b""
            if not sizes or len(sizes) < 4 * start[3]:
                raise DatasetError(f"{file}: not an IDX file of unsigned bytes")
            shape = tuple(int(v) for v in np.frombuffer(sizes, ">u4"))
            promised, body = math.prod(shape), bytearray()
            while chunk := content.read(min(_CHUNK, promised + 1 - len(body))):
                body += chunk
    except (OSError, EOFError) as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from None
    except zlib.error as error:
        raise DatasetError(f"{file}: damaged gzip data ({error})") from None
    if len(body) != promised:
        more = "more than " * (len(body) > promised)
        raise DatasetError(
            f"{file}: truncated or damaged: {more}{min(len(body), promised)} bytes of data, the header states {promised}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)
