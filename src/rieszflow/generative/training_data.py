"""The data of a run: given in Python, or found again by what config.yaml says of them."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from rieszflow import _validate, data
from rieszflow._files import Json
from rieszflow._types import Points
from rieszflow.data import Dataset
from rieszflow.errors import InputError, RunError
from rieszflow.generative.config import Config
from rieszflow.generative.run import Run

__all__ = ["check_same", "dataset", "describe", "load_data"]


def dataset(x: Dataset | Points, held_out: Points | None, config: Config) -> Dataset:
    """What `fit` was given, as a Dataset.

    Args:
        x: training data (n, d), (n, H, W) or (n, C, H, W), or a Dataset, which is returned.
        held_out: data of the same form; None to keep a share back.
        config: says which share, and the seed of the choice.

    Raises:
        InputError, InputTypeError: shapes, dtypes or values that are not accepted.
    """
    if isinstance(x, Dataset):
        return x
    train = _points("data", x)
    test = None if held_out is None else _points("held_out", held_out)
    if test is not None and train.shape[1:] != test.shape[1:]:
        raise InputError(f"held_out: data of shape {test.shape[1:]} given, data has {train.shape[1:]}")
    return data.from_arrays("tensor", train, test, config.held_out, config.seed)


def _points(name: str, x: Points) -> np.ndarray:
    t = _validate.points(name, data.as_points(x, name)).cpu()
    if t.ndim not in (2, 4):
        raise InputError(f"{name}: shape {tuple(t.shape)} given; (n, d), (n, H, W) or (n, C, H, W) is accepted")
    return t.numpy()


def describe(given: Dataset) -> Json:
    """What config.yaml says of the data, with a fingerprint of the training part."""
    digest = hashlib.blake2b(given.train.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    return {
        "name": given.name,
        "path": given.path,
        "shape": list(given.shape),
        "low": given.low,
        "high": given.high,
        "centre": None if given.centre is None else list(given.centre),
        "points": len(given.train),
        "fingerprint": digest,
    }


def load_data(run: Run, moved: str | os.PathLike[str] | None = None) -> Dataset:
    """The data that a run's config.yaml names.

    Args:
        run: the run.
        moved: where they are now, if not where they were.

    Raises:
        RunError: the run was trained on a tensor, which no file holds.
        DatasetError: the data are not there, or damaged.
    """
    if run.data["name"] == "tensor":
        raise RunError(f"{run.path}: was trained on a tensor given in Python; pass it again as `data`")
    name, path = run.data["name"], run.data["path"]
    if moved is not None:
        name, path = (name, str(moved)) if name in data.NAMED else (str(moved), None)
    return data.load(name, path, run.config.held_out, run.config.seed)


def check_same(run: Run, given: Dataset) -> None:
    """That data are those that a run began with.

    Raises:
        RunError: they are others, or of another shape or range.
    """
    now, then = describe(given), run.data
    if now["fingerprint"] != then["fingerprint"]:
        raise RunError(
            f"{run.path}: began with {then['points']} training data of {then['name']}; "
            f"those given now ({now['points']} of {now['name']}) are not the same"
        )
    for key in now.keys() & then.keys() - {"name", "path"}:
        if now[key] != then[key]:
            file = run.path / "config.yaml"
            raise RunError(f"{file}: {key} of the data is {then[key]!r}, the data given now have {now[key]!r}")
