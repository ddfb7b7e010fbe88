"""Radial kernels K(x, y) = k(‖x − y‖): value, slope, and the constant of slicing.

Adding a kernel is adding one class here: `value` and `slope` are all that the exact functionals need.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow import _validate

__all__ = ["Gaussian", "InverseMultiquadric", "Kernel", "Laplace", "Matern", "Riesz"]


class Kernel(ABC):
    """A radial kernel. Frozen dataclasses: equal when their parameters are."""

    @abstractmethod
    def value(self, rho: Tensor) -> Tensor:
        """k(ρ) for distances ρ ≥ 0 of any shape."""

    @abstractmethod
    def slope(self, rho: Tensor) -> Tensor:
        """k′(ρ)/ρ, so that ∇ₓK(x, y) = slope(‖x − y‖)·(x − y); 0 at ρ = 0 where the kernel has a kink there."""


def _where_positive(rho: Tensor, value: Tensor) -> Tensor:
    """`value`, but 0 at ρ = 0: coincident points exert no force (sign(0) = 0, the mid-rank convention)."""
    return torch.where(rho > 0, value, torch.zeros_like(value))


@dataclass(frozen=True)
class Riesz(Kernel):
    """Riesz kernel K(x, y) = −‖x − y‖^r, 0 < r < 2 (r = 1: the energy distance's).

    Conditionally positive definite, scale-equivariant: scaling all points by s scales D² by s^r.

    Raises:
        ValueError: r is not in the open interval (0, 2).

    Example:
        >>> Riesz(1.0).value(torch.tensor([0.0, 3.0])).tolist()
        [-0.0, -3.0]
    """

    r: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, (int, float)) or not 0 < self.r < 2:
            raise ValueError(f"r: {self.r!r} given; a number in the open interval (0, 2) is accepted")

    def value(self, rho: Tensor) -> Tensor:
        return -(rho**self.r)

    def slope(self, rho: Tensor) -> Tensor:
        return _where_positive(rho, -self.r * rho ** (self.r - 2))

    def slicing_constant(self, d: int) -> float:
        """c_{d,r} with ‖z‖^r = c_{d,r} · E_ξ|⟨ξ, z⟩|^r, ξ uniform on the unit sphere of R^d (paper, Theorem 1).

        c_{d,r} = √π Γ((d+r)/2) / (Γ(d/2) Γ((r+1)/2)); grows like √d for r = 1.

        Example:
            >>> round(Riesz(1.0).slicing_constant(2), 6) == round(math.pi / 2, 6)
            True
        """
        d = _validate.positive_int("d", d)
        log = math.lgamma((d + self.r) / 2) - math.lgamma(d / 2) - math.lgamma((self.r + 1) / 2)
        return math.sqrt(math.pi) * math.exp(log)


@dataclass(frozen=True)
class Gaussian(Kernel):
    """Gaussian kernel exp(−‖x − y‖² / (2σ²)), `sigma` in the unit of the points."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _validate.positive_float("sigma", self.sigma)

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-0.5 * (rho / self.sigma) ** 2)

    def slope(self, rho: Tensor) -> Tensor:
        return -self.value(rho) / self.sigma**2


@dataclass(frozen=True)
class Laplace(Kernel):
    """Laplace kernel exp(−‖x − y‖ / σ), `sigma` in the unit of the points."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _validate.positive_float("sigma", self.sigma)

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-rho / self.sigma)

    def slope(self, rho: Tensor) -> Tensor:
        return _where_positive(rho, -self.value(rho) / (self.sigma * rho))


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """Inverse multiquadric kernel (1 + ‖x − y‖²/c²)^(−1/2), `c` in the unit of the points."""

    c: float = 1.0

    def __post_init__(self) -> None:
        _validate.positive_float("c", self.c)

    def value(self, rho: Tensor) -> Tensor:
        return (1 + (rho / self.c) ** 2) ** -0.5

    def slope(self, rho: Tensor) -> Tensor:
        return -((1 + (rho / self.c) ** 2) ** -1.5) / self.c**2


@dataclass(frozen=True)
class Matern(Kernel):
    """Matérn kernel of smoothness `nu` in {0.5, 1.5, 2.5} and length `sigma`, with K(x, x) = 1.

    With s = √(2ν) ρ/σ: exp(−s), (1 + s) exp(−s), (1 + s + s²/3) exp(−s). Source: Rasmussen & Williams,
    Gaussian Processes for Machine Learning (2006), eq. 4.17.

    Raises:
        ValueError: nu is none of the three, or sigma is not positive.
    """

    nu: float = 1.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu: {self.nu!r} given; 0.5, 1.5 and 2.5 are accepted")
        _validate.positive_float("sigma", self.sigma)

    def value(self, rho: Tensor) -> Tensor:
        s = math.sqrt(2 * self.nu) * rho / self.sigma
        polynomial = {0.5: torch.ones_like(s), 1.5: 1 + s, 2.5: 1 + s + s**2 / 3}[self.nu]
        return polynomial * torch.exp(-s)

    def slope(self, rho: Tensor) -> Tensor:
        a = math.sqrt(2 * self.nu) / self.sigma
        s = a * rho
        if self.nu == 0.5:
            return _where_positive(rho, -a * torch.exp(-s) / rho)
        factor = torch.ones_like(s) if self.nu == 1.5 else (1 + s) / 3
        return -(a**2) * factor * torch.exp(-s)
