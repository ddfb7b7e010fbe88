"""Conditions of samples: labels or values, scaled coordinates that precede the datum, or a known part of an image.

The flow never moves the condition (see `rieszflow.constraints`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rieszflow._infra.files import Json
from rieszflow._infra.messages import notice, one_line, shorten
from rieszflow.constraints import Constraint, FixedPrefix, Labels, Mask, Pool
from rieszflow.data import ColumnScaler, Dataset, as_points, scale_points
from rieszflow.data.points import plain_numbers
from rieszflow.errors import ConfigError, InputError
from rieszflow.generative.config import HALVES, Config, is_condition

_PER_LABEL = 1000  # fewest particles of a label: with fewer, fresh samples differ from the particles
_MAX_PAIRWISE = 2000  # number of data whose pairwise distances determine the weight of a condition


@dataclass(frozen=True)
class Condition:
    """The condition of an unconditional model; subclasses turn labels, values or images into part of a point."""

    constraint: Constraint | None = None  # the fixed part of a point
    leading: int = 0  # k, the number of coordinates that precede those of the datum
    weight: float = 1.0  # the factor of these coordinates

    @staticmethod
    def from_config(config: Config, shape: tuple[int, ...], described: Json | None) -> Condition:
        """Return the condition of a run on data of a shape, `described` by `describe_condition`."""
        if not config.condition:
            return UNCONDITIONAL
        if described is None:
            return _ImageCondition(image_constraint(config.condition, shape))
        values: Json = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
        if "classes" in values:
            k = len(values["classes"])
            if config.flow_per_label:
                return _LabelCondition(Labels(number=k), 1, **values)
            return _ClassCondition(FixedPrefix(k), k, **values)
        k, columns = len(values["centre"]), ColumnScaler(*(values.pop(key) for key in ("centre", "spread", "tail")))
        return _ValueCondition(FixedPrefix(k), k, columns=columns, **values)

    @property
    def labels(self) -> int:
        """Number of labels whose data flow independently, or 1."""
        return self.constraint.number if isinstance(self.constraint, Labels) else 1

    def encode(self, c: Tensor) -> Tensor:
        """Return labels (n,) or values (n, k) as the leading coordinates (n, k), float32."""
        return torch.empty(len(c), 0)

    def join(self, c: Tensor | None, x: Tensor) -> Tensor:
        """Return points (n, k + d) made of conditions, and data or noise x (n, d)."""
        return x if c is None else torch.cat([self.encode(c).to(x), x], 1)

    def data(self, points: Tensor) -> Tensor:
        """Return the data (..., d) in points (..., k + d)."""
        return points[..., self.leading :]

    def comparable(self, points: Tensor) -> Tensor:
        """Return points (n, k + d) in the form whose distances are measured."""
        return points

    def for_training(self, n: int, drawn: Tensor | None, watched: int) -> Tensor | None:
        """Return the conditions of n particles and of `watched` fresh samples; by default, those `drawn` from the data."""
        return drawn

    def parse(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor | None:
        """Convert the `condition` of `GenerativeFlow.sample` for n samples to what `join` takes, or draw random labels."""
        if condition is not None:
            raise InputError("`condition` must be None for a model that was trained without one")
        return None


UNCONDITIONAL = Condition()


@dataclass(frozen=True, kw_only=True)
class _ClassCondition(Condition):
    """Sorted labels with their counts in the training data."""

    classes: tuple[int, ...]
    counts: tuple[int, ...]

    def encode(self, c: Tensor) -> Tensor:
        positions = torch.searchsorted(torch.tensor(self.classes), c)
        return self.weight * functional.one_hot(positions, self.leading).float()

    def parse(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor:
        if condition is None:
            shares = torch.tensor(self.counts, dtype=torch.float64)
            return torch.tensor(self.classes)[torch.multinomial(shares, n, replacement=True, generator=generator)]
        labels = as_array(condition)
        if labels.dtype.kind not in "iu" or labels.ndim > 1:
            raise InputError(f"`condition` must be one label for all samples or {n} labels, got {_shown(condition)}")
        if unknown := sorted({int(v) for v in labels.flat} - set(self.classes)):
            first, last = self.classes[0], self.classes[-1]
            consecutive = last - first + 1 == len(self.classes) > 2
            known = f"{first} to {last}" if consecutive else ", ".join(map(str, self.classes))
            raise InputError(f"`condition` must be a label of the training data, {known}, got {unknown[0]}")
        return _repeat(labels.astype(np.int64).reshape(-1), n)


@dataclass(frozen=True, kw_only=True)
class _LabelCondition(_ClassCondition):
    """Labels whose data flow independently: the leading coordinate is the position of the label among the sorted ones."""

    def encode(self, c: Tensor) -> Tensor:
        return torch.searchsorted(torch.tensor(self.classes), c)[:, None].float()

    def comparable(self, points: Tensor) -> Tensor:
        codes = functional.one_hot(points[:, 0].long(), len(self.classes)).to(points)
        return torch.cat([self.weight * codes, points[:, 1:]], 1)

    def for_training(self, n: int, drawn: Tensor | None, watched: int) -> Tensor:
        each = max(-(-n // len(self.classes)), min(n, _PER_LABEL))
        return torch.cat([torch.tensor(self.classes).repeat_interleave(each), self._even(watched, 0.5)])

    def parse(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor:
        if condition is not None:
            return super().parse(condition, n, data, generator)
        labels = self._even(n, torch.rand((), dtype=torch.float64, generator=generator).item())
        return labels[torch.randperm(n, generator=generator)]

    def _even(self, n: int, start: float) -> Tensor:
        """Return n sorted labels, each as often as its share of the training data says, rounded up or down."""
        shares = torch.tensor(self.counts, dtype=torch.float64).cumsum(0)
        positions = (torch.arange(n, dtype=torch.float64) + start) / n * shares[-1]
        return torch.tensor(self.classes)[torch.searchsorted(shares, positions, right=True).clamp(max=len(shares) - 1)]


@dataclass(frozen=True, kw_only=True)
class _ValueCondition(Condition):
    """Values next to the data: their names, scaling (which compresses heavy tails), and range in the training data."""

    names: tuple[str, ...]
    columns: ColumnScaler
    low: tuple[float, ...]
    high: tuple[float, ...]

    def encode(self, c: Tensor) -> Tensor:
        return (self.weight * self.columns.compress(c)).float()

    def parse(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor:
        k, names = self.leading, ", ".join(self.names)
        values = None if condition is None else as_array(condition)
        if values is None or values.dtype.kind not in "iufb" or values.ndim not in (1, 2) or values.shape[-1] != k:
            raise InputError(f"`condition` must have {k} numbers ({names}) for all or for each of {n}, got {_shown(condition)}")
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError("`condition` must be finite, got NaN or infinity")
        values = values.reshape(-1, k)
        outside = np.maximum(np.array(self.low) - values, values - np.array(self.high)).max(0)
        for name, far, spread, low, high in zip(self.names, outside, self.columns.spread, self.low, self.high, strict=True):
            if far > 0:
                notice(
                    f"condition: {name} lies {far:g} outside the range [{low:g}, {high:g}] of the training data, "
                    f"{far / spread:.1f} times their interquartile range; samples there are extrapolated"
                )
        return _repeat(values, n)


@dataclass(frozen=True)
class _ImageCondition(Condition):
    """A known part of an image."""

    def join(self, c: Tensor | None, x: Tensor) -> Tensor:
        assert self.constraint is not None
        return x if c is None else self.constraint.restore(x.clone(), c.to(x))

    def parse(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor:
        known, shape = self.constraint, tuple(data["shape"])
        if condition is None:
            raise InputError("`condition` must be the known part of images, for all samples or for each, got None")
        x = torch.as_tensor(plain_numbers(condition, "condition")).detach().cpu()
        pooled = known.pooled_shape if isinstance(known, Pool) else shape
        if x.ndim not in (3, 4) or tuple(x.shape[-3:]) not in (shape, pooled):
            shapes = f"{shape}" if pooled == shape else f"{shape} or {pooled}"
            raise InputError(f"`condition` must have images of shape {shapes}, one for all or {n}, got shape {tuple(x.shape)}")
        x = x.reshape(-1, *x.shape[-3:])
        if isinstance(known, Mask):  # unknown pixels may have any value, even NaN
            x = x.clone()
            x.view(len(x), -1)[:, ~known.mask] = 0
        x = torch.as_tensor(as_points(x, "condition"))
        if not torch.isfinite(x).all():
            raise InputError("`condition` must be finite where pixels are known, got NaN or infinity")
        x = scale_points(x, data["low"], data["high"])
        if (far := max(-x.min().item(), x.max().item() - 1)) > 1e-6:
            notice(f"condition: values exceed the data's range by {far:.3g} of its width; samples there are extrapolated")
        flat = x.flatten(1)
        if isinstance(known, Pool) and tuple(x.shape[1:]) == pooled != shape:
            flat = known.unpool(flat)
        return _repeat(flat.numpy(), n)


def as_array(condition: object) -> np.ndarray:
    """Return labels or values as an array; refuse rows of different lengths and masked arrays."""
    if np.ma.is_masked(condition):
        raise InputError("`condition` must have a value for every point, got a masked array")
    if isinstance(condition, Tensor):
        condition = condition.detach().cpu()
        if condition.dtype == torch.bfloat16:
            condition = condition.float()
    try:
        return np.asarray(condition)
    except (ValueError, TypeError) as error:
        raise InputError(f"`condition` must be an array, got {_shown(condition)} ({one_line(error)})") from None


def _repeat(values: np.ndarray, n: int) -> Tensor:
    """Return one row for each of n samples."""
    if len(values) not in (1, n):
        raise InputError(f"`condition` must have one row for all samples or one for each of {n}, got {len(values)}")
    return torch.from_numpy(values if len(values) == n else np.repeat(values, n, 0))


def _shown(condition: object) -> str:
    if isinstance(condition, (Tensor, np.ndarray)):
        return f"shape {tuple(condition.shape)} of {condition.dtype}"
    return shorten(repr(condition), 60)


def image_constraint(name: str, shape: tuple[int, ...]) -> Constraint:
    """Return the constraint on images (C, H, W) that `condition` names: a half, "mask:…" or "pool:k"."""
    if len(shape) != 3:
        raise ConfigError(f"`condition` must not be {name!r} for data of shape {shape}: it needs images (C, H, W)")
    C, H, W = shape
    try:
        if name.startswith("pool:"):
            return Pool((C, H, W), int(name[5:]))
        if name.startswith("mask:"):
            return Constraint.from_dict({"mask": name[5:], "d": C * H * W})
        mask = torch.zeros(C, H, W, dtype=torch.bool)
        halves = (mask[..., : W // 2], mask[..., W // 2 :], mask[:, : H // 2], mask[:, H // 2 :])
        halves[HALVES.index(name)][:] = True
        return Mask(mask)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"`condition` {name[:40]!r} does not fit images of shape {shape} ({error})") from None


def condition_setting(condition: object, of_table: bool = False) -> str:
    """Return the setting for the argument `condition` of `fit`; in a table, all names are those of columns."""
    if isinstance(condition, Mask):
        return f"mask:{condition.to_dict()['mask']}"
    if isinstance(condition, Pool):
        return f"pool:{condition.factor}"
    if isinstance(condition, str):
        setting = is_condition(condition) and (not of_table or condition.startswith("columns:") or not condition)
        return condition if setting else f"columns:{condition}"
    values = as_array(condition)
    return "class" if values.ndim == 1 and values.dtype.kind in "iu" else "values"


def raw_conditions(config: Config, data: Dataset) -> tuple[Tensor | None, Tensor | None]:
    """Return the conditions of the training and the held-out data: labels (n,), values (n, k), or the images (n, d)."""
    name = config.condition
    if not name:
        return None, None
    if config.conditions_on_image:
        return data.train.flatten(1), data.held_out.flatten(1)
    labels = (data.train_labels, data.held_out_labels)
    train, held_out = labels if name == "class" else (data.train_condition, data.held_out_condition)
    if train is None or held_out is None:
        what = "labels" if name == "class" else "numbers next to the data"
        raise ConfigError(f"`condition` must not be {name!r}: it needs {what}, and {data.name} has none")
    return train, held_out


def describe_condition(config: Config, data: Dataset) -> Json | None:
    """Return the encoding of labels or values for config.yaml; None if there are none.

    The weight makes the mean distance between conditions `condition_weight` times that between data.
    """
    c, held_out = raw_conditions(config, data)
    if c is None or held_out is None or config.conditions_on_image:
        return None
    described: Json
    if config.condition == "class":
        classes, counts = c.unique(return_counts=True)
        if unknown := sorted(set(held_out.tolist()) - set(classes.tolist())):
            raise ConfigError(f"`condition` must have every label in the training data, got {unknown[0]} in held-out data only")
        if len(classes) < 2:
            raise ConfigError(f"`condition` must have at least two labels, got {classes[0].item()} for all data")
        described = {"classes": classes.tolist(), "counts": counts.tolist()}
    else:
        values = c.numpy()
        k, names = c.shape[1], config.condition_columns
        names = names if len(names) == k else [f"number {j}" for j in range(k)]
        varies = np.ptp(values, axis=0) > 0
        if not varies.all():
            raise ConfigError(f"`condition` must vary, got {names[int(varies.argmin())]} that is the same in all training data")
        columns = {key: list(value) for key, value in vars(ColumnScaler.fit(values)).items()}
        described = {"names": names, "low": values.min(0).tolist(), "high": values.max(0).tolist(), **columns}
    rows = torch.linspace(0, len(c) - 1, min(len(c), _MAX_PAIRWISE)).round().long()
    joint = config.model_copy(update={"flow_per_label": False})  # where labels have one-hot codes
    encoded = Condition.from_config(joint, data.shape, described).encode(c[rows])
    apart, data_apart = (torch.pdist(t).mean().item() for t in (encoded, data.train[rows].flatten(1)))
    if not apart > 0:
        raise ConfigError("`condition` must vary, got almost the same for all training data")
    return {**described, "weight": config.condition_weight * data_apart / apart}
