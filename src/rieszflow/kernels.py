"""Radial kernels K(x, y) = k(‖x − y‖): value, derivative, and their one-dimensional slices.

Adding a kernel is adding one class here: the exact functionals need `value` and `derivative`, the sliced ones
`slice_values` and `slice_scale`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow import _slices, _validate
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Gaussian", "InverseMultiquadric", "Kernel", "Laplace", "Matern", "Riesz"]


class Kernel(ABC):
    """A radial kernel. Frozen dataclasses: equal when their parameters are."""

    @abstractmethod
    def value(self, rho: Tensor) -> Tensor:
        """k(ρ) for distances ρ ≥ 0 of any shape."""

    @abstractmethod
    def derivative(self, rho: Tensor) -> Tensor:
        """`length` · k′(ρ); 0 at ρ = 0, also where the kernel has a kink there. ∇ₓK(x, y) = k′(‖x − y‖)·(x − y)/‖x − y‖."""

    @property
    def degree(self) -> float | None:
        """r with k(sρ) = s^r k(ρ); None for a kernel that has a length of its own."""
        return None

    @property
    def length(self) -> float:
        """The kernel's own length, σ or c; 1 for a kernel that has a degree."""
        return 1.0

    @abstractmethod
    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        """f(t) for t ≥ 0, float64 of any shape, with k(‖x‖) = E f(⟨ξ, x⟩), ξ uniform on the unit sphere of R^d."""

    @abstractmethod
    def slice_scale(self, d: int) -> float | None:
        """Length over which f changes in R^d, a wave length over 2π; None where it has none (Riesz)."""


_NOTHING = 1e4  # exp(−t) is 0 from here on, whatever polynomial stands before it
_HUGE = 1e300


def check_kernel(kernel: object) -> None:
    if not isinstance(kernel, Kernel):
        raise InputTypeError(
            f"kernel: {kernel!r} given; Riesz(r), Gaussian(sigma), Laplace(sigma), InverseMultiquadric(c) "
            "or Matern(nu, sigma) are accepted"
        )


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
        r = _validate.number(self.r)
        if not 0 < r < 2:
            raise InputError(f"r: {self.r!r} given; a number in the open interval (0, 2) is accepted")
        object.__setattr__(self, "r", r)

    def value(self, rho: Tensor) -> Tensor:
        return -(rho**self.r)

    def derivative(self, rho: Tensor) -> Tensor:
        return _where_positive(rho, -self.r * rho ** (self.r - 1))

    @property
    def degree(self) -> float | None:
        return self.r

    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        return -self.slicing_constant(d) * t**self.r

    def slice_scale(self, d: int) -> float | None:
        return None

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
        object.__setattr__(self, "sigma", _validate.positive_float("sigma", self.sigma))

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-0.5 * (rho / self.sigma) ** 2)

    def derivative(self, rho: Tensor) -> Tensor:
        u = (rho / self.sigma).clamp(max=_NOTHING)
        return -u * torch.exp(-0.5 * u**2)

    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        """₁F₁(d/2; 1/2; −t²/(2σ²)) (Hertrich 2024, Table 1)."""
        return _slices.gaussian(t / self.sigma, d)

    def slice_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma


@dataclass(frozen=True)
class Laplace(Kernel):
    """Laplace kernel exp(−‖x − y‖ / σ), `sigma` in the unit of the points."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _validate.positive_float("sigma", self.sigma))

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-rho / self.sigma)

    def derivative(self, rho: Tensor) -> Tensor:
        return _where_positive(rho, -self.value(rho))

    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        """The mixture E g_d(t / (σ|Z|)) of Gaussian slices g_d, Z standard normal (Hertrich 2024, Table 1, for a series)."""
        return _slices.student(t / self.sigma, d, 1)

    def slice_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """Inverse multiquadric kernel (1 + ‖x − y‖²/c²)^(−1/2), `c` in the unit of the points."""

    c: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", _validate.positive_float("c", self.c))

    def value(self, rho: Tensor) -> Tensor:
        return 1 / self._root(rho / self.c)

    def derivative(self, rho: Tensor) -> Tensor:
        u = (rho / self.c).clamp(max=_HUGE)
        root = self._root(u)
        return -(u / root) / root / root

    @staticmethod
    def _root(u: Tensor) -> Tensor:
        """√(1 + u²), whose square may be too large a number."""
        return torch.hypot(torch.ones_like(u), u)

    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        """(1 + t²/c²)^(−d/2): the mixture of ₁F₁(d/2; 1/2; −τ t²/c²) over τ ~ Γ(1/2) is ₂F₁(d/2, 1/2; 1/2; −t²/c²)."""
        return (1 + (t / self.c) ** 2) ** (-d / 2)

    def slice_scale(self, d: int) -> float | None:
        return self.c / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.c


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
        nu = _validate.number(self.nu)
        if nu not in (0.5, 1.5, 2.5):
            raise InputError(f"nu: {self.nu!r} given; 0.5, 1.5 and 2.5 are accepted")
        object.__setattr__(self, "nu", nu)
        object.__setattr__(self, "sigma", _validate.positive_float("sigma", self.sigma))

    def value(self, rho: Tensor) -> Tensor:
        s = self._lengths(rho)
        polynomial = {0.5: torch.ones_like(s), 1.5: 1 + s, 2.5: 1 + s + s**2 / 3}[self.nu]
        return polynomial * torch.exp(-s)

    def derivative(self, rho: Tensor) -> Tensor:
        s = self._lengths(rho)
        polynomial = {0.5: torch.ones_like(s), 1.5: s, 2.5: s * (1 + s) / 3}[self.nu]
        return _where_positive(rho, -polynomial * torch.exp(-s) * math.sqrt(2 * self.nu))

    def _lengths(self, rho: Tensor) -> Tensor:
        return (math.sqrt(2 * self.nu) * (rho / self.sigma)).clamp(max=_NOTHING)

    def slice_values(self, t: np.ndarray, d: int) -> np.ndarray:
        """The mixture E g_d(t √(2ν) / (σ χ_2ν)) of Gaussian slices g_d (Hertrich 2024, Table 1, for a series)."""
        return _slices.student(t / self.sigma, d, 2 * self.nu)

    def slice_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma
