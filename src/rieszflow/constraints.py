"""What is known of a point, and never moves while the rest of it flows.

Pairs (condition, x) flow towards pairs (condition, data), and only x moves. The flow then ends in samples of the data given the
condition. A condition may be numbers that stand before x, such as a one-hot label. It may also be a part of x: some pixels of
an image, or the image with few large pixels. What is known is always an orthogonal projection of the point. Distances do not
depend on the basis, so this is the flow of pairs in a basis that begins with what is known.

Source: Hagemann, Hertrich, Altekrüger et al., Posterior Sampling Based on Gradient Flows of the MMD with Negative Distance
Kernel (ICLR 2024).
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
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Frozen", "Known", "Leading", "Mask", "Pool", "heard", "known"]


class Known(ABC):
    """An orthogonal projection of points in R^d, on what is known of them."""

    @property
    @abstractmethod
    def d(self) -> int | None:
        """Dimension of the points; None where any will do."""

    @abstractmethod
    def part(self, x: Tensor) -> Tensor:
        """What is known of points x (..., d). The rest is zero."""

    @abstractmethod
    def hold(self, v: Tensor) -> Tensor:
        """Velocities v (..., d) without their known part, in their own memory."""

    @abstractmethod
    def put(self, x: Tensor, c: Tensor) -> Tensor:
        """Points x (..., d) with the known part of c (..., d), in their own memory."""

    @abstractmethod
    def said(self) -> Json:
        """As JSON can say it; `heard` takes it."""


@dataclass(frozen=True)
class Leading(Known):
    """The first k numbers of a point."""

    k: int

    @property
    def d(self) -> int | None:
        return None

    def part(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[..., : self.k] = x[..., : self.k]
        return out

    def hold(self, v: Tensor) -> Tensor:
        v[..., : self.k] = 0
        return v

    def put(self, x: Tensor, c: Tensor) -> Tensor:
        x[..., : self.k] = c[..., : self.k]
        return x

    def said(self) -> Json:
        return {"leading": self.k}


class Mask(Known):
    """Some numbers of a point are known: pixels of an image.

    Args:
        mask: True where a number is known; bool, of the shape of a datum or flat; tensor or array. Not everything, and not
            nothing.

    Raises:
        InputError (a ValueError): all or nothing is known.
        InputTypeError (a TypeError): not of bool.

    Example:
        >>> import torch
        >>> left = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> left[..., :2] = True
        >>> Mask(left).part(torch.arange(16.0)[None])[0, :8].tolist()
        [0.0, 1.0, 0.0, 0.0, 4.0, 5.0, 0.0, 0.0]
    """

    def __init__(self, mask: Tensor | np.ndarray) -> None:
        if not isinstance(mask, (Tensor, np.ndarray)):
            raise InputTypeError(f"mask: {type(mask).__name__} given; a tensor or array of bool is accepted")
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool:
            raise InputTypeError(f"mask: dtype {mask.dtype} given; bool is accepted, True where a number is known")
        if mask.all() or not mask.any():
            raise InputError(f"mask: {'nothing' if not mask.any() else 'everything'} is known; some numbers are accepted")
        self.mask = mask.detach().cpu().flatten().clone()

    @property
    def d(self) -> int | None:
        return len(self.mask)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash(self.mask.numpy().tobytes())

    def __repr__(self) -> str:
        return f"Mask({int(self.mask.sum())} of {len(self.mask)} numbers)"

    def part(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.device)

    def hold(self, v: Tensor) -> Tensor:
        return v.masked_fill_(self.mask.to(v.device), 0)

    def put(self, x: Tensor, c: Tensor) -> Tensor:
        return x.copy_(torch.where(self.mask.to(x.device), c, x))

    def said(self) -> Json:
        return {"mask": np.packbits(self.mask.numpy()).tobytes().hex(), "d": len(self.mask)}


@dataclass(frozen=True)
class Pool(Known):
    """The means of k × k pixels are known: an image of few large pixels.

    Args:
        shape: (C, H, W) of an image; points are flat, d = C·H·W.
        factor: k, at least 2; it divides H and W.

    Raises:
        InputError (a ValueError): a factor that does not divide the sides.

    Example:
        >>> import torch
        >>> Pool((1, 2, 4), 2).part(torch.arange(8.0)[None])
        tensor([[2.5000, 2.5000, 4.5000, 4.5000, 2.5000, 2.5000, 4.5000, 4.5000]])
    """

    shape: tuple[int, int, int]
    factor: int

    def __post_init__(self) -> None:
        try:
            C, H, W, k = (validate.positive_int("", v) for v in (*self.shape, self.factor))
        except (TypeError, ValueError):
            raise InputError(f"frozen: {self!r} given; a shape (C, H, W) and a factor of whole numbers are accepted") from None
        object.__setattr__(self, "shape", (C, H, W))
        object.__setattr__(self, "factor", k)
        if k < 2 or H % k or W % k:
            raise InputError(
                f"frozen: pooling by {k} given for images of {H} × {W}; a factor of at least 2 that divides both is accepted"
            )

    @property
    def d(self) -> int | None:
        return math.prod(self.shape)

    @property
    def small(self) -> tuple[int, int, int]:
        """Shape of what is seen."""
        return self.shape[0], self.shape[1] // self.factor, self.shape[2] // self.factor

    def seen(self, x: Tensor) -> Tensor:
        """Points (..., d) pooled: (..., d / k²)."""
        return functional.avg_pool2d(x.reshape(-1, *self.shape), self.factor).reshape(*x.shape[:-1], -1)

    def spread(self, small: Tensor) -> Tensor:
        """Large pixels (..., d / k²) as points (..., d)."""
        large = small.reshape(-1, *self.small).repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return large.reshape(*small.shape[:-1], -1)

    def part(self, x: Tensor) -> Tensor:
        return self.spread(self.seen(x))

    def hold(self, v: Tensor) -> Tensor:
        return v.sub_(self.part(v))

    def put(self, x: Tensor, c: Tensor) -> Tensor:
        return x.add_(self.part(c - x))

    def said(self) -> Json:
        return {"pool": self.factor, "shape": list(self.shape)}


Frozen: TypeAlias = int | Known
"""What the argument `frozen` may be: a number of leading coordinates; or a `Mask` or `Pool`."""


def known(frozen: object, d: int) -> Known | None:
    """What is known of points in R^d; None for nothing.

    Raises:
        InputError (a ValueError): it does not fit the points, or leaves nothing to move.
        InputTypeError (a TypeError): neither a number nor a `Mask` or `Pool`.
    """
    if isinstance(frozen, Known):
        found = frozen
    elif isinstance(frozen, (int, np.integer)) and not isinstance(frozen, bool):
        if not 0 <= frozen < d:
            raise InputError(f"frozen: {int(frozen)} given for points with d = {d}; at least 0 and less than d are accepted")
        if frozen == 0:
            return None
        found = Leading(int(frozen))
    else:
        raise InputTypeError(
            f"frozen: {type(frozen).__name__} given; a number of leading coordinates, a Mask or a Pool is accepted"
        )
    if found.d not in (None, d):
        raise InputError(f"frozen: {found!r} given, for points with d = {found.d}; these have d = {d}")
    return found


def heard(said: Json) -> Known:
    """What `Known.said` returned. Raises KeyError, TypeError or ValueError for anything else."""
    if "leading" in said:
        return Leading(validate.positive_int("leading", said["leading"]))
    if "pool" in said:
        C, H, W = said["shape"]
        return Pool((C, H, W), said["pool"])
    d = validate.positive_int("d", said["d"])
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(said["mask"]), np.uint8))
    if not d <= len(bits) < d + 8:
        raise ValueError(f"a mask of {len(bits)} bits for {d} numbers")
    return Mask(torch.from_numpy(bits[:d].astype(bool)))
