"""Data from one path: a .npy or .npz file, a folder of pictures or of IDX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rieszflow._infra.notices import notice
from rieszflow.data.dataset import Parts
from rieszflow.data.idx import idx_file, idx_folder, idx_places
from rieszflow.data.paths import meant, some
from rieszflow.data.pictures import PICTURES, has_pictures, image_folder
from rieszflow.data.points import channels_first, in_unit, plain_numbers
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["ACCEPTED", "from_path", "read_all"]

ACCEPTED = (
    "a folder of pictures, of the four IDX files of MNIST or of Parquet files, a .npy or .npz file, a .csv or .parquet table"
)


def read_all(path: Path) -> np.ndarray:
    """All data of a .npy or .npz file, or of a folder of pictures or IDX files: points (n, d), in the unit of `as_points`.

    Raises:
        DatasetError: not there, damaged, or of another form than accepted.
    """
    if not path.exists():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise DatasetError(f"{path}: no such file or folder{link}{meant(str(path))}")
    parts = from_path(path)
    if parts.test is not None:
        notice(f"{path}: its {len(parts.train)} training data are read, its {len(parts.test)} for tests are left out")
    if 0 in parts.train.shape:
        raise DatasetError(f"{path}: shape {parts.train.shape} given; at least one point and one number are needed")
    points: np.ndarray = in_unit(parts.train, str(path)).reshape(len(parts.train), -1)
    return points


def from_path(path: Path) -> Parts:
    if path.is_dir():
        if idx_file(path, "train", "images-idx3-ubyte"):
            if has_pictures(path):
                notice(f"{path}: its IDX files are read, the pictures beside them are left out")
            return idx_folder(path, str(path), "the four files of an IDX data set are needed")
        if has_pictures(path) or not idx_places(path):
            return image_folder(path)
        return idx_folder(path, str(path), "")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz") and path.is_file():
        return numpy_file(path)
    advice = "rename it if it is one of these"
    if suffix in PICTURES:
        advice = "give the folder of the pictures"
    elif "-ubyte" in path.name:
        advice = "give the folder of the four IDX files"
    elif suffix in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"):
        advice = "unpack it first"
    elif suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        advice = "pickles can run code and are not read: save the array with numpy.save"
    elif suffix in (".mat", ".h5", ".hdf5", ".nc", ".zarr", ".safetensors"):
        advice = "save the array with numpy.save"
    elif suffix in (".xls", ".xlsx", ".ods", ".feather", ".arrow", ".json", ".jsonl"):
        advice = "save the table as .csv or .parquet"
    raise DatasetError(f"{path}: exists, but is of a format that is not taken; accepted: {ACCEPTED}; {advice}")


def numpy_file(path: Path) -> Parts:
    """.npy: the data. .npz: `x` (or the only array), and `labels` or `y` where there are some."""
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
        raise DatasetError(f"{path}: a sparse matrix of SciPy; save its toarray() instead")
    if x is None:
        raise DatasetError(f"{path}: arrays {', '.join(names) or 'none'} given; one named x is needed")
    if ignored:
        notice(f"{path}: the array {key} is read; {some(ignored, 9)} left out")
    try:
        if isinstance(x, bytes):  # what np.load makes of a member that is no array
            raise DatasetError(f"{path}: not a NumPy file of plain arrays: {key} is none")
        x = channels_first(plain_numbers(x, str(path)), str(path))
    except InputTypeError as error:
        raise DatasetError(str(error)) from None
    return Parts(x, None if labels is None else _labels(path, labels, len(x)))


def _labels(path: Path, labels: np.ndarray, n: int) -> np.ndarray:
    fine = labels.shape == (n,) and labels.dtype.kind in "iufb"
    # Floats that are whole are fine: pandas and R write such. A classifier has as many classes as the greatest says.
    if not fine or not ((labels >= 0) & (labels < 2**16) & (labels == np.floor(labels))).all():
        raise DatasetError(
            f"{path}: labels of shape {labels.shape} and dtype {labels.dtype} given; whole numbers of at least 0, one a "
            f"datum ({n}), are accepted"
        )
    return labels.astype(np.int64)
