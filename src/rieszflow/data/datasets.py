"""Data sets by name: where their files may be, and what is in them."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from rieszflow._infra.extras import extra
from rieszflow._infra.notices import notice
from rieszflow.data.dataset import Parts
from rieszflow.data.idx import idx_folder
from rieszflow.data.paths import folders_below, listed, looked, meant
from rieszflow.data.pictures import as_chw, open_image
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["KNOWN", "NAMED", "hugging_face"]

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
HUGGING_FACE = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "celeba": "flwrlabs/celeba",
}
KNOWN = ("digits", *HUGGING_FACE, *("hf:" + name for name in HUGGING_FACE))


def _digits(path: Path | None) -> Parts:
    with extra("generative", "digits"):
        from sklearn.datasets import load_digits

    if path is not None:
        notice(f"digits: come with scikit-learn; {path} is not looked at")
    bunch = load_digits()
    return Parts((bunch.images[:, None] / 16).astype(np.float32), bunch.target)


def _fashion_mnist(path: Path | None) -> Parts:
    advice = "install Debian's package dataset-fashion-mnist, or say with --data where the four IDX files are"
    return idx_folder(path or _DEBIAN_FASHION_MNIST, "fashion-mnist", advice)


def _mnist(path: Path | None) -> Parts:
    advice = "say with --data where the four IDX files are (train-images-idx3-ubyte, …), or use hf:mnist with a network"
    if path is None:
        raise DatasetError(f"mnist: no folder given; {advice}")
    return idx_folder(path, "mnist", advice)


def _cifar10(path: Path | None) -> Parts:
    advice = "say with --data where CIFAR-10's files are (binary or Python version), or use hf:cifar10 with a network"
    if path is None:
        raise DatasetError(f"cifar10: no folder given; {advice}")
    folders = folders_below(path)
    for folder in folders:
        for suffix, read in ((".bin", _cifar_binary), ("", _cifar_pickle)):
            train = [folder / f"data_batch_{k}{suffix}" for k in range(1, 6)]
            test = folder / f"test_batch{suffix}"
            if all(f.is_file() for f in [*train, test]):
                batches = [read(f) for f in [*train, test]]
                x, y = (np.concatenate([b[k] for b in batches[:5]]) for k in (0, 1))
                return Parts(x, y, *batches[5])
    raise DatasetError(f"cifar10: no data_batch_1 … 5 and test_batch in {looked(path, folders)}; {advice}")


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


def _celeba_folder(path: Path | None) -> Parts:
    """CelebA as its authors give it away: img_align_celeba/*.jpg, and list_eval_partition.txt with lines "000001.jpg 0".

    Kaggle's has the pictures one folder deeper, and a .csv with a header.
    """
    advice = (
        "say with --data where the folder img_align_celeba and list_eval_partition.txt are, or use hf:celeba with a network"
    )
    if path is None:
        raise DatasetError(f"celeba: no folder given; {advice}")
    folders = folders_below(path)
    lists = (f / f"list_eval_partition.{suffix}" for f in [*folders, path.parent] for suffix in ("txt", "csv"))
    listing = next((f for f in lists if f.is_file()), None)
    named = sorted(folders, key=lambda f: f.name != "img_align_celeba")
    folder = next((f for f in named if any(e.name.endswith(".jpg") for e in listed(f))), None)
    if listing is None or folder is None:
        what = "no list_eval_partition.txt (or .csv), or no pictures"
        raise DatasetError(f"celeba: {what}, in {looked(path, folders)}; {advice}")
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
        image, _ = open_image(folder / fields[0])
        if image.size != (178, 218):
            raise DatasetError(f"{folder / fields[0]}: {image.size[0]} × {image.size[1]} pixels; CelebA's have 178 × 218")
        parts[fields[1]].append(as_chw(np.asarray(_celeba(image.convert("RGB")))))
    if not parts["0"] or not parts["2"]:
        raise DatasetError(
            f"{listing}: {len(parts['0'])} pictures for training and {len(parts['2'])} for tests; both are needed"
        )
    used, there = sum(map(len, parts.values())), sum(e.name.endswith(".jpg") for e in listed(folder))
    if used < there:
        notice(f"{listing}: names {used} of the {there} pictures in {folder}; the others are left out")
    return Parts(np.stack(parts["0"]), test=np.stack(parts["2"]))


def _celeba(image: Any) -> Any:
    """178 × 218 to 64 × 64 as in the paper: the middle 140 × 140, made smaller by bicubic interpolation without antialiasing.

    The paper keeps numbers between and beyond grey levels. Here they are rounded to bytes, a quarter of the memory.
    """
    left, top = (image.width - 140) // 2, (image.height - 140) // 2
    middle = torch.tensor(np.asarray(image.crop((left, top, left + 140, top + 140)).convert("RGB")))
    small = functional.interpolate(middle.movedim(-1, 0)[None].float(), size=(64, 64), mode="bicubic", antialias=False)
    return small[0].round().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()


def hugging_face(name: str) -> Parts:
    if name not in HUGGING_FACE:
        accepted = ", ".join("hf:" + n for n in HUGGING_FACE)
        raise DatasetError(f"hf:{name}: unknown{meant('hf:' + name, KNOWN)}; accepted: {accepted}")
    with extra("datasets", f"hf:{name}"):
        import datasets
    try:
        parts = datasets.load_dataset(HUGGING_FACE[name])
    except Exception as error:  # the library raises many kinds; all mean that the data cannot be loaded
        raise DatasetError(f"hf:{name}: cannot be loaded ({type(error).__name__}: {error})") from None

    def arrays(part: Any) -> tuple[np.ndarray, np.ndarray | None]:
        column = next(c for c in ("image", "img") if c in part.column_names)
        # Row by row: all of CelebA's pictures at their full size would not fit into memory.
        images = np.stack([as_chw(np.asarray(_celeba(row[column]) if name == "celeba" else row[column])) for row in part])
        return images, np.asarray(part["label"]) if "label" in part.column_names else None

    return Parts(*arrays(parts["train"]), *arrays(parts["test"]))


NAMED: dict[str, Callable[[Path | None], Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "celeba": _celeba_folder,
}
