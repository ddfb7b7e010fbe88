"""`load`: a data set by its name or path, split into training and held-out data."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from rieszflow._infra.extras import extra
from rieszflow._infra.messages import notice, suggestion
from rieszflow.data import paths
from rieszflow.data.dataset import Dataset, RawData
from rieszflow.data.files import ACCEPTED, holds_table, open_image, read_idx_folder, read_path, to_chw
from rieszflow.data.streams import stream
from rieszflow.errors import DatasetError, InputTypeError

if TYPE_CHECKING:
    from PIL.Image import Image

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
HUGGING_FACE = {
    "mnist": "ylecun/mnist", "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10", "celeba": "flwrlabs/celeba",
}  # fmt: skip
KNOWN = ("digits", *HUGGING_FACE, *("hf:" + name for name in HUGGING_FACE))


def load(
    name: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    held_out: float = 0.15,
    seed: int = 0,
) -> Dataset:
    """Load a data set and split it into training and held-out data.

    Args:
        name: "digits", "fashion-mnist", "mnist", "cifar10", "celeba", "hf:NAME" (needs `datasets` and a network), or the path
            of a folder of images or of IDX files, of a .npy or .npz file, or of a table that `rieszflow.stream` reads.
        path: Folder with the files of a named data set, at most two levels below; None for the folder of Debian's package.
        held_out: Share of held-out data, in (0, 1), if the data set has no test part.
        seed: Seed of the split.

    Raises:
        DatasetError: The data set is missing or damaged, or has another format.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    name = os.fspath(name)
    if not 0 < held_out < 1:
        raise DatasetError(f"`held_out` must be in (0, 1), got {held_out!r}")
    if name in NAMED:
        data = NAMED[name](None if path is None else Path(path))
    elif path is not None:
        raise DatasetError(f"`name` must be one of {', '.join(NAMED)} with --data, got {name!r}{_hint(name)}")
    elif name.startswith("hf:"):
        data = _hugging_face(name[3:])
    elif os.path.exists(name):
        name = os.path.abspath(name)
        data = RawData(torch.cat(list(stream(name))).numpy()) if holds_table(name) else read_path(Path(name))
    else:
        problem = "is a broken link" if os.path.islink(name) else "does not exist"
        accepted = f"one of {', '.join(KNOWN)}, or the path of {ACCEPTED}"
        raise DatasetError(f"`name` must be {accepted}; got {name!r}, which {problem}{_hint(name)}")
    dataset = data.split(name, held_out, seed)
    dataset.path = None if path is None else os.path.abspath(path)
    return dataset


def _hint(name: str) -> str:
    """Return the end of a message that suggests a similar name of a data set, or a similar path."""
    similar = suggestion(name.lower().replace("_", "-"), KNOWN, 0.75)
    return f"; {similar}" if similar else paths.path_hint(Path(name))


def _digits(path: Path | None) -> RawData:
    with extra("generative", "digits"):
        from sklearn.datasets import load_digits

    if path is not None:
        notice(f"digits: read from scikit-learn, ignored {path}")
    bunch = load_digits()
    return RawData((bunch.images[:, None] / 16).astype(np.float32), bunch.target)


def _fashion_mnist(path: Path | None) -> RawData:
    advice = "install Debian's package dataset-fashion-mnist, or give the folder of the four IDX files with --data"
    return read_idx_folder(path or _DEBIAN_FASHION_MNIST, "fashion-mnist", advice)


def _given_folder(path: Path | None, name: str, files: str) -> tuple[Path, str, str]:
    advice = f"give the folder of {files} with --data, or use hf:{name} with a network"
    if path is None:
        raise DatasetError(f"{name}: no folder given; {advice}")
    return path, name, advice


def _cifar10(path: Path | None) -> RawData:
    path, _, advice = _given_folder(path, "cifar10", "CIFAR-10's files (binary or Python version)")
    folders = paths.folders_below(path)
    for folder in folders:
        for ending, read in ((".bin", _cifar_binary), ("", _cifar_pickle)):
            files = [folder / f"{name}{ending}" for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]
            if all(f.is_file() for f in files):
                *train, test = map(read, files)
                x, y = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
                return RawData(x, y, *test)
    raise DatasetError(f"cifar10: no data_batch_1 … 5 and test_batch in {paths.searched_paths(path, folders)}; {advice}")


def _cifar_binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = np.fromfile(file, np.uint8)
    if raw.size == 0 or raw.size % 3073 or raw[::3073].max() > 9:
        raise DatasetError(f"{file}: truncated or damaged: not rows of a label up to 9 and 3072 bytes")
    rows = raw.reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds dicts, lists, strings, numbers and NumPy arrays, and refuses all else."""

    _SAFE: ClassVar = {
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._SAFE:
            raise pickle.UnpicklingError(f"only arrays are accepted, got {module}.{name}")
        return super().find_class(module, name)


def _cifar_pickle(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        x, y = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        if x.dtype != np.uint8 or y.dtype.kind not in "iu":
            raise InputTypeError(f"data must be bytes and labels integers, got {x.dtype} and {y.dtype}")
        return x.reshape(-1, 3, 32, 32), y.reshape(len(x))
    except Exception as error:  # a damaged pickle can raise anything
        raise DatasetError(f"{file}: not a CIFAR-10 batch ({type(error).__name__}: {error})") from None


def _celeba(path: Path | None) -> RawData:
    """Read img_align_celeba/*.jpg and list_eval_partition.txt with lines "000001.jpg 0", or Kaggle's .csv with a header."""
    path, _, advice = _given_folder(path, "celeba", "img_align_celeba and list_eval_partition.txt")
    folders = paths.folders_below(path)
    lists = (f / f"list_eval_partition.{ending}" for f in [*folders, path.parent] for ending in ("txt", "csv"))
    listing = next((f for f in lists if f.is_file()), None)
    candidates = sorted(folders, key=lambda f: f.name != "img_align_celeba")
    folder = next((f for f in candidates if any(e.suffix == ".jpg" for e in paths.entries(f))), None)
    if listing is None or folder is None:
        missing = "no list_eval_partition.txt (or .csv), or no images"
        raise DatasetError(f"celeba: {missing}, in {paths.searched_paths(path, folders)}; {advice}")
    parts: dict[str, list[np.ndarray]] = {"0": [], "1": [], "2": []}  # training, validation and test
    for number, line in enumerate(listing.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        fields = re.split(r"[,\s]+", line.strip())
        if fields in ([""], ["image_id", "partition"]):
            continue
        if len(fields) != 2 or fields[1] not in parts:
            raise DatasetError(f"{listing}: line {number} must be a file's name and 0, 1 or 2, got {line!r}")
        image, _ = open_image(folder / fields[0])
        if image.size != (178, 218):
            raise DatasetError(f"{folder / fields[0]}: must have 178 × 218 pixels, got {image.size[0]} × {image.size[1]}")
        parts[fields[1]].append(to_chw(_resized_celeba(image)))
    if not parts["0"] or not parts["2"]:
        raise DatasetError(f"{listing}: must name training and test images, got {len(parts['0'])} and {len(parts['2'])}")
    used, total = sum(map(len, parts.values())), sum(e.suffix == ".jpg" for e in paths.entries(folder))
    if used < total:
        notice(f"{listing}: names {used} of the {total} images in {folder}; skipped the others")
    return RawData(np.stack(parts["0"]), test=np.stack(parts["2"]))


def _resized_celeba(image: Image) -> np.ndarray:
    """Resize the centre of an image, 140 × 140, to 64 × 64 as in the paper, with values rounded to bytes to save memory."""
    left, top = (image.width - 140) // 2, (image.height - 140) // 2
    centre = torch.tensor(np.asarray(image.crop((left, top, left + 140, top + 140)).convert("RGB")))
    small = functional.interpolate(centre.movedim(-1, 0)[None].float(), size=(64, 64), mode="bicubic", antialias=False)
    return np.asarray(small[0].round().clamp(0, 255).to(torch.uint8).movedim(0, -1))


def _hugging_face(name: str) -> RawData:
    if name not in HUGGING_FACE:
        accepted = ", ".join("hf:" + n for n in HUGGING_FACE)
        raise DatasetError(f"`name` must be one of {accepted}, got 'hf:{name}'{_hint('hf:' + name)}")
    with extra("datasets", f"hf:{name}"):
        import datasets
    try:
        parts = datasets.load_dataset(HUGGING_FACE[name])
    except Exception as error:  # the library raises many kinds
        raise DatasetError(f"hf:{name}: cannot be loaded ({type(error).__name__}: {error})") from None
    convert = _resized_celeba if name == "celeba" else np.asarray

    def arrays(part: Any) -> tuple[np.ndarray, np.ndarray | None]:
        column = "image" if "image" in part.column_names else "img"
        # Row by row: all of CelebA's images at full size would not fit into memory.
        images = np.stack([to_chw(convert(row[column])) for row in part])
        return images, np.asarray(part["label"]) if "label" in part.column_names else None

    return RawData(*arrays(parts["train"]), *arrays(parts["test"]))


NAMED: dict[str, Callable[[Path | None], RawData]] = {
    "digits": _digits, "fashion-mnist": _fashion_mnist, "cifar10": _cifar10, "celeba": _celeba,
    "mnist": lambda path: read_idx_folder(*_given_folder(path, "mnist", "the four IDX files (train-images-idx3-ubyte, …)")),
}  # fmt: skip
