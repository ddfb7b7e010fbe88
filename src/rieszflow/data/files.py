"""Arrays from one path: a .npy or .npz file, a folder of images, or a folder of the four IDX files of a data set like MNIST."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from rieszflow._infra.messages import notice
from rieszflow.data.dataset import RawData
from rieszflow.data.images import IMAGES, is_image_folder, read_image_folder
from rieszflow.data.paths import folders_below, path_hint, quoted, searched_paths
from rieszflow.data.points import channels_first, plain_numbers, to_unit
from rieszflow.errors import DatasetError, InputTypeError

ACCEPTED = (
    "a folder of images, of the four IDX files of MNIST or of Parquet files, a .npy or .npz file, a .csv or .parquet table"
)

_ADVICE = {
    IMAGES: "give the folder of the images",
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"): "unpack it first",
    (".pkl", ".pickle", ".pt", ".pth", ".joblib"): "pickles can run code and are not read: save the array with numpy.save",
    (".mat", ".h5", ".hdf5", ".nc", ".zarr", ".safetensors"): "save the array with numpy.save",
    (".xls", ".xlsx", ".ods", ".feather", ".arrow", ".json", ".jsonl"): "save the table as .csv or .parquet",
}
_IDX = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
_IDX_TWINS = ("fashion", "kmnist", "kuzushiji", "emnist", "qmnist")  # data sets whose files have the names of MNIST's
_CHUNK = 1 << 20


def read_points(path: Path) -> np.ndarray:
    """Return all data of a .npy or .npz file, or of a folder of images or IDX files: points (n, d), as by `as_points`.

    Raises:
        DatasetError: The file is missing or damaged, or has another format.
    """
    if not path.exists():
        link = " (a broken link)" if path.is_symlink() else ""
        raise DatasetError(f"{path}: no such file or folder{link}{path_hint(path)}")
    data = read_path(path)
    if data.test is not None:
        notice(f"{path}: read {len(data.train)} training points, skipped {len(data.test)} test points")
    if 0 in data.train.shape:
        raise DatasetError(f"{path}: must have at least one point and one number, got shape {data.train.shape}")
    return np.asarray(to_unit(data.train, str(path))).reshape(len(data.train), -1)


def read_path(path: Path) -> RawData:
    if path.is_dir():
        if _find_idx(path, _IDX[0]):
            if is_image_folder(path):
                notice(f"{path}: read the IDX files, skipped the images next to them")
            return read_idx_folder(path, str(path), "the four files of an IDX data set are needed")
        if is_image_folder(path) or not _idx_folders(path):
            return read_image_folder(path)
        return read_idx_folder(path, str(path), "")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz") and path.is_file():
        return read_numpy(path)
    advice = next((text for suffixes, text in _ADVICE.items() if suffix in suffixes), "rename it if it is one of these")
    advice = "give the folder of the four IDX files" if "-ubyte" in path.name else advice
    raise DatasetError(f"{path}: exists, but has an unsupported format; accepted: {ACCEPTED}; {advice}")


def read_numpy(path: Path) -> RawData:
    """Read a .npy file, or from a .npz file `x` (or its only array), and `labels` or `y` if they exist."""
    x: np.ndarray | None
    labels, ignored = None, []
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            x, names = content, []
        else:
            with content:
                names = list(content.files)
                wanted = [k for k in ("labels", "y") if k in names and len(names) > 1][:1]
                rest = [k for k in names if k not in wanted]
                key = next((k for k in ("x", "samples", "images", "data") if k in rest), rest[0] if len(rest) == 1 else None)
                ignored = [k for k in rest if k != key]
                x = content[key] if key is not None else None
                labels = content[wanted[0]] if wanted else None
    except Exception as error:  # a damaged archive can raise anything
        raise DatasetError(f"{path}: not a NumPy file of plain arrays, or damaged ({error})") from None
    if "format" in names and {"indices", "row", "offsets"} & set(names):
        raise DatasetError(f"{path}: must hold a dense array, got a sparse matrix of SciPy; save its toarray()")
    if x is None:
        raise DatasetError(f"{path}: must hold one array, or one named x, got {quoted(names, 9) or 'none'}")
    if ignored:
        notice(f"{path}: read the array {key!r}, skipped {quoted(ignored, 9)}")
    try:
        if isinstance(x, bytes):  # numpy.load returns the content of a file that is not an array
            raise DatasetError(f"{path}: not a NumPy file of plain arrays: {key} is not an array")
        x = np.asarray(channels_first(plain_numbers(x, str(path)), str(path)))
    except InputTypeError as error:
        raise DatasetError(str(error)) from None
    if labels is None:
        return RawData(x)
    numeric = labels.shape == (len(x),) and labels.dtype.kind in "iufb"
    # pandas and R write integers as floats. A classifier has as many classes as the largest label.
    if not numeric or not ((labels >= 0) & (labels < 2**16) & (labels == np.floor(labels))).all():
        raise DatasetError(
            f"{path}: labels must be {len(x)} integers from 0 to 65535, one for every point, got shape {labels.shape} and "
            f"dtype {labels.dtype}"
        )
    return RawData(x, labels.astype(np.int64))


def read_idx_folder(path: Path, name: str, advice: str) -> RawData:
    """Read the four IDX files of a data set from a folder or one below it; `advice` ends the message if they are missing."""
    folders = _idx_folders(path, "" if name == str(path) else name)
    if len(folders) > 1:
        raise DatasetError(f"{name}: several data sets below {path}: {quoted([str(f) for f in folders], 9)}; give one of them")
    if not folders:
        below = folders_below(path)
        partial = next((f for f in below if any(_find_idx(f, stem) for stem in _IDX)), None)
        missing = ", ".join(f"{stem}[.gz]" for stem in _IDX if partial is None or not _find_idx(partial, stem))
        raise DatasetError(f"{name}: no file {missing} in {partial or searched_paths(path, below)}; {advice}")
    x, y, test, test_y = (read_idx(file) for stem in _IDX if (file := _find_idx(folders[0], stem)) is not None)
    for images, labels in ((x, y), (test, test_y)):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DatasetError(f"{name}: images {images.shape} and labels {labels.shape} in {folders[0]} do not fit together")
    if x.shape[1:] != test.shape[1:]:
        raise DatasetError(f"{name}: images must have one size, got {x.shape[1:]} and {test.shape[1:]} in {folders[0]}")
    return RawData(x[:, None], y, test[:, None], test_y)


def _find_idx(folder: Path, stem: str) -> Path | None:
    """Return an IDX file: plain, gzipped, with a dot in its name, or in a folder with its name, as in Kaggle's archive."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for file in (folder / name, folder / f"{name}.gz", folder / name / name):
            if file.is_file():
                return file
    return None


def _idx_folders(path: Path, name: str = "") -> list[Path]:
    """Return the folder itself if it has all four files, otherwise those below it whose names are not another data set's."""
    folders = [f for f in folders_below(path) if all(_find_idx(f, stem) for stem in _IDX)]
    if path in folders:
        return [path]

    def is_other(folder: Path) -> bool:
        below = [part.lower() for part in folder.relative_to(path).parts]
        if name == "fashion-mnist":
            return "mnist" in below or any(twin in part for part in below for twin in _IDX_TWINS[1:])
        return name == "mnist" and any(twin in part for part in below for twin in _IDX_TWINS)

    return [f for f in folders if not is_other(f)]


def read_idx(file: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped (the format of MNIST).

    No more is unpacked than the header states, and memory grows only with the bytes that were read.

    Raises:
        DatasetError: The file is damaged or has another format.
    """
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
            size, body = math.prod(shape), bytearray()
            while chunk := content.read(min(_CHUNK, size + 1 - len(body))):
                body += chunk
    except (OSError, EOFError) as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from None
    except zlib.error as error:
        raise DatasetError(f"{file}: damaged gzip data ({error})") from None
    if len(body) != size:
        found = f"more than {size}" if len(body) > size else len(body)
        raise DatasetError(f"{file}: truncated or damaged: {found} bytes of data, the header states {size}")
    return np.frombuffer(body, np.uint8).reshape(shape)
