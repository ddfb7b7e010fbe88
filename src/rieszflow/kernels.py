"""Radial kernels K(x, y) = k(‖x − y‖): value, derivative, and the one-dimensional basis function.

Slicing writes a radial kernel as a mean over directions ξ, uniform on the unit sphere of R^d:

    k(‖x‖) = E f(|⟨ξ, x⟩|)

f is the kernel's one-dimensional basis function. It depends on d.
Source of the name and of the formulas: Hertrich, Fast Kernel Summation in High Dimensions via Slicing and Fourier
Transforms (2024).

Adding a kernel is adding one class here, and one line in `tests/problems.py`. Brute force needs `value` and `derivative`.
Sliced functionals need `basis` and `basis_scale`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow import _basis
from rieszflow._basis import Array
from rieszflow._infra import validate
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Gaussian", "InverseMultiquadric", "Kernel", "Laplace", "Matern", "Riesz"]


class Kernel(ABC):
    """A radial kernel. Subclasses are frozen dataclasses: two kernels are equal when their parameters are."""

    @abstractmethod
    def value(self, rho: Tensor) -> Tensor:
        """k(ρ).

        Args:
            rho: distances ρ ≥ 0, of any shape; float32 or float64.
        """

    @abstractmethod
    def derivative(self, rho: Tensor) -> Tensor:
        """`length` · k′(ρ), and 0 at ρ = 0, also where the kernel has a kink there.

        It gives the gradient by x: ∇ₓK(x, y) = k′(‖x − y‖) · (x − y)/‖x − y‖. The factor `length` keeps numbers of very
        short and very long kernels within range.

        Args:
            rho: distances ρ ≥ 0, of any shape; float32 or float64.
        """

    @property
    def degree(self) -> float | None:
        """r where k(sρ) = s^r k(ρ) for all s > 0. None for a kernel with a length of its own."""
        return None

    @property
    def length(self) -> float:
        """The kernel's own length, σ or c, in the unit of the points. 1 for a kernel with a degree."""
        return 1.0

    @abstractmethod
    def basis(self, t: Array, d: int) -> Array:
        """The one-dimensional basis function f(t), with `k(‖x‖) = E f(|⟨ξ, x⟩|)` for ξ uniform on the unit sphere of R^d.

        Args:
            t: numbers t ≥ 0, of any shape; float64.
            d: dimension of the points.
        """

    @abstractmethod
    def basis_scale(self, d: int) -> float | None:
        """Length over which f changes in R^d: a wave length over 2π. None where f has no such length (Riesz)."""


_NOTHING = 1e4  # exp(−t) is 0 from here on, whatever polynomial stands before it
_HUGE = 1e300


def check_kernel(kernel: object) -> None:
    """Refuses, as `kernel`, what is no kernel."""
    if not isinstance(kernel, Kernel):
        raise InputTypeError(
            f"kernel: {kernel!r} given; Riesz(r), Gaussian(sigma), Laplace(sigma), InverseMultiquadric(c) "
            "or Matern(nu, sigma) are accepted"
        )


def _where_positive(rho: Tensor, value: Tensor) -> Tensor:
    """`value`, but 0 at ρ = 0: two points in one place do not move each other (as sign(0) = 0 on the line)."""
    return torch.where(rho > 0, value, torch.zeros_like(value))


@dataclass(frozen=True)
class Riesz(Kernel):
    """Riesz kernel K(x, y) = −‖x − y‖^r. With r = 1 it is the kernel of the energy distance.

    It is conditionally positive definite. Scaling all points by s scales D² by s^r.

    Args:
        r: exponent, in the open interval (0, 2).

    Raises:
        InputError (a ValueError): r is not in the open interval (0, 2).

    Example:
        >>> Riesz(1.0).value(torch.tensor([0.0, 3.0])).tolist()
        [-0.0, -3.0]
    """

    r: float = 1.0

    def __post_init__(self) -> None:
        r = validate.real(self.r)
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

    def basis(self, t: Array, d: int) -> Array:
        return -self.basis_constant(d) * t**self.r

    def basis_scale(self, d: int) -> float | None:
        return None

    def basis_constant(self, d: int) -> float:
        """c_{d,r} in f(t) = −c_{d,r} t^r: `‖z‖^r = c_{d,r} · E|⟨ξ, z⟩|^r` for ξ uniform on the unit sphere of R^d.

        c_{d,r} = √π Γ((d+r)/2) / (Γ(d/2) Γ((r+1)/2)). For r = 1 it grows like √d. Source: paper, Theorem 1.

        Args:
            d: dimension of the points, at least 1.

        Raises:
            InputError (a ValueError): d is no whole number of at least 1.

        Example:
            >>> round(Riesz(1.0).basis_constant(2), 6) == round(math.pi / 2, 6)
            True
        """
        d = validate.positive_int("d", d)
        log = math.lgamma((d + self.r) / 2) - math.lgamma(d / 2) - math.lgamma((self.r + 1) / 2)
        return math.sqrt(math.pi) * math.exp(log)


@dataclass(frozen=True)
class Gaussian(Kernel):
    """Gaussian kernel exp(−‖x − y‖² / (2σ²)).

    Args:
        sigma: length σ > 0, in the unit of the points.

    Raises:
        InputError (a ValueError): sigma is not positive and finite.

    Example:
        >>> [round(v, 6) for v in Gaussian(2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.606531]
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", validate.positive_float("sigma", self.sigma))

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-0.5 * (rho / self.sigma) ** 2)

    def derivative(self, rho: Tensor) -> Tensor:
        u = (rho / self.sigma).clamp(max=_NOTHING)
        return -u * torch.exp(-0.5 * u**2)

    def basis(self, t: Array, d: int) -> Array:
        """₁F₁(d/2; 1/2; −t²/(2σ²)) (Hertrich 2024, Table 1)."""
        return _basis.gaussian(t / self.sigma, d)

    def basis_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma


@dataclass(frozen=True)
class Laplace(Kernel):
    """Laplace kernel exp(−‖x − y‖ / σ).

    Args:
        sigma: length σ > 0, in the unit of the points.

    Raises:
        InputError (a ValueError): sigma is not positive and finite.

    Example:
        >>> [round(v, 6) for v in Laplace(2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.367879]
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", validate.positive_float("sigma", self.sigma))

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-rho / self.sigma)

    def derivative(self, rho: Tensor) -> Tensor:
        return _where_positive(rho, -self.value(rho))

    def basis(self, t: Array, d: int) -> Array:
        """E g_d(t / (σ|Z|)), a mixture of Gaussian basis functions g_d; Z is standard normal (Hertrich 2024, Table 1)."""
        return _basis.student(t / self.sigma, d, 1)

    def basis_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """Inverse multiquadric kernel (1 + ‖x − y‖²/c²)^(−1/2).

    Args:
        c: length c > 0, in the unit of the points.

    Raises:
        InputError (a ValueError): c is not positive and finite.

    Example:
        >>> [round(v, 6) for v in InverseMultiquadric(3.0).value(torch.tensor([0.0, 4.0])).tolist()]
        [1.0, 0.6]
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", validate.positive_float("c", self.c))

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

    def basis(self, t: Array, d: int) -> Array:
        """(1 + t²/c²)^(−d/2): the mixture of ₁F₁(d/2; 1/2; −τ t²/c²) over τ ~ Γ(1/2) is ₂F₁(d/2, 1/2; 1/2; −t²/c²)."""
        return (1 + (t / self.c) ** 2) ** (-d / 2)

    def basis_scale(self, d: int) -> float | None:
        return self.c / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.c


@dataclass(frozen=True)
class Matern(Kernel):
    """Matérn kernel, with K(x, x) = 1.

    With s = √(2ν) ‖x − y‖/σ it is exp(−s) for ν = 0.5, (1 + s) exp(−s) for ν = 1.5, and (1 + s + s²/3) exp(−s) for ν = 2.5.

    Args:
        nu: smoothness ν, one of 0.5, 1.5 and 2.5.
        sigma: length σ > 0, in the unit of the points.

    Raises:
        InputError (a ValueError): nu is none of the three, or sigma is not positive and finite.

    Example:
        >>> [round(v, 6) for v in Matern(0.5, 2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.367879]

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eq. 4.17.
    """

    nu: float = 1.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        nu = validate.real(self.nu)
        if nu not in (0.5, 1.5, 2.5):
            raise InputError(f"nu: {self.nu!r} given; 0.5, 1.5 and 2.5 are accepted")
        object.__setattr__(self, "nu", nu)
        object.__setattr__(self, "sigma", validate.positive_float("sigma", self.sigma))

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

    def basis(self, t: Array, d: int) -> Array:
        """E g_d(t √(2ν) / (σ χ_2ν)), a mixture of Gaussian basis functions g_d (Hertrich 2024, Table 1)."""
        return _basis.student(t / self.sigma, d, 2 * self.nu)

    def basis_scale(self, d: int) -> float | None:
        return self.sigma / math.sqrt(d)

    @property
    def length(self) -> float:
        return self.sigma
