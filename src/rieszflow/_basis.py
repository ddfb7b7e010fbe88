"""One-dimensional basis functions f of positive definite radial kernels; see `Kernel.basis`.

Such a kernel is k(‖x‖) = E cos⟨ω, x⟩ for a radially distributed ω, so f(t) = E cos(R t) with R = ‖ω‖. For the Gaussian kernel
of width 1, R ~ χ_d. The other kernels are mixtures of Gaussians over their widths, and so are their basis functions.

References:
    Hertrich, Fast Kernel Summation in High Dimensions via Slicing and Fourier Transforms (2024), Table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

_END = 40.0  # beyond it the Gaussian's function is 0 for large d, and follows its asymptotic series for small d
_STUDENT_END = 1e6  # beyond it the function is below 1e-12
_STEP = 0.01


def gaussian(t: Array, d: int) -> Array:
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
    lead = math.sqrt(math.pi) * _reciprocal_gamma((1 - d) / 2)
    term, total = np.ones_like(z), np.ones_like(z)
    for k in range(4):
        term = term * ((d / 2 + k) * ((d + 1) / 2 + k) / (k + 1)) / z
        total += term
    return lead * z ** (-d / 2) * total


def _reciprocal_gamma(v: float) -> float:
    """Return 1/Γ(v) for v = ½, −½, −3/2, …"""
    value = 1 / math.sqrt(math.pi)
    while v < 0.4:
        value *= v
        v += 1
    return value


def student(t: Array, d: int, dof: float) -> Array:
    """Return E g_d(t √dof / χ_dof), interpolated within 1e-8: the basis function of the Matérn kernel of smoothness dof/2.

    Its ω has Student's distribution. With dof = 1 the kernel is exp(−ρ), the Laplace kernel.
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
    spline: Callable[[Array], Array] = make_interp_spline(z, _student(np.sinh(z) / math.sqrt(d), d, dof), k=5)
    return spline


def _student(t: Array, d: int, dof: float) -> Array:
    """Compute `student` by quadrature, which takes a second for a few thousand points."""
    # With χ_dof = e^s the integrand is smooth and falls like e^(dof·s) to the left; the step of the trapezoidal rule
    # resolves the oscillation of g_d, at most 8√d radians in a unit of s.
    s = np.arange(-36 / dof, 2.5, 1 / (20 + 3 * math.sqrt(d)))
    weights = np.exp(dof * s - np.exp(2 * s) / 2)
    weights /= weights.sum()
    flat = np.ravel(t)
    scales = math.sqrt(dof) * np.exp(-s)
    out = np.concatenate([gaussian(part[:, None] * scales, d) @ weights for part in np.array_split(flat, 64)])
    return out.reshape(t.shape)
