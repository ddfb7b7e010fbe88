"""Data sets in, one tensor out: images (n, C, H, W) or vectors (n, d), float32 in [0, 1].

Nothing is fetched unless a Hugging Face data set is asked for by name (`hf:mnist`). No file is ever executed: pickles go
through an unpickler that knows arrays only.

One rule for numbers (`as_points`), wherever they come from: files, arrays and tensors in memory, batches of a loader.

- Arrays of three axes are grey pictures (n, H, W). Of four axes the one after the first, or else the last, holds the channels
  if its length is 1 or 3; the answer is always (n, C, H, W). Where both could be meant, that is an error.
- Pictures of bytes (uint8) are divided by 255, of uint16 by 65535: the unit of pictures is [0, 1]. All other numbers stay
  as they are, and so do bytes of the shape (n, d): a table of small whole numbers.
- Types of up to 16 bits become float32, whole numbers of 32 and 64 bits float64, which holds them up to 2^53. Beyond that, they
  are refused where rounding would flatten a column. Masked, complex, text, date and object arrays are refused.

One rule for files of pictures: a picture is scaled by its type, never by its values.

- 1 to 8 bits a value: divided by 255 after Pillow has spread them over 0 … 255. 16 bits of grey: divided by 65535.
- Floats (.tif, .pfm) have to lie in [0, 1]. Whole numbers of 32 bits and 12 bits, LAB and HSV are refused.
- Colours of 16 bits, which Pillow narrows to 8, transparency, which is left out, CMYK and all frames but the first are said.
- All pictures of a folder have one size, one depth, and are all grey or all in colour. EXIF says which side is up.
"""

from __future__ import annotations

import difflib
import gzip
import io
import os
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rieszflow._notices import notice
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["NAMED", "Dataset", "DatasetError", "as_points", "has_pictures", "load", "read_all", "scaled", "unscaled"]

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_PICTURES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic",
    ".heif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".tga",
)  # fmt: skip
_TABLES = (".csv", ".tsv", ".csv.gz", ".parquet", ".pq")
_ACCEPTED = (
    "a folder of pictures, of the four IDX files of MNIST or of Parquet files, a .npy or .npz file, a .csv or .parquet table"
)
# Beside pictures: descriptions, labels, licences. Whatever else is left out of a folder is named.
_BESIDE = (
    ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".html", ".htm", ".css", ".js", ".pdf",
    ".log", ".py", ".ipynb", ".sh", ".bib", ".names", ".md5", ".sha256",
)  # fmt: skip
_SYSTEM = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")
_PARTS_OF_SETS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
_LOST = 1e-4  # share of a column's spread that rounding may cost before more digits are taken
_HUGGING_FACE = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "celeba": "flwrlabs/celeba",
}
_KNOWN = ("digits", *_HUGGING_FACE, *("hf:" + name for name in _HUGGING_FACE))


@dataclass
class Dataset:
    """Training and held-out data.

    Attributes:
        name: what `load` was asked for; "tensor" for data given in Python.
        train: (n, C, H, W) or (n, d), float32.
        held_out: like `train`, never trained on.
        train_labels, held_out_labels: (n,) int64, or None where the data have none.
        low, high: what 0 and 1 were in the data's own values, less their `centre`; `unscale` undoes it. 0 and 1 for pictures.
        path: the `path` that `load` was given.
        centre: what was taken off each column of vectors before they were scaled by one factor; None where float32 holds the
            columns without it. A shift of everything leaves all distances as they are.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    path: str | None = None
    centre: tuple[float, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one datum: (C, H, W) or (d,)."""
        return tuple(self.train.shape[1:])

    def unscale(self, x: Tensor) -> Tensor:
        """From [0, 1] back to the data's own values; see `unscaled`."""
        return unscaled(x, self.low, self.high, self.centre)

    def scale(self, x: Tensor) -> Tensor:
        """From the data's own values to those that were trained on; see `scaled`."""
        return scaled(x, self.low, self.high, self.centre)


def unscaled(x: Tensor, low: float, high: float, centre: Sequence[float] | None = None) -> Tensor:
    """From [0, 1] back to the data's own values: x·(high − low) + low + centre.

    Returns:
        Like x; float64 where float32 would lose more than 1e-4 of the spread of a column, or could not hold it at all.
    """
    if centre is None and _float32_holds(low, high):
        return x * (high - low) + low
    x = x.double() * (high - low) + low
    return x if centre is None else x + torch.tensor(centre, dtype=torch.float64, device=x.device)


def scaled(x: Tensor, low: float, high: float, centre: Sequence[float] | None = None) -> Tensor:
    """The inverse of `unscaled`, float32 always."""
    if centre is None and _float32_holds(low, high):
        return ((x - low) / (high - low)).float()
    x = x.double() if centre is None else x.double() - torch.tensor(centre, dtype=torch.float64, device=x.device)
    return ((x - low) / (high - low)).float()


def _float32_holds(low: float, high: float) -> bool:
    size, spread = max(abs(low), abs(high)), high - low
    return size < 1e38 and spread > 1e-30 and size * 2**-24 <= _LOST * spread


def load(
    name: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, held_out: float = 0.15, seed: int = 0
) -> Dataset:
    """Loads a data set and splits it.

    Args:
        name: "digits", "fashion-mnist", "mnist", "cifar10", "celeba", "hf:NAME" (needs `datasets` and a network), or the path
            of a folder of pictures or of IDX files, of a .npy or .npz file, or of a table that `rieszflow.stream` reads.
        path: where the files of a named data set are, in this folder or one or two levels down; None for the place where
            Debian's package puts them.
        held_out: share kept out of training, in (0, 1), where the data set has no test part of its own.
        seed: of the split.

    Raises:
        DatasetError: not there, damaged, or of another form than accepted.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    name = os.fspath(name)
    if not 0 < held_out < 1:
        raise DatasetError(f"held_out: {held_out!r} given; a share in (0, 1) is accepted")
    if name in NAMED:
        parts = NAMED[name](Path(path) if path is not None else None)
    elif name.startswith("hf:") and path is None:
        parts = _hugging_face(name[3:])
    else:
        if path is not None:
            raise DatasetError(f"unknown data set {name!r}{_meant(name)}; accepted with --data: {', '.join(NAMED)}")
        if not os.path.exists(name):
            link = ", but a link that leads nowhere" if os.path.islink(name) else ""
            raise DatasetError(
                f"{name!r} is no known data set and no file or folder that exists{link}{_meant(name)}; "
                f"accepted: {', '.join(_KNOWN)}, {_ACCEPTED}"
            )
        name = os.path.abspath(name)
        parts = _table(Path(name)) if _is_table(Path(name)) else _from_path(Path(name))
    dataset = _split(name, parts, held_out, seed)
    dataset.path = None if path is None else os.path.abspath(path)
    return dataset


def _meant(name: str, sets: Sequence[str] = _KNOWN) -> str:
    """What a name that is not known may have been meant to be: a data set, or something beside the path."""
    path = Path(name)
    beside = [str(path.parent / f) for f in os.listdir(path.parent)] if path.name and path.parent.is_dir() else []
    known = {n.replace("-", ""): n for n in sets}
    close = difflib.get_close_matches(re.sub("[-_ ]", "", name.lower()), known, 1, 0.75)
    close = [known[c] for c in close] or difflib.get_close_matches(str(path), beside, 1, 0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def from_arrays(name: str, train: np.ndarray, test: np.ndarray | None = None, held_out: float = 0.15, seed: int = 0) -> Dataset:
    """A `Dataset` of arrays that `as_points` takes; without a test part, a share `held_out` is kept back."""
    arrays = [None if x is None else as_points(x, name) for x in (train, test)]
    assert arrays[0] is not None
    return _split(name, _Parts(arrays[0], test=arrays[1]), held_out, seed)


def as_points(array: Any, name: str) -> Any:
    """Numbers as floats in one unit, pictures with their channels first: the rule is at the top of this module.

    Args:
        array: a NumPy array or a tensor, (n, ...).
        name: of what is read, for messages.

    Returns:
        A NumPy array or a tensor, as given: (n, C, H, W) for three and four axes, else the shape that was given; float32 or
        float64. Values are not looked at: NaN and infinity pass.

    Raises:
        TypeError: no array of real numbers, masked values, a tensor without values or a sparse one.
        ValueError: a single number, channels that may be first or last, whole numbers that float64 would flatten.

    Example:
        >>> as_points(np.full((2, 4, 5, 3), 51, np.uint8), "x").shape, as_points(np.full((2, 1, 1), 51, np.uint8), "x").max()
        ((2, 3, 4, 5), np.float32(0.2))
    """
    array = _numbers(array, name)
    return _in_unit(_channels_first(array, name), name)


def _numbers(x: Any, name: str) -> Any:
    """`x` if it holds real numbers that are all there, as a plain array or tensor."""
    if isinstance(x, Tensor):
        if x.layout != torch.strided or x.is_quantized or x.is_nested:
            raise InputTypeError(
                f"{name}: a sparse, nested or quantized tensor given; a dense one of plain numbers is accepted"
            )
        if type(x) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise InputTypeError(
                f"{name}: a {type(x).__name__} given, a tensor of a class of its own; a plain tensor is accepted"
            )
        if x.is_meta:
            raise InputTypeError(f"{name}: a tensor on the meta device given, which holds no values; move the real one here")
        if x.is_complex():
            raise InputTypeError(f"{name}: dtype {x.dtype} given; real numbers are accepted: give .real and .imag as columns")
        x = x.detach().resolve_neg()
    elif isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            if np.ma.is_masked(x):
                raise InputTypeError(
                    f"{name}: a masked array with {np.ma.count_masked(x)} masked values given; fill or drop them"
                )
            x = x.data
        if x.dtype.kind not in "fiub":
            advice = {
                "c": "give .real and .imag as columns",
                "O": "rows of different lengths, or of objects, make no array of numbers",
                "V": "give its fields as columns of one array",
                "M": "subtract a date and divide by a time",
                "m": "divide by a time",
            }.get(x.dtype.kind, "turn text into numbers first")
            raise InputTypeError(f"{name}: dtype {x.dtype} given; real numbers are accepted: {advice}")
        x = np.asarray(x, dtype=x.dtype.newbyteorder("="))
    else:
        raise InputTypeError(f"{name}: {type(x).__name__} given; a torch.Tensor or numpy.ndarray (n, ...) is accepted")
    if x.ndim == 0:
        raise DatasetError(f"{name}: a single number given; points (n, ...) are accepted")
    return x


def _channels_first(x: Any, name: str) -> Any:
    """(n, H, W), (n, C, H, W) or (n, H, W, C) as (n, C, H, W); other numbers of axes are left alone."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        return x
    first, middle, last = x.shape[1:]
    if first not in (1, 3) and last in (1, 3):
        return x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
    # (n, 64, 4, 4) are 64 channels; (n, 64, 64, 4) are not meant to be.
    if (first in (1, 3) and last in (1, 3)) or (last in (2, 4) and first > 4 and middle != last):
        raise DatasetError(
            f"{name}: shape {tuple(x.shape)} given, where the channels may be axis 1 or axis 3; "
            f"pictures (n, C, H, W) with C = 1 or 3, or vectors (n, {first * middle * last}) are accepted"
        )
    return x


def _in_unit(x: Any, name: str) -> Any:
    """Floats: pictures of bytes and of uint16 divided by the greatest value of their type, others in their own values."""
    if isinstance(x, Tensor):
        kind, bits = str(x.dtype).removeprefix("torch."), x.element_size() * 8
        to: Callable[[Any], Any] = lambda t: x.to(t)  # noqa: E731
        types: Any = (torch.float32, torch.float64)
    else:
        kind, bits = x.dtype.name, x.itemsize * 8
        to = lambda t: x.astype(t, copy=False)  # noqa: E731
        types = (np.float32, np.float64)
    if kind in ("float32", "float64"):
        return x
    if bits <= 16 or kind == "bool":
        found = to(types[0])
        if x.ndim == 4 and kind in ("uint8", "uint16"):
            found /= 255 if kind == "uint8" else 65535
        return found
    return _checked_double(x, to(types[1]), name)


def _checked_double(x: Any, found: Any, name: str) -> Any:
    """Whole numbers of 32 and 64 bits, and long doubles, as float64: refused if rounding would cost too much of a column."""
    if x.dtype.itemsize == 4 or 0 in x.shape:
        return found
    own = np.asarray(x.cpu() if isinstance(x, Tensor) else x).reshape(len(x), -1)
    low, high = own.min(0), own.max(0)
    with np.errstate(over="ignore", invalid="ignore"):
        # Unsigned, the difference of two whole numbers of 64 bits is right even where it would overflow.
        spread = (high - low if own.dtype.kind == "f" else high.view(np.uint64) - low.view(np.uint64)).astype(np.float64)
        size = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
        step = np.spacing(size)
    if (np.isinf(size) & np.isfinite(low) & np.isfinite(high)).any():
        raise DatasetError(f"{name}: numbers beyond 1e308 given; divide them by a constant first")
    exact = (size <= 2.0**53) & (own.dtype.kind != "f")
    bad = ~exact & (spread > 0) & (step > _LOST * spread)
    if bad.any():
        k = int(bad.argmax())
        raise DatasetError(
            f"{name}: column {k} holds numbers near {size[k]:.6g} with a spread of {spread[k]:.6g}; float64 rounds them to "
            f"multiples of {step[k]:.6g}: subtract an offset first"
        )
    return found


@dataclass
class _Parts:
    """What a reader returns: arrays (n, …) of any real dtype, channels first; the test part only where the data set has one."""

    train: np.ndarray
    labels: np.ndarray | None = None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None


def _split(name: str, parts: _Parts, held_out: float, seed: int) -> Dataset:
    _check_values(name, parts.train)
    if parts.test is None:
        n = len(parts.train)
        if n < 4:
            raise DatasetError(f"{name}: {n} data given; at least 4 are needed")
        order = np.random.default_rng(seed).permutation(n)
        cut = min(n - 2, max(2, round(n * held_out)))
        take = (order[cut:], order[:cut])
        arrays = [parts.train[i] for i in take]
        labels = [None if parts.labels is None else parts.labels[i] for i in take]
    else:
        _check_values(name, parts.test)
        arrays, labels = [parts.train, parts.test], [parts.labels, parts.test_labels]
    # Converted after the split: as floats, pictures of bytes need four times the room.
    arrays = [_in_unit(a, name) for a in arrays]
    if arrays[0].min() == arrays[0].max():
        raise DatasetError(f"{name}: all values are {arrays[0].min():g}; there is nothing to learn")
    low, high, centre = _range(arrays[0])
    tensors = [torch.from_numpy(_scaled_array(a, low, high, centre)) for a in arrays]
    if not torch.isfinite(tensors[1]).all():
        raise DatasetError(f"{name}: held-out values lie too far beyond those for training to be held in float32")
    targets = [None if v is None else torch.from_numpy(np.asarray(v, dtype=np.int64)) for v in labels]
    return Dataset(name, tensors[0], tensors[1], targets[0], targets[1], low, high, centre=centre)


def _range(x: np.ndarray) -> tuple[float, float, tuple[float, ...] | None]:
    """low, high and centre of data for training; see `Dataset`."""
    low, high = float(x.min()), float(x.max())
    if x.ndim == 2:
        least, most = (v.astype(np.float64) for v in (x.min(0), x.max(0)))
        spread = most - least
        # After scaling, values of a column reach (most − low)/(high − low), where float32 has steps of 2^-24 times that.
        if ((spread > 0) & ((most - low) * 2**-24 > _LOST * spread)).any():
            return 0.0, float(spread.max()), tuple(least.tolist())
    if low >= 0 and high <= 1 and high - low > 1e-3:  # in [0, 1] already; less than this would be lost in it
        return 0.0, 1.0, None
    return low, high, None


def _scaled_array(x: np.ndarray, low: float, high: float, centre: tuple[float, ...] | None) -> np.ndarray:
    with np.errstate(over="ignore"):
        if (low, high, centre) != (0.0, 1.0, None):
            x = x.astype(np.float64) - (0.0 if centre is None else np.array(centre))
            x = (x - low) / (high - low)
        return np.ascontiguousarray(x, dtype=np.float32)


def _check_values(name: str, values: np.ndarray) -> None:
    if values.ndim not in (2, 4) or 0 in values.shape:
        raise DatasetError(f"{name}: shape {values.shape} given; (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C) is accepted")
    if values.dtype.kind != "f":
        return
    if not np.isfinite(values).all():
        raise DatasetError(f"{name}: contains NaN or infinity; drop or fill such rows first")
    if max(-float(values.min()), float(values.max())) > 2.0**1022:
        raise DatasetError(f"{name}: numbers beyond 4e307 given, whose differences float64 cannot hold; divide them first")


def _digits(path: Path | None) -> _Parts:
    from sklearn.datasets import load_digits

    if path is not None:
        notice(f"digits: come with scikit-learn; {path} is not looked at")
    bunch = load_digits()
    return _Parts((bunch.images[:, None] / 16).astype(np.float32), bunch.target)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, but for hidden files and those that systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _SYSTEM]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be listed ({error.strerror})") from None
    return sorted(found, key=lambda e: e.name)


def _is(what: Callable[[], bool]) -> bool:
    """The answer, or no: links in a circle, and what we may not look at, raise."""
    try:
        return what()
    except OSError:
        return False


def _folders(path: Path, depth: int = 2) -> list[Path]:
    """A folder and those below it, nearest first: where the files of a data set may be."""
    found = level = [path] if path.is_dir() else []
    for _ in range(depth):
        level = [Path(e.path) for folder in level for e in _listed(folder) if _is(e.is_dir)]
        found = found + level
    return found


def _looked(path: Path, folders: list[Path]) -> str:
    """Where was looked, for messages."""
    if not folders:
        return f"{path} ({'a file, no folder' if path.exists() else 'no such folder'})"
    below = [str(f.relative_to(path)) for f in folders if f not in (path, path.parent)]
    return f"{path}" + (f" and {len(below)} folders below it ({_some(below)})" if below else "")


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


_IDX = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
_IDX_TWINS = ("fashion", "kmnist", "kuzushiji", "emnist", "qmnist")  # data sets whose files have MNIST's names


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    """The file of a part: plain, gzipped, with a dot in its name, or in a folder of its own name, as Kaggle gives it."""
    for stem in (f"{part}-{kind}", f"{part}-{kind}".replace("-idx", ".idx")):
        for file in (folder / stem, folder / f"{stem}.gz", folder / stem / stem):
            if file.is_file():
                return file
    return None


def _idx_places(path: Path, name: str = "") -> list[Path]:
    """Folders with all four files: the one given, or else those below it that are not another data set's by their names."""
    folders = [f for f in _folders(path) if all(_idx_file(f, *part) for part in _IDX)]
    if path in folders:
        return [path]

    def other(folder: Path) -> bool:
        below = [part.lower() for part in folder.relative_to(path).parts]
        if name == "fashion-mnist":
            return "mnist" in below or any(t in part for part in below for t in _IDX_TWINS[1:])
        return name == "mnist" and any(t in part for part in below for t in _IDX_TWINS)

    return [f for f in folders if not other(f)]


def _idx_folder(path: Path, name: str, advice: str) -> _Parts:
    places = _idx_places(path, "" if name == str(path) else name)
    if len(places) > 1:
        raise DatasetError(
            f"{name}: several data sets below {path}: {_some([str(p) for p in places], 9)}; say which one is meant"
        )
    if not places:
        # The folder that has some of the files, if there is one, to name those that it lacks.
        folders = _folders(path)
        near = next((f for f in folders if any(_idx_file(f, *part) for part in _IDX)), None)
        missing = _some(["-".join(part) + "[.gz]" for part in _IDX if near is None or not _idx_file(near, *part)], 4)
        raise DatasetError(f"{name}: no file {missing} in {near or _looked(path, folders)}; {advice}")
    files = [_idx_file(places[0], *part) for part in _IDX]
    arrays = [read_idx(f) for f in files if f is not None]
    for k in (0, 2):
        x, y = arrays[k : k + 2]
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise DatasetError(f"{name}: images {x.shape} and labels {y.shape} in {places[0]} do not belong together")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise DatasetError(f"{name}: images of {arrays[0].shape[1:]} and {arrays[2].shape[1:]} pixels in {places[0]}")
    return _Parts(arrays[0][:, None], arrays[1], arrays[2][:, None], arrays[3])


def _fashion_mnist(path: Path | None) -> _Parts:
    advice = "install Debian's package dataset-fashion-mnist, or say with --data where the four IDX files are"
    return _idx_folder(path or _DEBIAN_FASHION_MNIST, "fashion-mnist", advice)


def _mnist(path: Path | None) -> _Parts:
    advice = "say with --data where the four IDX files are (train-images-idx3-ubyte, …), or use hf:mnist with a network"
    if path is None:
        raise DatasetError(f"mnist: no folder given; {advice}")
    return _idx_folder(path, "mnist", advice)


def read_idx(file: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, plain or gzipped (the format of MNIST). Raises DatasetError."""
    file = Path(file)
    try:
        raw = file.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from None
    except Exception as error:  # zlib.error is no OSError
        raise DatasetError(f"{file}: damaged gzip data ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise DatasetError(f"{file}: not an IDX file of unsigned bytes")
    shape = tuple(int(v) for v in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    size = int(np.prod(shape, dtype=object))
    body = len(raw) - 4 - 4 * raw[3]
    if body != size:
        raise DatasetError(f"{file}: truncated or damaged: {body} bytes of data, the header promises {size}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _cifar10(path: Path | None) -> _Parts:
    advice = "say with --data where CIFAR-10's files are (binary or Python version), or use hf:cifar10 with a network"
    if path is None:
        raise DatasetError(f"cifar10: no folder given; {advice}")
    folders = _folders(path)
    for folder in folders:
        for suffix, read in ((".bin", _cifar_binary), ("", _cifar_pickle)):
            train = [folder / f"data_batch_{k}{suffix}" for k in range(1, 6)]
            test = folder / f"test_batch{suffix}"
            if all(f.is_file() for f in [*train, test]):
                batches = [read(f) for f in [*train, test]]
                x, y = (np.concatenate([b[k] for b in batches[:5]]) for k in (0, 1))
                return _Parts(x, y, *batches[5])
    raise DatasetError(f"cifar10: no data_batch_1 … 5 and test_batch in {_looked(path, folders)}; {advice}")


def _cifar_binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.fromfile(file, np.uint8)
    if raw.size == 0 or raw.size % 3073:
        raise DatasetError(f"{file}: truncated or damaged: {raw.size} bytes, not a multiple of 3073")
    rows = raw.reshape(-1, 3073)
    if rows[:, 0].max() > 9:
        raise DatasetError(f"{file}: not a CIFAR-10 file: label {rows[:, 0].max()}")
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


class _ArraysOnly(pickle.Unpickler):
    """Builds dicts, lists, strings, numbers and NumPy arrays; whatever else a pickle asks for is refused."""

    _SAFE: ClassVar = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._SAFE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays are accepted")
        return super().find_class(module, name)


def _cifar_pickle(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        x, y = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        if x.dtype != np.uint8 or y.dtype.kind not in "iu":
            raise InputTypeError(f"data of {x.dtype} and labels of {y.dtype}; bytes and whole numbers are accepted")
        return x.reshape(-1, 3, 32, 32), y.reshape(len(x))
    except Exception as error:  # a damaged pickle can raise anything
        raise DatasetError(f"{file}: not a CIFAR-10 batch ({type(error).__name__}: {error})") from None


def _hugging_face(name: str) -> _Parts:
    if name not in _HUGGING_FACE:
        accepted = ", ".join("hf:" + n for n in _HUGGING_FACE)
        raise DatasetError(f"hf:{name}: unknown{_meant('hf:' + name)}; accepted: {accepted}")
    try:
        import datasets
    except ImportError:
        raise DatasetError(f"hf:{name}: needs the extra: pip install 'rieszflow[datasets]'") from None
    try:
        parts = datasets.load_dataset(_HUGGING_FACE[name])
    except Exception as error:  # the library raises many kinds; all mean that the data are not to be had
        raise DatasetError(f"hf:{name}: cannot be loaded ({type(error).__name__}: {error})") from None

    def arrays(part: Any) -> tuple[np.ndarray, np.ndarray | None]:
        column = next(c for c in ("image", "img") if c in part.column_names)
        # Row by row: all of CelebA's pictures at their full size would not fit into memory.
        images = np.stack([_as_chw(np.asarray(_celeba(row[column]) if name == "celeba" else row[column])) for row in part])
        return images, np.asarray(part["label"]) if "label" in part.column_names else None

    return _Parts(*arrays(parts["train"]), *arrays(parts["test"]))


def _celeba_folder(path: Path | None) -> _Parts:
    """CelebA as its authors give it away: img_align_celeba/*.jpg, and list_eval_partition.txt with lines "000001.jpg 0".

    Kaggle's has the pictures one folder deeper, and a .csv with a header.
    """
    advice = (
        "say with --data where the folder img_align_celeba and list_eval_partition.txt are, or use hf:celeba with a network"
    )
    if path is None:
        raise DatasetError(f"celeba: no folder given; {advice}")
    folders = _folders(path)
    lists = (f / f"list_eval_partition.{suffix}" for f in [*folders, path.parent] for suffix in ("txt", "csv"))
    listing = next((f for f in lists if f.is_file()), None)
    named = sorted(folders, key=lambda f: f.name != "img_align_celeba")
    folder = next((f for f in named if any(e.name.endswith(".jpg") for e in _listed(f))), None)
    if listing is None or folder is None:
        what = "no list_eval_partition.txt (or .csv), or no pictures"
        raise DatasetError(f"celeba: {what}, in {_looked(path, folders)}; {advice}")
    parts: dict[str, list[np.ndarray]] = {"0": [], "1": [], "2": []}  # for training, validation and test
    try:
        lines = listing.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise DatasetError(f"{listing}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        fields = re.split(r"[,\s]+", line.strip())
        if fields == [""] or (number == 1 and fields == ["image_id", "partition"]):
            continue
        if len(fields) != 2 or fields[1] not in parts:
            raise DatasetError(f"{listing}: line {number} is {line!r}; a file's name and 0, 1 or 2 are accepted")
        image, _ = _open_image(folder / fields[0])
        if image.size != (178, 218):
            raise DatasetError(f"{folder / fields[0]}: {image.size[0]} × {image.size[1]} pixels; CelebA's have 178 × 218")
        parts[fields[1]].append(_as_chw(np.asarray(_celeba(image.convert("RGB")))))
    if not parts["0"] or not parts["2"]:
        raise DatasetError(
            f"{listing}: {len(parts['0'])} pictures for training and {len(parts['2'])} for tests; both are needed"
        )
    used, there = sum(map(len, parts.values())), sum(e.name.endswith(".jpg") for e in _listed(folder))
    if used < there:
        notice(f"{listing}: names {used} of the {there} pictures in {folder}; the others are left out")
    return _Parts(np.stack(parts["0"]), test=np.stack(parts["2"]))


def _celeba(image: Any) -> Any:
    """178 × 218 to the usual 64 × 64: the middle 140 × 140, made smaller."""
    left, top = (image.width - 140) // 2, (image.height - 140) // 2
    return image.crop((left, top, left + 140, top + 140)).resize((64, 64))


def _as_chw(image: np.ndarray) -> np.ndarray:
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def read_all(path: Path) -> np.ndarray:
    """All data of a .npy or .npz file, or of a folder of pictures or IDX files: points (n, d), in the unit of `as_points`.

    Raises:
        DatasetError: not there, damaged, or of another form than accepted.
    """
    if not path.exists():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise DatasetError(f"{path}: no such file or folder{link}{_meant(str(path), ())}")
    parts = _from_path(path)
    if parts.test is not None:
        notice(f"{path}: its {len(parts.train)} training data are read, its {len(parts.test)} for tests are left out")
    if 0 in parts.train.shape:
        raise DatasetError(f"{path}: shape {parts.train.shape} given; at least one point and one number are needed")
    return _in_unit(parts.train, str(path)).reshape(len(parts.train), -1)


def has_pictures(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds pictures to be read: some, and more than Parquet files other than a `metadata.parquet`."""
    if not os.path.isdir(folder):
        return False
    pictures = tables = 0
    for file in _files(Path(folder))[0]:
        suffix = file.suffix.lower()
        pictures += suffix in _PICTURES
        tables += suffix in (".parquet", ".pq") and file.stem.lower() != "metadata"
    return pictures > tables


def _is_table(path: Path) -> bool:
    """Whether `rieszflow.stream` is to read it, as a table."""
    if path.is_dir():
        return any(f.suffix.lower() in (".parquet", ".pq") for f in _files(path)[0]) and not has_pictures(path)
    return path.name.lower().endswith(_TABLES)


def _table(path: Path) -> _Parts:
    from rieszflow.stream import stream  # which needs this module itself

    return _Parts(torch.cat(list(stream(path))).numpy())


def _from_path(path: Path) -> _Parts:
    if path.is_dir():
        if _idx_file(path, "train", "images-idx3-ubyte"):
            if has_pictures(path):
                notice(f"{path}: its IDX files are read, the pictures beside them are left out")
            return _idx_folder(path, str(path), "the four files of an IDX data set are needed")
        if has_pictures(path) or not _idx_places(path):
            return _image_folder(path)
        return _idx_folder(path, str(path), "")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz") and path.is_file():
        return _numpy_file(path)
    advice = "rename it if it is one of these"
    if suffix in _PICTURES:
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
    raise DatasetError(f"{path}: exists, but is of a format that is not taken; accepted: {_ACCEPTED}; {advice}")


def _numpy_file(path: Path) -> _Parts:
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
        notice(f"{path}: the array {key} is read; {_some(ignored, 9)} left out")
    try:
        if isinstance(x, bytes):  # what np.load makes of a member that is no array
            raise DatasetError(f"{path}: not a NumPy file of plain arrays: {key} is none")
        x = _channels_first(_numbers(x, str(path)), str(path))
    except TypeError as error:
        raise DatasetError(str(error)) from None
    return _Parts(x, None if labels is None else _labels(path, labels, len(x)))


def _labels(path: Path, labels: np.ndarray, n: int) -> np.ndarray:
    fine = labels.shape == (n,) and labels.dtype.kind in "iufb"
    # Floats that are whole are fine: pandas and R write such. A classifier has as many classes as the greatest says.
    if not fine or not ((labels >= 0) & (labels < 2**16) & (labels == np.floor(labels))).all():
        raise DatasetError(
            f"{path}: labels of shape {labels.shape} and dtype {labels.dtype} given; whole numbers of at least 0, one a "
            f"datum ({n}), are accepted"
        )
    return labels.astype(np.int64)


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, and the links to folders that are not followed: each is read once, links after the rest."""
    found, again, seen = [], [], set()
    places, links = [folder], list[Path]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        if (real := os.path.realpath(place)) in seen:
            again.append(place)
            continue
        seen.add(real)
        for entry in _listed(place):
            if _is(entry.is_dir):
                (links if entry.is_symlink() else places).append(Path(entry.path))
            else:
                found.append(Path(entry.path))
    return sorted(found), again


def _open_image(file: Path) -> tuple[Any, list[str]]:
    """A picture with its pixels read and turned upright, and what is to be said of it; the file is closed."""
    from PIL import Image, ImageFile, ImageOps

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # others set it, and get grey halves
    try:
        with Image.open(file) as image:
            said = ["several frames, of which the first is read"] if getattr(image, "is_animated", False) else []
            raw, tags = image.tile[0][3] if image.tile else "", getattr(image, "tag_v2", {})
            ppm = image.format == "PPM" and isinstance(raw, tuple) and raw[-1] > 255
            raw, bits = str(raw[0] if isinstance(raw, tuple) else raw), np.max(tags.get(258, 8))
            odd = image.mode.startswith("I;16") and (tags.get(262) == 0 or raw == "I;12")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged picture can raise anything
        raise DatasetError(f"{file}: not a readable image ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if odd:
        raise DatasetError(f"{file}: 12 bits, or white as 0, which Pillow does not scale; save it with 16 bits and black as 0")
    if (";16" in raw or bits > 8 or ppm) and image.mode in ("RGB", "RGBA", "CMYK"):
        said.append("colours of 16 bits, which are read with 8")
    return image, said


def _picture(file: Path) -> tuple[np.ndarray, list[str]]:
    """(C, H, W): bytes, uint16, or float32 in [0, 1], and what is to be said of it."""
    image, said = _open_image(file)
    mode = image.mode
    # Pillow has no type of its own for the 16 bits of a .pgm, and spreads them over 0 … 65535.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[None], said
    if mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise DatasetError(
                f"{file}: a picture of floats from {values.min():g} to {values.max():g}; such in [0, 1] are accepted: "
                "divide them, or give their array as .npy"
            )
        return values[None], said
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK"):
        raise DatasetError(
            f"{file}: a picture of Pillow's mode {mode}, whose values have no agreed range; grey or colours of 8 bits, grey "
            "of 16 bits and floats in [0, 1] are accepted, arrays of other numbers as .npy"
        )
    if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] < 255:
            said.append("transparency, which is left out")
        image = rgba if mode in ("P", "PA") else image
    if mode == "CMYK":
        said.append("CMYK colours, which are turned to RGB without their profile")
    return _as_chw(np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))), said


def _image_folder(folder: Path) -> _Parts:
    """All pictures below the folder; pictures in subfolders are labelled by them."""
    from PIL import Image

    everything, again = _files(folder)
    # .heic is read where a plugin for it is registered with Pillow.
    suffixes = set(_PICTURES) & set(Image.registered_extensions())
    files = [f for f in everything if f.suffix.lower() in suffixes and _is(f.is_file)]
    rest = set(everything).difference(files)
    left_out = sorted(str(f.relative_to(folder)) for f in rest if not _beside(f))
    if not files:
        there = f"; it holds {_some(left_out)}" if left_out else ""
        raise DatasetError(f"{folder}: no images ({', '.join(sorted(suffixes))}) and no IDX files in it{there}")
    if again:
        notice(f"{folder}: {_some([str(f) for f in again])}: links to folders that are read already, not followed")
    if left_out:
        notice(f"{folder}: left out, as no pictures that can be read: {_some(left_out)} ({len(left_out)} in all)")
    images: list[np.ndarray] = []
    remarks: dict[str, list[str]] = {}
    for file in files:
        image, said = _picture(file)
        images.append(image)
        for remark in said:
            remarks.setdefault(remark, []).append(str(file.relative_to(folder)))
        if image.dtype != images[0].dtype:
            raise DatasetError(
                f"{file}: {image.dtype} a value, but {files[0].name} has {images[0].dtype}; all images must have one depth"
            )
        if image.shape != images[0].shape:
            raise DatasetError(
                f"{file}: shape {image.shape} (C, H, W), but {files[0].name} has {images[0].shape}; "
                "all images must have one size and mode"
            )
    for remark, names in remarks.items():
        notice(f"{folder}: {len(names)} of {len(files)} pictures have {remark}: {_some(names)}")
    return _Parts(np.stack(images), _class_labels(folder, files))


def _beside(file: Path) -> bool:
    """Whether a file is known to belong to pictures without being one: a description, or labels."""
    suffix = file.suffix.lower()
    return (
        suffix in _BESIDE
        or file.name.upper() in ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE")
        or (suffix in _TABLES and file.stem.lower() == "metadata")
    )


def _class_labels(folder: Path, files: list[Path]) -> np.ndarray | None:
    """Numbers of the subfolders, or None where there is one."""
    places = [f.parent.relative_to(folder).parts for f in files]
    parts = {place[0] for place in places if place and place[0].lower() in _PARTS_OF_SETS}
    if len(parts) > 1:
        notice(
            f"{folder}: {', '.join(sorted(parts))} are read as one data set; give one of these folders to leave the others out"
        )
        places = [place[1:] if place and place[0] in parts else place for place in places]
    classes = sorted(set(places))
    return np.array([classes.index(place) for place in places]) if len(classes) > 1 else None


NAMED: dict[str, Callable[[Path | None], _Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "celeba": _celeba_folder,
}
