"""The contract of directions, and the kinds of directions that are stored as a dense matrix.

A *direction* is a point ξ on the unit sphere. The *slice* along it is the row of projections ⟨ξ, x_i⟩ of a cloud.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from rieszflow._infra.numerics import to_device
from rieszflow.errors import InputError


class Directions(ABC):
    """P directions ξ_1, …, ξ_P in R^d, of one dtype and device.

    They are uniform on the sphere in R^n, which determines the constant of slicing. n differs from d if points are zero-padded
    (`HadamardDirections`) or cut into patches (`PatchDirections`).
    """

    P: int
    n: int

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float | Tensor = 1.0) -> Tensor:
        """Return the projections ⟨ξ_p, (x_i − shift)·scale⟩ (..., P, N) of points (..., N, d); without shift, ⟨ξ_p, x_i⟩.

        The shift is an origin (..., 1, d), the scale a power of two.
        """
        return self._project(x if shift is None else (x - shift) * scale)

    @abstractmethod
    def _project(self, x: Tensor) -> Tensor:
        """Return ⟨ξ_p, x_i⟩ of shape (..., P, N) for points x of shape (..., N, d)."""

    @abstractmethod
    def adjoint(self, g: Tensor) -> Tensor:
        """Return the sums Σ_p g_pi ξ_p of shape (..., N, d) for g of shape (..., P, N)."""

    @abstractmethod
    def split(self, size: int) -> Sequence[Directions]:
        """Split into consecutive parts of at most `size` directions; kinds made of blocks may return larger parts."""

    @abstractmethod
    def to_float32(self) -> Directions:
        """Return the same directions in float32."""


Sampler: TypeAlias = Callable[[int, int, Tensor, torch.Generator], Directions]
"""A function (P, d, like, generator) that draws P directions in R^d with the dtype and device of the tensor `like`.

Random numbers do not depend on `like`, so that a seed means the same directions for all dtypes and devices.
"""


class DenseDirections(Directions):
    """Directions stored as the rows of a matrix `xi` of shape (P, d)."""

    def __init__(self, xi: Tensor) -> None:
        self.xi = xi
        self.P, self.n = xi.shape

    def _project(self, x: Tensor) -> Tensor:
        return torch.matmul(self.xi, x.transpose(-1, -2))

    def adjoint(self, g: Tensor) -> Tensor:
        return torch.matmul(g.transpose(-1, -2), self.xi)

    def split(self, size: int) -> list[DenseDirections]:
        return [DenseDirections(part) for part in self.xi.split(size)]

    def to_float32(self) -> DenseDirections:
        return DenseDirections(self.xi.float())


def independent(P: int, d: int, like: Tensor, generator: torch.Generator) -> DenseDirections:
    """Draw independent directions, uniform on the sphere: normalised Gaussian vectors."""
    xi = torch.randn(P, d, generator=generator, device=generator.device, dtype=torch.float32)
    return DenseDirections(to_device(torch.nn.functional.normalize(xi, dim=1), like.device).to(like))


def orthogonal(P: int, d: int, like: Tensor, generator: torch.Generator) -> DenseDirections:
    """Draw blocks of d orthogonal directions, each block from the Haar measure.

    The squared projections of any z on a block sum to ‖z‖², so the error is smaller than that of P independent directions, most
    of all if P is a multiple of d.

    References:
        Mezzadri, How to Generate Random Matrices from the Classical Compact Groups, Notices of the AMS 54 (2007).
    """
    blocks = []
    for start in range(0, P, d):
        shape = d, min(d, P - start)
        q, r = torch.linalg.qr(torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32))
        blocks.append((q * r.diagonal().sign()).T)
    return DenseDirections(to_device(torch.cat(blocks), like.device).to(like))


def sobol(P: int, d: int, like: Tensor, generator: torch.Generator) -> DenseDirections:
    """Draw quasi-Monte-Carlo directions: scrambled Sobol points mapped through the normal quantile function and normalised.

    They are best for small d and P a power of two.

    References:
        Hertrich, Jahn and Quellmalz, Fast Summation of Radial Kernels via QMC Slicing (ICLR 2025).
    """
    limit = torch.quasirandom.SobolEngine.MAXDIM
    if d > limit:
        raise InputError(f"`directions` must not be 'sobol' for points of dimension d > {limit}, got d = {d}")
    return DenseDirections(
        to_device(torch.nn.functional.normalize(sobol_normals(P, d, generator), dim=1), like.device).to(like)
    )


def sobol_normals(n: int, d: int, generator: torch.Generator | None) -> Tensor:
    """Return scrambled Sobol points mapped through the normal quantile function (n, d), float64 on the CPU.

    Beyond the dimension of Sobol points, 21,201, they are independent.
    """
    if d > torch.quasirandom.SobolEngine.MAXDIM:
        return torch.randn(n, d, generator=generator, dtype=torch.float64)
    device = "cpu" if generator is None else generator.device
    seed = torch.randint(2**31, (), generator=generator, device=device).item()
    engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=int(seed))
    # The engine rounds its first point to torch's current default dtype; recompute it in float32.
    first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT
    u = engine.draw(n, dtype=torch.float64)
    u[:1] = first
    normals: Tensor = torch.special.ndtri(u.clamp(2.0**-40, 1 - 2.0**-40))
    return normals
