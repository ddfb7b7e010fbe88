"""Radial kernels K(x, y) = k(‖x − y‖): value, derivative, and the one-dimensional basis function f of slicing.

To add a kernel, add a class here and a line in `tests/problems.py`. Exact functionals need `value` and `derivative`, sliced
ones `basis` and `basis_scale`.

References:
    Hertrich, Fast Kernel Summation in High Dimensions via Slicing and Fourier Transforms (2024), Table 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Gaussian", "InverseMultiquadric", "Kernel", "Laplace", "Matern", "Riesz", "check_kernel"]

_LARGE = 1e4  # exp(−t) is 0 from here on, whatever polynomial it is multiplied by
_HUGE = 1e300
Array: TypeAlias = npt.NDArray[np.float64]


class Kernel(ABC):
    """A radial kernel; subclasses are frozen dataclasses, which are equal if their parameters are."""

    @abstractmethod
    def value(self, rho: Tensor) -> Tensor:
        """Return k(ρ) for distances ρ ≥ 0 of any shape, float32 or float64."""

    @abstractmethod
    def derivative(self, rho: Tensor) -> Tensor:
        """Return `length` · k′(ρ) for distances ρ ≥ 0 as in `value`, and 0 at ρ = 0 even if the kernel has a kink there.

        It gives the gradient ∇ₓK(x, y) = k′(‖x − y‖) · (x − y)/‖x − y‖, so that coincident points do not move each other. The
        factor `length` keeps the numbers within range.
        """

    @property
    def degree(self) -> float | None:
        """The r with k(sρ) = s^r k(ρ) for all s > 0; None for a kernel with a length of its own."""
        return None

    @property
    def length(self) -> float:
        """The length of the kernel, σ or c, in the unit of the points; 1 for a kernel with a degree."""
        return 1.0

    @abstractmethod
    def basis(self, t: Array, d: int) -> Array:
        r"""Return the one-dimensional basis function f(t), for points in R^d and t ≥ 0 of any shape, float64.

        .. math:: k(\|x\|) = \mathbb{E}\, f(|\langle \xi, x \rangle|), \quad \xi \sim \mathcal{U}(S^{d-1})
        """

    def basis_scale(self, d: int) -> float | None:
        """Return the length over which f changes in R^d, a wavelength over 2π; None for a kernel with a degree."""
        return self.length / math.sqrt(d) if self.degree is None else None


def check_kernel(kernel: object) -> None:
    if not isinstance(kernel, Kernel):
        raise InputTypeError(
            "`kernel` must be Riesz(r), Gaussian(sigma), Laplace(sigma), InverseMultiquadric(c) or Matern(nu, sigma), "
            f"got {kernel!r}"
        )


@dataclass(frozen=True)
class Riesz(Kernel):
    r"""The Riesz kernel :math:`K(x, y) = -\|x - y\|^r`, conditionally positive definite; r = 1 gives the energy distance.

    Args:
        r: Exponent, in the open interval (0, 2).

    Example:
        >>> Riesz(1.0).value(torch.tensor([0.0, 3.0])).tolist()
        [-0.0, -3.0]
    """

    r: float = 1.0

    def __post_init__(self) -> None:
        r = validate.real(self.r)
        if not 0 < r < 2:
            raise InputError(f"`r` must be in the open interval (0, 2), got {self.r!r}")
        object.__setattr__(self, "r", r)

    @property
    def degree(self) -> float | None:
        return self.r

    def value(self, rho: Tensor) -> Tensor:
        return -(rho**self.r)

    def derivative(self, rho: Tensor) -> Tensor:
        return torch.where(rho > 0, -self.r * rho ** (self.r - 1), 0)

    def basis(self, t: Array, d: int) -> Array:
        return -self.basis_constant(d) * t**self.r

    def basis_constant(self, d: int) -> float:
        r"""Return the constant of the basis function :math:`f(t) = -c_{d,r}\, t^r` in R^d, which for r = 1 grows like √d.

        .. math:: c_{d,r} = \frac{\sqrt{\pi}\, \Gamma((d+r)/2)}{\Gamma(d/2)\, \Gamma((r+1)/2)}

        Example:
            >>> round(Riesz(1.0).basis_constant(2), 6) == round(math.pi / 2, 6)
            True

        References:
            Hertrich et al., Generative Sliced MMD Flows with Riesz Kernels (ICLR 2024), Theorem 1.
        """
        d, r = validate.positive_int("d", d), self.r
        return math.sqrt(math.pi) * math.exp(math.lgamma((d + r) / 2) - math.lgamma(d / 2) - math.lgamma((r + 1) / 2))


@dataclass(frozen=True)
class _SigmaKernel(Kernel):
    """A kernel with the length σ as its only parameter."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", validate.positive_float("sigma", self.sigma))

    @property
    def length(self) -> float:
        return self.sigma


class Gaussian(_SigmaKernel):
    r"""The Gaussian kernel :math:`K(x, y) = \exp(-\|x - y\|^2 / (2\sigma^2))`.

    Args:
        sigma: Length σ > 0, in the unit of the points.

    Example:
        >>> [round(v, 6) for v in Gaussian(2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.606531]
    """

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-0.5 * (rho / self.sigma) ** 2)

    def derivative(self, rho: Tensor) -> Tensor:
        u = (rho / self.sigma).clamp(max=_LARGE)
        return -u * torch.exp(-0.5 * u**2)

    def basis(self, t: Array, d: int) -> Array:
        """Return ₁F₁(d/2; 1/2; −t²/(2σ²))."""
        return _gaussian_basis(t / self.sigma, d)


class Laplace(_SigmaKernel):
    r"""The Laplace kernel :math:`K(x, y) = \exp(-\|x - y\| / \sigma)`.

    Args:
        sigma: Length σ > 0, in the unit of the points.

    Example:
        >>> [round(v, 6) for v in Laplace(2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.367879]
    """

    def value(self, rho: Tensor) -> Tensor:
        return torch.exp(-rho / self.sigma)

    def derivative(self, rho: Tensor) -> Tensor:
        return torch.where(rho > 0, -self.value(rho), 0)

    def basis(self, t: Array, d: int) -> Array:
        """Return E g_d(t / (σ|Z|)), a mixture of Gaussian basis functions g_d with Z standard normal."""
        return _student_basis(t / self.sigma, d, 1)


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    r"""The inverse multiquadric kernel :math:`K(x, y) = (1 + \|x - y\|^2 / c^2)^{-1/2}`.

    Args:
        c: Length c > 0, in the unit of the points.

    Example:
        >>> [round(v, 6) for v in InverseMultiquadric(3.0).value(torch.tensor([0.0, 4.0])).tolist()]
        [1.0, 0.6]
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", validate.positive_float("c", self.c))

    @property
    def length(self) -> float:
        return self.c

    def value(self, rho: Tensor) -> Tensor:
        u = rho / self.c
        return 1 / torch.hypot(torch.ones_like(u), u)

    def derivative(self, rho: Tensor) -> Tensor:
        u = (rho / self.c).clamp(max=_HUGE)
        root = torch.hypot(torch.ones_like(u), u)  # √(1 + u²), without overflow of u²
        return -(u / root) / root / root

    def basis(self, t: Array, d: int) -> Array:
        """Return (1 + t²/c²)^(−d/2): the mixture of ₁F₁(d/2; 1/2; −τ t²/c²) over τ ~ Γ(1/2)."""
        return (1 + (t / self.c) ** 2) ** (-d / 2)


@dataclass(frozen=True)
class Matern(Kernel):
    r"""The Matérn kernel, with K(x, x) = 1.

    With :math:`s = \sqrt{2\nu}\, \|x - y\| / \sigma` it is :math:`e^{-s}` for ν = 0.5, :math:`(1 + s)\, e^{-s}` for ν = 1.5,
    and :math:`(1 + s + s^2/3)\, e^{-s}` for ν = 2.5.

    Args:
        nu: Smoothness ν, one of 0.5, 1.5 and 2.5.
        sigma: Length σ > 0, in the unit of the points.

    Example:
        >>> [round(v, 6) for v in Matern(0.5, 2.0).value(torch.tensor([0.0, 2.0])).tolist()]
        [1.0, 0.367879]

    References:
        Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eq. 4.17.
    """

    nu: float = 1.5
    sigma: float = 1.0

    def __post_init__(self) -> None:
        nu = validate.real(self.nu)
        if nu not in (0.5, 1.5, 2.5):
            raise InputError(f"`nu` must be 0.5, 1.5 or 2.5, got {self.nu!r}")
        object.__setattr__(self, "nu", nu)
        object.__setattr__(self, "sigma", validate.positive_float("sigma", self.sigma))

    @property
    def length(self) -> float:
        return self.sigma

    def value(self, rho: Tensor) -> Tensor:
        s = self._scaled(rho)
        return {0.5: torch.ones_like(s), 1.5: 1 + s, 2.5: 1 + s + s**2 / 3}[self.nu] * torch.exp(-s)

    def derivative(self, rho: Tensor) -> Tensor:
        s = self._scaled(rho)
        polynomial = {0.5: torch.ones_like(s), 1.5: s, 2.5: s * (1 + s) / 3}[self.nu]
        return torch.where(rho > 0, -polynomial * torch.exp(-s) * math.sqrt(2 * self.nu), 0)

    def _scaled(self, rho: Tensor) -> Tensor:
        return (math.sqrt(2 * self.nu) * (rho / self.sigma)).clamp(max=_LARGE)

    def basis(self, t: Array, d: int) -> Array:
        """Return E g_d(t √(2ν) / (σ χ_2ν)), a mixture of Gaussian basis functions g_d."""
        return _student_basis(t / self.sigma, d, 2 * self.nu)


# A positive definite radial kernel is k(‖x‖) = E cos⟨ω, x⟩ for a radially distributed ω, so f(t) = E cos(R t) with R = ‖ω‖.

_END = 40.0  # beyond it the Gaussian's function is 0 for large d, and follows its asymptotic series for small d
_STUDENT_END = 1e6  # beyond it the function is below 1e-12
_STEP = 0.01


def _gaussian_basis(t: Array, d: int) -> Array:
    """Return g_d(t) = E cos(χ_d t) = ₁F₁(d/2; 1/2; −t²/2), the basis function of exp(−ρ²/2), for t ≥ 0 of any shape."""
    out = np.empty_like(t)
    near = t < _END
    out[near] = _interpolator(d)(t[near])
    out[~near] = _far(t[~near], d)
    return out


@lru_cache(maxsize=8)
def _interpolator(d: int) -> Callable[[Array], Array]:
    from scipy.interpolate import CubicSpline

    # Gauss–Legendre quadrature over the density of χ_d, exact up to rounding for phases below the number of nodes.
    low, high = max(0.0, math.sqrt(d) - 13), math.sqrt(d) + 13
    nodes, weights = np.polynomial.legendre.leggauss(800)
    R = 0.5 * (high - low) * (nodes + 1) + low
    density = np.exp((d - 1) * np.log(R) - R**2 / 2 - (d / 2 - 1) * math.log(2) - math.lgamma(d / 2))
    weights = 0.5 * (high - low) * weights * density
    t = np.linspace(0, _END, int(_END * max(200, 30 * math.sqrt(d))) + 1)
    values = np.concatenate([np.cos(np.outer(part, R)) @ weights for part in np.array_split(t, 64)])
    spline: Callable[[Array], Array] = CubicSpline(t, values)
    return spline


def _far(t: Array, d: int) -> Array:
    """Return √π/Γ((1 − d)/2) z^(−d/2) Σ (d/2)_k ((d + 1)/2)_k / k! z^(−k) with z = t²/2 (DLMF 13.7.2), which is 0 for odd d."""
    if d % 2 or d > 60:
        return np.zeros_like(t)
    z = t**2 / 2
    term, total = np.ones_like(z), np.ones_like(z)
    for k in range(4):
        term = term * ((d / 2 + k) * ((d + 1) / 2 + k) / (k + 1)) / z
        total += term
    return math.sqrt(math.pi) / math.gamma((1 - d) / 2) * z ** (-d / 2) * total


def _student_basis(t: Array, d: int, dof: float) -> Array:
    """Return E g_d(t √dof / χ_dof), interpolated within 1e-8: the basis function of the Matérn kernel of smoothness dof/2.

    For it, ω has Student's distribution. With dof = 1 it is the Laplace kernel, exp(−ρ).
    """
    out = np.zeros_like(t)
    near = t < _STUDENT_END
    out[near] = _student_interpolator(d, dof)(np.arcsinh(t[near] * math.sqrt(d)))
    return out


@lru_cache(maxsize=32)
def _student_interpolator(d: int, dof: float) -> Callable[[Array], Array]:
    from scipy.interpolate import make_interp_spline

    # f changes over a length of 1/√d near 0, and over longer ones further out.
    z = np.arange(0, math.asinh(_STUDENT_END * math.sqrt(d)) + _STEP, _STEP)
    spline: Callable[[Array], Array] = make_interp_spline(z, _student_by_quadrature(np.sinh(z) / math.sqrt(d), d, dof), k=5)
    return spline


def _student_by_quadrature(t: Array, d: int, dof: float) -> Array:
    """Compute `student` by quadrature, which takes a second for a few thousand points."""
    # With χ_dof = e^s the integrand is smooth and falls like e^(dof·s) to the left; the step of the trapezoidal rule
    # resolves the oscillation of g_d, at most 8√d radians in a unit of s.
    s = np.arange(-36 / dof, 2.5, 1 / (20 + 3 * math.sqrt(d)))
    weights = np.exp(dof * s - np.exp(2 * s) / 2)
    weights /= weights.sum()
    scales = math.sqrt(dof) * np.exp(-s)
    out = np.concatenate([_gaussian_basis(part[:, None] * scales, d) @ weights for part in np.array_split(np.ravel(t), 64)])
    return out.reshape(t.shape)
