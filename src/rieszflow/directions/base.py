"""The contract of directions: P points on the unit sphere, and the two maps that engines need.

The words, here and everywhere: a *direction* is a point ξ on the unit sphere. A *slice* is what one sees along it: the numbers
⟨ξ, x_i⟩ of a cloud. The *part* of some directions is a run of consecutive ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Directions", "Draw"]


class Directions(ABC):
    """P directions ξ_1, …, ξ_P in R^d, of one dtype and device.

    A kind with a dense matrix is `dense.Dense`. A structured kind is a subclass of its own: see `hadamard.py` and `local.py`.
    A subclass sets both attributes.

    Attributes:
        P: number of directions.
        n: dimension in which they are uniform on the sphere. The constant of slicing is the one of R^n: n is not d where
            points are padded (hadamard) or cut into patches (local).
    """

    P: int
    n: int

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """The projections ⟨ξ_p, (x_i − shift)·scale⟩.

        Args:
            x: points (..., N, d), dtype and device of the directions.
            shift: (..., 1, d), subtracted from the points first. None: `x` is projected as it is, without `scale` too.
            scale: factor of the points, a power of two.

        Returns:
            (..., P, N): a row of numbers for every direction.
        """
        return self._project(x if shift is None else (x - shift) * scale)

    @abstractmethod
    def _project(self, x: Tensor) -> Tensor:
        """⟨ξ_p, x_i⟩ for points x (..., N, d): shape (..., P, N)."""

    @abstractmethod
    def adjoint(self, g: Tensor) -> Tensor:
        """The sums Σ_p g_pi ξ_p: from numbers along the directions back to points.

        Args:
            g: (..., P, N), dtype and device of the directions.

        Returns:
            (..., N, d), without any factor for `shift` or `scale`.
        """

    @abstractmethod
    def split(self, size: int) -> Sequence[Directions]:
        """The same directions in consecutive parts of at most `size`; parts never share a direction.

        Their projections, one below the other, are those of the whole. Their adjoints add up to that of the whole. A kind that
        cannot be cut so small may give larger parts.
        """

    @abstractmethod
    def to_float32(self) -> Directions:
        """The same directions in float32."""


class Draw(Protocol):
    """How directions of a kind are drawn. A kind is a function of this type, or an object that has one as its `sample`."""

    def __call__(self, P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Directions:
        """Draws P directions in R^d.

        Random numbers come from the generator's own device and do not depend on `like`. So a seed means the same directions in
        float32 and float64, and on every device.

        Args:
            P: number of directions, at least 1.
            d: dimension of the points, at least 1.
            like: a tensor whose dtype and device the directions get.
            generator: where random numbers come from; None for torch's default generator of the CPU.
        """
