"""The data of a run: given in Python, or found again by what config.yaml says of them."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import torch
from torch import Tensor

from rieszflow import data
from rieszflow._infra import validate
from rieszflow._infra.files import Json
from rieszflow._types import Points
from rieszflow.constraints import Constraint
from rieszflow.data import Dataset, as_points
from rieszflow.errors import InputError, RunError
from rieszflow.generative.condition import as_array, describe_condition, observation, observed, raw_conditions
from rieszflow.generative.config import Config
from rieszflow.generative.run import Run

__all__ = ["check_same", "columns_of", "dataset", "describe", "held_out_conditions", "load_data", "residual"]


def dataset(
    x: Dataset | Points | str | os.PathLike[str],
    held_out: Points | None,
    config: Config,
    condition: object = None,
    held_out_condition: object = None,
) -> Dataset:
    """What `fit` was given, as a Dataset.

    Args:
        x: training data (n, d), (n, H, W) or (n, C, H, W); a Dataset, which is returned; or what `data.load` takes.
        held_out: data of the same form; None to keep a share back.
        config: says which share, and the seed of the choice.
        condition: labels (n,) or numbers (n, k) beside the data, if it is that.
        held_out_condition: the same of `held_out`.

    Raises:
        InputError, InputTypeError: shapes, dtypes or values that are not accepted.
    """
    if isinstance(x, (str, os.PathLike)):
        return data.load(x, None, config.held_out, config.seed, columns_of(config))
    if isinstance(x, Dataset):
        return x
    train = _points("data", x)
    test = None if held_out is None else _points("held_out", held_out)
    if test is not None and train.shape[1:] != test.shape[1:]:
        raise InputError(f"held_out: data of shape {test.shape[1:]} given, data has {train.shape[1:]}")
    beside = {}
    for name, value, points in (("condition", condition, train), ("held_out_condition", held_out_condition, test)):
        if value is not None and not isinstance(value, (str, Constraint)):
            if points is None:
                raise InputError(f"{name}: given without held_out")
            beside[name] = _beside(name, value, len(points))
    if "condition" in beside and test is not None and "held_out_condition" not in beside:
        raise InputError("held_out_condition: None given with a condition and held_out; that of held_out is needed")
    return Dataset.from_arrays("tensor", train, test, config.held_out, config.seed, **beside)


def _beside(name: str, value: object, n: int) -> np.ndarray:
    """Labels (n,) or numbers (n, k) beside n data."""
    given = as_array(value)
    labels = given.ndim == 1 and given.dtype.kind in "iu"
    if not labels and (given.ndim != 2 or given.dtype.kind not in "iufb" or not given.shape[1]):
        raise InputError(
            f"{name}: shape {given.shape} of {given.dtype} given; labels (n,) of whole numbers or numbers (n, k) are accepted"
        )
    if len(given) != n:
        raise InputError(f"{name}: {len(given)} given for {n} data; one for each is accepted")
    if not labels and not np.isfinite(as_points(given, name)).all():
        raise InputError(f"{name}: contains NaN or infinity")
    if labels and isinstance(value, (list, tuple)) and any(isinstance(label, (bool, np.bool_)) for label in value):
        raise InputError(f"`{name}` must have integers as labels, got truth values")
    if labels and given.max(initial=0) > np.iinfo(np.int64).max:
        raise InputError(f"`{name}` must have labels below 2^63, got {given.max()}")
    return given


def columns_of(config: Config) -> list[str]:
    """The columns of a table that the settings say are given."""
    kind, _, names = config.condition.partition(":")
    return [name.strip() for name in names.split(",")] if kind == "columns" else []


def _points(name: str, x: Points) -> np.ndarray:
    t = validate.points(name, data.as_points(x, name)).cpu()
    if t.ndim not in (2, 4):
        raise InputError(f"{name}: shape {tuple(t.shape)} given; (n, d), (n, H, W) or (n, C, H, W) is accepted")
    return t.numpy()


def describe(given: Dataset, config: Config) -> Json:
    """What config.yaml says of the data, with a fingerprint of the training part, and of the condition.

    Raises:
        ConfigError: the data lack the condition that the settings name.
    """
    found = hashlib.blake2b(given.train.contiguous().numpy().tobytes(), digest_size=16)
    known = raw_conditions(config, given)[0]
    condition = {}
    if known is not None and not observed(config.condition):
        found.update(known.contiguous().numpy().tobytes())
        condition = {"condition": describe_condition(config, given)}
    digest = found.hexdigest()
    return {
        "name": given.name,
        "path": given.path,
        "shape": list(given.shape),
        "low": given.low,
        "high": given.high,
        "columns": given.columns and {key: list(value) for key, value in vars(given.columns).items()},
        "points": len(given.train),
        "fingerprint": digest,
        **condition,
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
    return data.load(name, path, run.config.held_out, run.config.seed, columns_of(run.config))


def held_out_conditions(run: Run, given: Dataset, n: int, seed: int) -> Tensor | None:
    """What n samples are asked for in an evaluation: what is known of held-out data, as `GenerativeFlow.sample` takes it."""
    known = raw_conditions(run.config, given)[1]
    if known is None:
        return None
    rows = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[torch.arange(n) % len(known)]
    return given.unscale(known[rows]).view(n, *given.shape) if observed(run.config.condition) else known[rows]


def residual(run: Run, samples: Tensor, asked: Tensor | None, given: Dataset) -> float | None:
    """Root mean square by which samples (n, C, H, W) in [0, 1] miss what is known of them; None where nothing of them is."""
    if asked is None or not observed(run.config.condition):
        return None
    off = samples.flatten(1) - given.scale(asked).flatten(1)
    part = observation(run.config.condition, given.shape).project(off)
    return float(part.pow(2).sum().div(part.ne(0).sum().clamp(min=1)).sqrt())


def check_same(run: Run, given: Dataset) -> None:
    """That data are those that a run began with.

    Raises:
        RunError: they are others, or of another shape or range.
    """
    now, then = describe(given, run.config), run.data
    if now["fingerprint"] != then["fingerprint"]:
        raise RunError(
            f"{run.path}: began with {then['points']} training data of {then['name']}; "
            f"those given now ({now['points']} of {now['name']}) are not the same"
        )
    for key in now.keys() & then.keys() - {"name", "path"}:
        if now[key] != then[key]:
            file = run.path / "config.yaml"
            raise RunError(f"{file}: {key} of the data is {then[key]!r}, the data given now have {now[key]!r}")
