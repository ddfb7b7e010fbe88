"""Brute force, O(NM) time and O(N·d) memory: the reference that everything else is tested against.

Everything is made of two sums over the points of one cloud, taken in chunks and in float64 whatever the input's dtype:
the potential Σ_j b_j K(x, y_j) and its gradient by x. The autograd rules are the analytic ones, so no graph over N × M
pairs is ever kept and derivatives at coincident points are finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["energy_distance", "mmd2", "mmd2_gradient"]

_PAIRS = 1 << 22  # pairs of points in one chunk: 32 MB of float64 an array
_CLOSE = 1e-6  # squared distances below this share of ‖x‖² + ‖y‖² are recomputed from differences


def mmd2(
    x: Any, y: Any, kernel: Kernel = Riesz(1.0), statistic: str = "V", x_weights: Any = None, y_weights: Any = None
) -> Any:
    """Squared MMD in the paper's convention, D² = ½ ∬ K d(μ − ν) d(μ − ν), by brute force.

    For the Riesz kernel −‖x − y‖^r this is E‖X−Y‖^r − ½E‖X−X′‖^r − ½E‖Y−Y′‖^r: **half** the statisticians' energy
    distance (`energy_distance`). For the other kernels it is likewise half of the usual E K(X,X′) + E K(Y,Y′) − 2E K(X,Y).

    Args:
        x: points (N, d), or (..., N, d) with the same batch dimensions as y; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), same dtype and device.
        kernel: one of `Riesz`, `Gaussian`, `Laplace`, `InverseMultiquadric`, `Matern`.
        statistic: "V" (weights 1/N² on all pairs, never negative but for rounding) or "U" (unbiased: pairs i ≠ k only).
        x_weights: non-negative weights of x that sum to one, (N,) or (..., N); None for 1/N.
        y_weights: likewise for y.

    Returns:
        The value, 0-dimensional or of the batch's shape; differentiable by x, y and the weights. NumPy for NumPy input.
        Unit: that of the kernel (length^r for Riesz). Sums are taken in float64: relative error about 1e-12 of
        E|K(X, Y)|, before rounding to the input's dtype.

    Raises:
        TypeError: wrong type or dtype. ValueError: wrong shape, empty, NaN or infinity, unknown statistic, bad weights.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> mmd2(x, y).item()
        5.0

    Source: paper, section 2 (its D_K²).
    """
    x, y, answer = _validate.pair(x, y)
    check_kernel(kernel)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    return answer(_MMD2.apply(x, y, _or_equal(a, x), _or_equal(b, y), kernel, statistic == "U"))


def energy_distance(x: Any, y: Any, r: float = 1.0, statistic: str = "V", x_weights: Any = None, y_weights: Any = None) -> Any:
    """Energy distance in the statisticians' convention, 2E‖X−Y‖^r − E‖X−X′‖^r − E‖Y−Y′‖^r, by brute force.

    This is **twice** `mmd2` with the kernel `Riesz(r)`. Arguments, errors and differentiability as there. SciPy's
    `energy_distance` (one dimension) is the square root of this with r = 1 and statistic "V".

    Args:
        r: exponent, in the open interval (0, 2).

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> energy_distance(x, y).item()
        10.0

    Source: Székely & Rizzo, Energy statistics, J. Statist. Plann. Inference 143 (2013).
    """
    return 2 * mmd2(x, y, Riesz(r), statistic, x_weights, y_weights)


def mmd2_gradient(x: Any, y: Any, kernel: Kernel = Riesz(1.0), x_weights: Any = None, y_weights: Any = None) -> Any:
    """Gradient of `mmd2` (V-statistic) with respect to x by brute force, without autograd.

    ∂/∂x_i D² = a_i [Σ_k a_k ∇₁K(x_i, x_k) − Σ_j b_j ∇₁K(x_i, y_j)]; coincident points exert no force on each other.

    Args, errors: as `mmd2`.

    Returns:
        Gradient, shape of x, detached; NumPy for NumPy input.

    Example:
        >>> mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]])).tolist()
        [[1.0]]
    """
    x, y, answer = _validate.pair(x, y)
    check_kernel(kernel)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    dtype = x.dtype
    x, y, a, b = (t.detach().double() for t in (x, y, _or_equal(a, x), _or_equal(b, y)))
    gradient = a.unsqueeze(-1) * (_force(x, x, a, kernel) - _force(x, y, b, kernel))
    return answer(gradient.to(dtype))


class _MMD2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, a, b, kernel, unbiased):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, y, a, b)
        ctx.kernel, ctx.unbiased, dtype = kernel, unbiased, x.dtype
        x, y, a, b = (t.double() for t in (x, y, a, b))
        self_x = _self_energy(a, _potential(x, x, a, kernel), kernel, unbiased)
        self_y = _self_energy(b, _potential(y, y, b, kernel), kernel, unbiased)
        cross = (a * _potential(x, y, b, kernel)).sum(-1)
        return (0.5 * self_x + 0.5 * self_y - cross).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        dtype = ctx.saved_tensors[0].dtype
        x, y, a, b = (t.double() for t in ctx.saved_tensors)
        kernel, unbiased = ctx.kernel, ctx.unbiased
        upstream = upstream.double().unsqueeze(-1)
        out: list[Tensor | None] = [None] * 6
        for points, other, w, v, index in ((x, y, a, b, 0), (y, x, b, a, 1)):
            factor = 1 / (1 - (w**2).sum(-1, keepdim=True)) if unbiased else torch.ones_like(w[..., :1])
            if ctx.needs_input_grad[index]:
                force = factor.unsqueeze(-1) * _force(points, points, w, kernel) - _force(points, other, v, kernel)
                out[index] = (upstream.unsqueeze(-1) * w.unsqueeze(-1) * force).to(dtype)
            if ctx.needs_input_grad[index + 2]:
                own = _potential(points, points, w, kernel)
                slope = own - _potential(points, other, v, kernel)
                if unbiased:
                    # ½ S/n with S = wᵀKw − k(0)Σw², n = 1 − Σw²: quotient rule.
                    k0 = kernel.value(torch.zeros((), dtype=w.dtype, device=w.device))
                    S = ((w * own).sum(-1, keepdim=True) - k0 * (w**2).sum(-1, keepdim=True)) * factor
                    slope = slope + factor * (own - k0 * w + S * w) - own
                out[index + 2] = (upstream * slope).to(dtype)
        return tuple(out)


def _self_energy(w: Tensor, potential: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    total = (w * potential).sum(-1)
    if not unbiased:
        return total
    squares = (w**2).sum(-1)
    return (total - squares * kernel.value(torch.zeros((), dtype=w.dtype, device=w.device))) / (1 - squares)


def _potential(x: Tensor, y: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Σ_j b_j K(x_i, y_j): (..., N)."""
    parts = [(kernel.value(rho) * b.unsqueeze(-2)).sum(-1) for _, rho, _ in _chunks(x, y)]
    return torch.cat(parts, -1)


def _force(x: Tensor, y: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Σ_j b_j ∇₁K(x_i, y_j): (..., N, d)."""
    parts = []
    for part, rho, centred in _chunks(x, y):
        w = kernel.slope(rho) * b.unsqueeze(-2)
        parts.append(part * w.sum(-1, keepdim=True) - w @ centred)
    return torch.cat(parts, -2)


def _chunks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of x (centred), their distances to all of y, and y (centred alike)."""
    # Distances do not change when both clouds move; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
    centre = y.mean(-2, keepdim=True)
    x, y = x - centre, y - centre
    y_norms = (y**2).sum(-1).unsqueeze(-2)
    batch = max(1, x[..., 0, 0].numel())
    for part in x.split(max(1, _PAIRS // (y.shape[-2] * batch)), dim=-2):
        norms = (part**2).sum(-1).unsqueeze(-1) + y_norms
        squares = (norms - 2 * part @ y.transpose(-1, -2)).clamp_(min=0)
        close = squares <= _CLOSE * norms
        if close.any():
            _from_differences(squares, close, part, y)
        yield part, squares.sqrt_(), y


def _from_differences(squares: Tensor, close: Tensor, x: Tensor, y: Tensor) -> None:
    """Replaces the squared distances of close pairs, where the product form has lost its digits."""
    for pairs in close.nonzero().split(max(1, _PAIRS // x.shape[-1])):
        *batch, i, j = pairs.unbind(-1)
        squares[(*batch, i, j)] = ((x[(*batch, i)] - y[(*batch, j)]) ** 2).sum(-1)


def _or_equal(w: Tensor | None, x: Tensor) -> Tensor:
    """Weights of the shape (..., N), equal ones for None."""
    if w is None:
        return torch.full(x.shape[:-1], 1 / x.shape[-2], dtype=x.dtype, device=x.device)
    return w.expand(x.shape[:-1])
