"""What samples are asked to agree with: a class, numbers beside the data, or a part of an image.

A point of a conditional flow is a pair: what is known of a datum, and the datum. Labels (one-hot) and numbers stand before the
datum's own numbers. They are scaled until their distances weigh as much as the data's. Of an image some pixels are known, or
the means of some; they are the datum's own, at their own scale. What is known never moves (see `rieszflow.constraints`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.files import Json
from rieszflow._infra.notices import notice
from rieszflow._infra.text import one_line, shorten
from rieszflow.constraints import Constraint, FixedPrefix, Mask, Pool
from rieszflow.data import ColumnScaler, Dataset, as_points, scale_points
from rieszflow.data.points import plain_numbers
from rieszflow.errors import ConfigError, InputError
from rieszflow.generative.config import HALVES, Config, is_condition

__all__ = [
    "NOTHING", "Condition", "as_array", "describe_condition", "observation", "observed", "raw_conditions", "setting_of",
]  # fmt: skip

_LOOKED_AT = 2000  # data, of whose distances the scale is made


@dataclass(frozen=True)
class Condition:
    """How what is known becomes a part of a point.

    Attributes:
        kind: "class", "values", "observed", or "" for no condition at all.
        leading: k, how many numbers stand before the datum's own.
        known: what of a point is known, or None.
        weight: factor of the k numbers.
        classes: labels, in the order of their places.
        counts: how many of each there were in training.
        names: of given numbers, for messages.
        centre, spread, tail: (k,) of given numbers, as in `data.ColumnScaler`: the heavy tail of one does not hide the others.
        low, high: (k,) range of given numbers in training.
    """

    kind: str = ""
    leading: int = 0
    known: Constraint | None = None
    weight: float = 1.0
    classes: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    tail: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def of(cls, config: Config, shape: tuple[int, ...], said: Json | None) -> Condition:
        """Of a run: from its settings, the shape of its data, and what is said of the condition there.

        Raises:
            ConfigError: it does not fit the data.
        """
        if not config.condition:
            return NOTHING
        if said is None:
            return cls("observed", known=observation(config.condition, shape))
        values: Json = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        k = len(said["classes"] if "classes" in said else said["centre"])
        return cls("class" if "classes" in said else "values", k, FixedPrefix(k), **values)

    def encoded(self, c: Tensor) -> Tensor:
        """What stands before the data: labels (n,) or numbers (n, k) as (n, k) float32; nothing, (n, 0), of images."""
        if self.kind == "class":
            places = torch.searchsorted(torch.tensor(self.classes), c)
            return self.weight * torch.nn.functional.one_hot(places, self.leading).float()
        if self.kind == "values":
            return (self.weight * ColumnScaler(self.centre, self.spread, self.tail).compress(c)).float()
        return torch.empty(len(c), 0)

    def join(self, c: Tensor | None, x: Tensor) -> Tensor:
        """Points (n, k + d) of conditions and data, or noise, x (n, d)."""
        if c is None or self.known is None:
            return x
        if self.kind == "observed":
            return self.known.restore(x.clone(), c.to(x))
        return torch.cat([self.encoded(c).to(x), x], 1)

    def data(self, points: Tensor) -> Tensor:
        """The data (…, d) in points (…, k + d)."""
        return points[..., self.leading :]

    def asked(self, condition: object, n: int, data: Json, generator: torch.Generator | None) -> Tensor | None:
        """What a user asks n samples to agree with, as `join` takes it. `data` is what config.yaml says of them.

        Raises:
            InputError, InputTypeError: unknown labels, another length or shape, or nothing where something is needed.
        """
        if not self.kind:
            if condition is not None:
                raise InputError("condition: given to a model that was trained without one; None is accepted")
            return None
        if self.kind == "class":
            return self._labels(condition, n, generator)
        if condition is None:
            what = (
                "the known part of images" if self.kind == "observed" else f"{self.leading} numbers ({', '.join(self.names)})"
            )
            raise InputError(f"condition: None given; the model needs {what}, one for all samples or one for each")
        return self._images(condition, n, data) if self.kind == "observed" else self._numbers(condition, n)

    def _labels(self, condition: object, n: int, generator: torch.Generator | None) -> Tensor:
        if condition is None:
            shares = torch.tensor(self.counts, dtype=torch.float64)
            return torch.tensor(self.classes)[torch.multinomial(shares, n, replacement=True, generator=generator)]
        labels = as_array(condition)
        if labels.dtype.kind not in "iu" or labels.ndim > 1:
            raise InputError(f"condition: {_shown(condition)} given; one label for all samples, or {n} labels, are accepted")
        if unknown := sorted({int(v) for v in labels.flat} - set(self.classes)):
            raise InputError(f"condition: label {unknown[0]} given; the data have {_listed(self.classes)}")
        return _each(labels.astype(np.int64).reshape(-1), n, "labels")

    def _numbers(self, condition: object, n: int) -> Tensor:
        values, k = as_array(condition), self.leading
        if values.dtype.kind not in "iufb" or values.ndim not in (1, 2) or values.shape[-1] != k:
            raise InputError(
                f"condition: {_shown(condition)} given; {k} numbers ({', '.join(self.names)}) for all samples, or as many for "
                f"each of {n}, are accepted"
            )
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError("condition: contains NaN or infinity")
        values = values.reshape(-1, k)
        low, high, spread = (np.array(v) for v in (self.low, self.high, self.spread))
        beyond = np.maximum(low - values, values - high).max(0)
        for name, far, one, a, b in zip(self.names, beyond, spread, low, high, strict=True):
            if far > 0:
                notice(
                    f"condition: {name} lies {far:g} outside of the range [{a:g}, {b:g}] of the training data, {far / one:.1f} "
                    "times their interquartile range; samples there are extrapolated"
                )
        return _each(values, n, "rows")

    def _images(self, condition: object, n: int, data: Json) -> Tensor:
        known, shape = self.known, tuple(data["shape"])
        assert known is not None
        found = plain_numbers(condition, "condition")
        if isinstance(found, np.ndarray):
            found = torch.from_numpy(np.ascontiguousarray(found))
        x = found.detach().cpu()
        small = known.pooled_shape if isinstance(known, Pool) else shape
        accepted = f"{tuple(shape)}" if small == shape else f"{small} pooled, or {tuple(shape)} whole,"
        if tuple(x.shape[-3:]) not in (shape, small) or x.ndim not in (3, 4):
            raise InputError(
                f"condition: shape {tuple(x.shape)} given; {accepted} for all samples, or {n} of them, are accepted"
            )
        x = x.reshape(-1, *x.shape[-3:])
        if isinstance(known, Mask):  # what is not known may be anything, NaN too
            x = x.clone()
            x.view(len(x), -1)[:, ~known.mask] = 0
        x = torch.as_tensor(as_points(x, "condition"))
        if not torch.isfinite(x).all():
            raise InputError("condition: contains NaN or infinity where it is known")
        x = scale_points(x, data["low"], data["high"])
        if (far := max(-x.min().item(), x.max().item() - 1)) > 1e-6:
            notice(f"condition: values lie {far:.3g} of the data's range outside of it; samples there are a guess")
        flat = known.unpool(x.flatten(1)) if isinstance(known, Pool) and tuple(x.shape[1:]) == small != shape else x.flatten(1)
        return _each(flat.numpy(), n, "images")


NOTHING = Condition()


def as_array(condition: object) -> np.ndarray:
    """Labels, numbers or images as an array.

    Raises:
        InputError: rows of different lengths.
    """
    if np.ma.is_masked(condition):
        raise InputError("`condition` must have a value for every point, got a masked array")
    if isinstance(condition, Tensor):
        condition = condition.detach().cpu()
        if condition.dtype == torch.bfloat16:
            condition = condition.float()
    try:
        return np.asarray(condition)
    except (ValueError, TypeError) as error:
        raise InputError(f"condition: {_shown(condition)} given; an array cannot be made of it ({one_line(error)})") from None


def _each(values: np.ndarray, n: int, what: str) -> Tensor:
    """A row for each of n samples, of as many rows or of one."""
    if len(values) not in (1, n):
        raise InputError(f"condition: {len(values)} {what} given for {n} samples; one for all, or one for each, is accepted")
    return torch.from_numpy(values if len(values) == n else np.repeat(values, n, 0))


def _shown(condition: object) -> str:
    if isinstance(condition, (Tensor, np.ndarray)):
        return f"shape {tuple(condition.shape)} of {condition.dtype}"
    return shorten(repr(condition), 60)


def _listed(classes: Sequence[int]) -> str:
    whole = classes[-1] - classes[0] + 1 == len(classes)  # they are sorted and distinct
    return f"{classes[0]} to {classes[-1]}" if whole and len(classes) > 2 else ", ".join(map(str, classes))


def observation(name: str, shape: tuple[int, ...]) -> Constraint:
    """What of images a setting `condition` says is known.

    Raises:
        ConfigError: no images, or a part that they do not have.
    """
    if len(shape) != 3:
        raise ConfigError(f"condition: {name!r} needs images (C, H, W), the data have the shape {shape}")
    C, H, W = shape
    try:
        if name.startswith("pool:"):
            return Pool((C, H, W), int(name[5:]))
        if name.startswith("mask:"):
            found = Constraint.from_dict({"mask": name[5:], "d": C * H * W})
        else:
            mask = torch.zeros(C, H, W, dtype=torch.bool)
            half = {"left-half": mask[..., : W // 2], "right-half": mask[..., W // 2 :], "top-half": mask[:, : H // 2],
                    "bottom-half": mask[:, H // 2 :]}  # fmt: skip
            half[name][:] = True
            found = Mask(mask)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"condition: {name[:40]!r} does not fit images of shape {shape} ({error})") from None
    return found


def raw_conditions(config: Config, data: Dataset) -> tuple[Tensor | None, Tensor | None]:
    """What is known of the training and the held-out data: labels (n,), numbers (n, k), or the images themselves (n, d).

    Raises:
        ConfigError: the data have no labels or no numbers beside them.
    """
    if not config.condition:
        return None, None
    if config.condition == "class":
        if data.train_labels is None or data.held_out_labels is None:
            raise ConfigError(f"condition: 'class' needs labels, and {data.name} has none")
        return data.train_labels, data.held_out_labels
    if config.condition.startswith(("values", "columns:")):
        if data.train_condition is None or data.held_out_condition is None:
            raise ConfigError(f"condition: {config.condition!r} needs numbers beside the data, and {data.name} has none")
        return data.train_condition, data.held_out_condition
    return data.train.flatten(1), data.held_out.flatten(1)


def describe_condition(config: Config, data: Dataset) -> Json | None:
    """What config.yaml says of the condition, beside its setting: how it becomes numbers. None for images and for nothing.

    The weight is found here: distances between conditions become `condition_weight` times those between data.
    """
    c, held_out = raw_conditions(config, data)
    if c is None or held_out is None or observed(config.condition):
        return None
    if config.condition == "class":
        classes, counts = c.unique(return_counts=True)
        if unknown := sorted(set(held_out.tolist()) - set(classes.tolist())):
            raise ConfigError(f"condition: held-out data have the label {unknown[0]}, training data have none of it")
        if len(classes) < 2:
            raise ConfigError(f"condition: all data have the label {classes[0].item()}; two labels at least are needed")
        said: Json = {"classes": classes.tolist(), "counts": counts.tolist()}
    else:
        columns = c.numpy()
        varies = np.ptp(columns, axis=0) > 0
        names = config.condition.removeprefix("columns:").split(",") if config.condition.startswith("columns:") else []
        names = names if len(names) == c.shape[1] else [f"number {j}" for j in range(c.shape[1])]
        if not varies.all():
            raise ConfigError(f"condition: {names[int(varies.argmin())]} is the same in all training data")
        fitted = {key: list(value) for key, value in vars(ColumnScaler.fit(columns)).items()}
        said = {"names": names, "low": columns.min(0).tolist(), "high": columns.max(0).tolist(), **fitted}
    rows = torch.linspace(0, len(c) - 1, min(len(c), _LOOKED_AT)).round().long()
    known = Condition.of(config, data.shape, said).encoded(c[rows])
    apart, far = (torch.pdist(t).mean().item() for t in (known, data.train[rows].flatten(1)))
    if not apart > 0:
        raise ConfigError("condition: it hardly differs between the training data")
    return {**said, "weight": config.condition_weight * far / apart}


def observed(name: str) -> bool:
    """Whether a setting `condition` is a part of an image."""
    return name.startswith(("pool:", "mask:")) or name in HALVES


def setting_of(condition: object, of_table: bool = False) -> str:
    """Return the setting `condition` for the argument of `fit`.

    Args:
        condition: The argument.
        of_table: True if the data are a table, without labels or parts of images, so that names are those of columns.
    """
    if isinstance(condition, Mask):
        return f"mask:{condition.to_dict()['mask']}"
    if isinstance(condition, Pool):
        return f"pool:{condition.factor}"
    if isinstance(condition, str):
        setting = is_condition(condition) and (not of_table or condition.startswith("columns:") or not condition)
        return condition if setting else f"columns:{condition}"
    values = as_array(condition)
    return "class" if values.ndim == 1 and values.dtype.kind in "iu" else "values"
