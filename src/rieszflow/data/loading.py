"""`load`: a data set by its name or path, split into training and held-out data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from rieszflow.data.columns import known
from rieszflow.data.dataset import Dataset, Parts, split
from rieszflow.data.files import ACCEPTED, from_path
from rieszflow.data.named import KNOWN, NAMED, hugging_face
from rieszflow.data.paths import PARQUET, all_files, is_table, meant, suffix
from rieszflow.data.pictures import has_pictures
from rieszflow.data.streams import stream
from rieszflow.errors import DatasetError

__all__ = ["holds_table", "load"]


def load(
    name: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    held_out: float = 0.15,
    seed: int = 0,
    condition: Sequence[str] = (),
) -> Dataset:
    """Loads a data set and splits it.

    Args:
        name: "digits", "fashion-mnist", "mnist", "cifar10", "celeba", "hf:NAME" (needs `datasets` and a network), or the path
            of a folder of pictures or of IDX files, of a .npy or .npz file, or of a table that `rieszflow.stream` reads.
        path: where the files of a named data set are, in this folder or one or two levels down; None for the place where
            Debian's package puts them.
        held_out: share kept out of training, in (0, 1), where the data set has no test part of its own.
        seed: of the split.
        condition: columns of a table to condition on; the other columns are the data. See `Dataset.train_condition`.

    Raises:
        DatasetError: not there, damaged, or of another form than accepted.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    name = os.fspath(name)
    if not 0 < held_out < 1:
        raise DatasetError(f"held_out: {held_out!r} given; a share in (0, 1) is accepted")
    if condition and not holds_table(name):
        raise DatasetError(
            f"{name}: has no columns to choose {', '.join(condition)} from; a .csv or .parquet table is accepted"
        )
    if name in NAMED:
        parts = NAMED[name](Path(path) if path is not None else None)
    elif name.startswith("hf:") and path is None:
        parts = hugging_face(name[3:])
    else:
        if path is not None:
            raise DatasetError(f"unknown data set {name!r}{meant(name, KNOWN)}; accepted with --data: {', '.join(NAMED)}")
        if not os.path.exists(name):
            link = ", but a link that leads nowhere" if os.path.islink(name) else ""
            raise DatasetError(
                f"{name!r} is no known data set and no file or folder that exists{link}{meant(name, KNOWN)}; "
                f"accepted: {', '.join(KNOWN)}, {ACCEPTED}"
            )
        name = os.path.abspath(name)
        parts = _table(Path(name), condition) if holds_table(name) else from_path(Path(name))
    dataset = split(name, parts, held_out, seed)
    dataset.path = None if path is None else os.path.abspath(path)
    return dataset


def holds_table(name: str | os.PathLike[str]) -> bool:
    """Return True if `load` reads a table under this name, not a named data set or pictures."""
    path = Path(name)
    if os.fspath(name) in NAMED or not path.exists():
        return False
    if path.is_dir():
        return any(suffix(f) in PARQUET for f in all_files(path)[0]) and not has_pictures(path)
    return is_table(path)


def _table(path: Path, condition: Sequence[str]) -> Parts:
    rows = stream(path)
    x, names = torch.cat(list(rows)).numpy(), list(rows.names or [])
    if not condition:
        return Parts(x)
    known(str(path), names, condition)
    if twice := [name for name in condition if list(condition).count(name) > 1]:
        raise DatasetError(f"{path}: column {twice[0]!r} given twice")
    if len(condition) == len(names):
        raise DatasetError(f"{path}: all of its columns are conditions; at least one must be left for samples")
    chosen = [names.index(name) for name in condition]
    rest = [j for j in range(len(names)) if j not in chosen]
    return Parts(x[:, rest], condition=x[:, chosen])
