"""Constraints that keep part of a point fixed while the rest of it flows.

Pairs (condition, x) flow towards pairs (condition, data), and only x moves, so the flow ends in samples of the data given the
condition. A condition may be coordinates that precede x, such as a one-hot label, or a part of x, such as some pixels of an
image. The fixed part is an orthogonal projection of the point. Distances do not depend on the basis, so this is the flow of
pairs in a basis whose first vectors span the fixed part.

References:
    Hagemann, Hertrich, Altekrüger et al., Posterior Sampling Based on Gradient Flows of the MMD with Negative Distance Kernel,
    ICLR 2024.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rieszflow._infra import validate
from rieszflow._infra.files import Json
from rieszflow._infra.numerics import to_device
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Constraint", "ConstraintLike", "FixedPrefix", "Labels", "Mask", "Pool", "as_constraint"]


Rows: TypeAlias = slice | Tensor


class Constraint(ABC):
    """An orthogonal projection P of points in R^d onto their fixed part."""

    @property
    def d(self) -> int | None:
        """The dimension of the points; None if it is arbitrary."""
        return None

    def project(self, x: Tensor) -> Tensor:
        """Return P x for points x (..., d)."""
        return self.restore(torch.zeros_like(x), x)

    def project_out(self, v: Tensor) -> Tensor:
        """Replace velocities v (..., d) by v − P v, in place."""
        return v.sub_(self.project(v))

    @abstractmethod
    def restore(self, x: Tensor, c: Tensor) -> Tensor:
        """Replace points x (..., d) by x − P x + P c, in place."""

    @abstractmethod
    def to_dict(self) -> Json:
        """Return the constraint as JSON."""

    def rows(self, x: Tensor) -> list[Rows]:
        """Return the rows of points x (n, d) that interact: all of them, unless the constraint is `Labels`."""
        return [slice(None)]

    @staticmethod
    def from_dict(content: Json) -> Constraint:
        """Return the constraint from what `to_dict` returned. Raises KeyError, TypeError or ValueError if it is malformed."""
        if "labels" in content:
            return Labels(number=validate.positive_int("labels", content["labels"]))
        if "leading" in content:
            return FixedPrefix(validate.positive_int("leading", content["leading"]))
        if "pool" in content:
            C, H, W = content["shape"]
            return Pool((C, H, W), content["pool"])
        d = validate.positive_int("d", content["d"])
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(content["mask"]), np.uint8))
        if not d <= len(bits) < d + 8:
            raise ValueError(f"a mask of {len(bits)} bits for {d} coordinates")
        return Mask(torch.from_numpy(bits[:d].astype(bool)))


@dataclass(frozen=True)
class FixedPrefix(Constraint):
    """A constraint that fixes the first k coordinates of a point."""

    k: int

    def project_out(self, v: Tensor) -> Tensor:
        v[..., : self.k] = 0
        return v

    def restore(self, x: Tensor, c: Tensor) -> Tensor:
        x[..., : self.k] = c[..., : self.k]
        return x

    def to_dict(self) -> Json:
        return {"leading": self.k}


@dataclass(frozen=True)
class Labels(FixedPrefix):
    """A constraint for points whose first coordinate is a label 0, …, K − 1; points of different labels do not interact.

    A recorded flow with it is K flows, one for each label, on the same slices of the other coordinates.
    """

    k: int = 1
    number: int = 1  # K

    def rows(self, x: Tensor) -> list[Rows]:
        """Return the rows of each label in points x (n, 1 + d): slices if x is sorted by label."""
        label = x[:, 0].long()
        ends = label.bincount(minlength=self.number).cumsum(0).tolist()
        slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        order = label.argsort(stable=True) if (label.diff() < 0).any() else None
        return [rows if order is None else order[rows] for rows in slices]

    def to_dict(self) -> Json:
        return {"labels": self.number}


class Mask(Constraint):
    """A constraint that fixes some coordinates of a point, such as pixels of an image.

    Args:
        mask: True for every fixed coordinate; bool, in the shape of a datum or flat; tensor or array. Neither all nor none.

    Raises:
        InputError (a ValueError): all coordinates are fixed, or none.
        InputTypeError (a TypeError): the mask is not of bool.

    Example:
        >>> import torch
        >>> left = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> left[..., :2] = True
        >>> Mask(left).project(torch.arange(16.0)[None])[0, :8].tolist()
        [0.0, 1.0, 0.0, 0.0, 4.0, 5.0, 0.0, 0.0]
    """

    def __init__(self, mask: Tensor | np.ndarray) -> None:
        if not isinstance(mask, (Tensor, np.ndarray)):
            raise InputTypeError(f"`mask` must be a tensor or array of bool, got {type(mask).__name__}")
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool:
            raise InputTypeError(f"`mask` must be of bool, got {mask.dtype}")
        if mask.all() or not mask.any():
            raise InputError(f"`mask` must fix some but not all coordinates, got {'all' if mask.any() else 'none'}")
        self.mask = mask.detach().cpu().flatten().clone()

    @property
    def d(self) -> int | None:
        return len(self.mask)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash(self.mask.numpy().tobytes())

    def __repr__(self) -> str:
        return f"Mask({int(self.mask.sum())} of {len(self.mask)} coordinates)"

    def project(self, x: Tensor) -> Tensor:
        return x * to_device(self.mask, x.device)

    def project_out(self, v: Tensor) -> Tensor:
        return v.masked_fill_(to_device(self.mask, v.device), 0)

    def restore(self, x: Tensor, c: Tensor) -> Tensor:
        return x.copy_(torch.where(to_device(self.mask, x.device), c, x))

    def to_dict(self) -> Json:
        return {"mask": np.packbits(self.mask.numpy()).tobytes().hex(), "d": len(self.mask)}


@dataclass(frozen=True)
class Pool(Constraint):
    """A constraint that fixes the means of k × k blocks of pixels: a low-resolution version of the image.

    Args:
        shape: (C, H, W) of an image; points are flat, d = C·H·W.
        factor: k, at least 2; it divides H and W.

    Raises:
        InputError (a ValueError): the factor does not divide the sides.

    Example:
        >>> import torch
        >>> Pool((1, 2, 4), 2).project(torch.arange(8.0)[None])
        tensor([[2.5000, 2.5000, 4.5000, 4.5000, 2.5000, 2.5000, 4.5000, 4.5000]])
    """

    shape: tuple[int, int, int]
    factor: int

    def __post_init__(self) -> None:
        try:
            C, H, W, k = (validate.positive_int("", v) for v in (*self.shape, self.factor))
        except (TypeError, ValueError):
            raise InputError(f"`frozen` must have a shape (C, H, W) and a factor that are integers, got {self!r}") from None
        object.__setattr__(self, "shape", (C, H, W))
        object.__setattr__(self, "factor", k)
        if k < 2 or H % k or W % k:
            raise InputError(f"`factor` must be at least 2 and divide both sides of the images of {H} × {W}, got {k}")

    @property
    def d(self) -> int | None:
        return math.prod(self.shape)

    @property
    def pooled_shape(self) -> tuple[int, int, int]:
        """(C, H / k, W / k)."""
        return self.shape[0], self.shape[1] // self.factor, self.shape[2] // self.factor

    def pool(self, x: Tensor) -> Tensor:
        """Return the means of the blocks of points (..., d), of shape (..., d / k²)."""
        return functional.avg_pool2d(x.reshape(-1, *self.shape), self.factor).reshape(*x.shape[:-1], -1)

    def unpool(self, means: Tensor) -> Tensor:
        """Return points (..., d) whose blocks are constant, from their means (..., d / k²)."""
        large = means.reshape(-1, *self.pooled_shape).repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return large.reshape(*means.shape[:-1], -1)

    def project(self, x: Tensor) -> Tensor:
        return self.unpool(self.pool(x))

    def restore(self, x: Tensor, c: Tensor) -> Tensor:
        return x.add_(self.project(c - x))

    def to_dict(self) -> Json:
        return {"pool": self.factor, "shape": list(self.shape)}


ConstraintLike: TypeAlias = int | Constraint
"""The argument `frozen`: a number of leading coordinates, or a `Mask` or `Pool`."""


def as_constraint(frozen: object, d: int) -> Constraint | None:
    """Return the constraint on points in R^d that `frozen` stands for, None for 0; or raise InputError or InputTypeError."""
    if isinstance(frozen, Constraint):
        if frozen.d not in (None, d):
            raise InputError(f"`frozen` must fit the points, which have d = {d}, got {frozen!r} with d = {frozen.d}")
        return frozen
    if not isinstance(frozen, (int, np.integer)) or isinstance(frozen, bool):
        raise InputTypeError(f"`frozen` must be a number of leading coordinates, a Mask or a Pool, got {type(frozen).__name__}")
    if not 0 <= frozen < d:
        raise InputError(f"`frozen` must be at least 0 and less than d = {d}, got {int(frozen)}")
    return FixedPrefix(int(frozen)) if frozen else None
