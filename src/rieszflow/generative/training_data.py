"""The data of a run: passed in Python, or loaded again from the description in config.yaml."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import torch
from torch import Tensor

from rieszflow import data
from rieszflow._infra import validate
from rieszflow._infra.files import Json
from rieszflow._types import Points, PointSource
from rieszflow.constraints import Constraint
from rieszflow.data import Dataset, as_points
from rieszflow.data.streams import open_table
from rieszflow.errors import InputError, RunError
from rieszflow.generative.condition import as_array, describe_condition, image_constraint, raw_conditions
from rieszflow.generative.config import Config
from rieszflow.generative.rows import load_rows
from rieszflow.generative.run import Run


def dataset(
    x: PointSource,
    held_out: Points | None,
    config: Config,
    condition: object = None,
    held_out_condition: object = None,
    label: str | None = None,
) -> Dataset:
    """Return the arguments of `GenerativeFlow.fit` as a Dataset; strings and constraints in `condition` are ignored."""
    if isinstance(x, Dataset):
        return x
    if (table := open_table(x)) is not None:
        return load_rows(table, config.held_out, config.seed, label, config.condition_columns)
    if label is not None:
        raise InputError(f"`label` must be None unless the data are a table, got {label!r}")
    if isinstance(x, (str, os.PathLike)):
        return data.load(x, None, config.held_out, config.seed)
    train = _points("data", x)
    test = None if held_out is None else _points("held_out", held_out)
    if test is not None and train.shape[1:] != test.shape[1:]:
        raise InputError(f"`held_out` must have data of shape {train.shape[1:]}, got {test.shape[1:]}")
    conditions = {}
    for name, value, points in (("condition", condition, train), ("held_out_condition", held_out_condition, test)):
        if value is not None and not isinstance(value, (str, Constraint)):
            if points is None:
                raise InputError(f"`{name}` must be None without `held_out`")
            conditions[name] = _labels_or_values(name, value, len(points))
    if "condition" in conditions and test is not None and "held_out_condition" not in conditions:
        raise InputError("`held_out_condition` must go with `condition` and `held_out`, got None")
    return Dataset.from_arrays("tensor", train, test, config.held_out, config.seed, **conditions)


def _labels_or_values(name: str, value: object, n: int) -> np.ndarray:
    """Return labels (n,) or values (n, k) for n data as an array, after checking them."""
    array = as_array(value)
    labels = array.ndim == 1 and array.dtype.kind in "iu"
    if not labels and (array.ndim != 2 or array.dtype.kind not in "iufb" or not array.shape[1]):
        raise InputError(f"`{name}` must be integer labels (n,) or numbers (n, k), got shape {array.shape} of {array.dtype}")
    if len(array) != n:
        raise InputError(f"`{name}` must have a row for each of {n} data, got {len(array)}")
    if not labels and not np.isfinite(as_points(array, name)).all():
        raise InputError(f"`{name}` must be finite, got NaN or infinity")
    if labels and isinstance(value, (list, tuple)) and any(isinstance(label, (bool, np.bool_)) for label in value):
        raise InputError(f"`{name}` must have integers as labels, got truth values")
    if labels and array.max(initial=0) > np.iinfo(np.int64).max:
        raise InputError(f"`{name}` must have labels below 2^63, got {array.max()}")
    return array


def _points(name: str, x: object) -> np.ndarray:
    points = validate.points(name, data.as_points(x, name)).cpu()
    if points.ndim not in (2, 4):
        raise InputError(f"`{name}` must have shape (n, d), (n, H, W) or (n, C, H, W), got {tuple(points.shape)}")
    return points.numpy()


def describe(content: Dataset, config: Config) -> Json:
    """Return the description of data for config.yaml, with a fingerprint of the training part and its condition."""
    digest = hashlib.blake2b(content.train.contiguous().numpy().tobytes(), digest_size=16)
    conditions = raw_conditions(config, content)[0]
    described = {}
    if conditions is not None and not config.conditions_on_image:
        digest.update(conditions.contiguous().numpy().tobytes())
        described = {"condition": describe_condition(config, content)}
    return {
        "name": content.name, "path": content.path, "shape": list(content.shape), "low": content.low, "high": content.high,
        "columns": None if content.rows else content.columns and {k: list(v) for k, v in vars(content.columns).items()},
        "table": content.rows and content.rows.to_json(),
        "points": len(content.train), "fingerprint": digest.hexdigest(), **described,
    }  # fmt: skip


def load_data(run: Run, moved: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the data of a run.

    Args:
        run: The run.
        moved: The current path of the data, if they were moved.

    Raises:
        RunError: The run was trained on a tensor, which is not in a file.
        DatasetError: The data are missing or damaged.
    """
    name, path = run.data["name"], run.data["path"]
    if name == "tensor":
        raise RunError(f"{run.path}: was trained on a tensor given in Python; pass it again as `data`")
    if moved is not None:
        name, path = (name, str(moved)) if name in data.NAMED else (str(moved), None)
    if (rows := run.rows) is not None:
        source = path if moved is None else name
        if source is None or (table := open_table(source, **rows.options)) is None:
            raise RunError(f"{run.path}: was trained on a table given in Python, or that was moved; pass it as `data`")
        return load_rows(table, run.config.held_out, run.config.seed, rows.label, rows.given)
    return data.load(name, path, run.config.held_out, run.config.seed)


def held_out_conditions(run: Run, content: Dataset, n: int, seed: int) -> Tensor | None:
    """Return the conditions of n held-out data, drawn at random, as `GenerativeFlow.sample` takes them."""
    conditions = raw_conditions(run.config, content)[1]
    if conditions is None:
        return None
    rows = torch.randperm(len(conditions), generator=torch.Generator().manual_seed(seed))[torch.arange(n) % len(conditions)]
    chosen = conditions[rows]
    return content.unscale(chosen).view(n, *content.shape) if run.config.conditions_on_image else chosen


def residual(run: Run, samples: Tensor, condition: Tensor | None, content: Dataset) -> float | None:
    """Return the root mean square error of samples (n, C, H, W) in [0, 1] on the known part; None if there is no such part."""
    if condition is None or not run.config.conditions_on_image:
        return None
    error = samples.flatten(1) - content.scale(condition).flatten(1)
    known = image_constraint(run.config.condition, content.shape).project(error)
    return float(known.pow(2).sum().div(known.ne(0).sum().clamp(min=1)).sqrt())


def check_same(run: Run, content: Dataset) -> None:
    """Raise RunError if data are not those that a run began with."""
    now, then = describe(content, run.config), run.data
    if now["fingerprint"] != then["fingerprint"]:
        raise RunError(
            f"{run.path}: was trained on other data: {then['points']} points of {then['name']}, "
            f"got {now['points']} points of {now['name']} with other values"
        )
    for key in now.keys() & then.keys() - {"name", "path"}:
        if now[key] != then[key]:
            raise RunError(f"{run.path / 'config.yaml'}: `{key}` of the data must be {now[key]!r}, got {then[key]!r}")
