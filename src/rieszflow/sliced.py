"""Directions × engine → value, gradient, autograd.

The hot path of the library is `_gradient`: for every chunk of slices project both clouds, ask the engine for the
one-dimensional derivative, carry it back. Slices come in chunks, so that no array of size P × (N + M) is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate, directions, engines
from rieszflow.directions import Directions
from rieszflow.kernels import Riesz

__all__ = ["sliced_mmd2", "sliced_mmd2_gradient"]

_PROJECTIONS = 1 << 23  # projected numbers in one chunk of slices: 32 MB of float32


def sliced_mmd2(
    x: Any,
    y: Any,
    kernel: Riesz = Riesz(1.0),
    slices: int = 1024,
    directions: str | Tensor = "auto",
    engine: str = "auto",
    generator: torch.Generator | None = None,
    statistic: str = "V",
    x_weights: Any = None,
    y_weights: Any = None,
) -> Any:
    """`mmd2` estimated on P random one-dimensional slices: D² = c_{d,1} · mean_p D²_1D(⟨ξ_p, x⟩, ⟨ξ_p, y⟩).

    Unbiased over the directions; the relative error falls like 1/√P (paper, Theorems 1 and 4). Time O(P (N+M) (d +
    log(N+M))) instead of O(NM d). Paper's convention: half the statisticians' energy distance.

    Args:
        x: points (N, d), or (..., N, d) with the same batch dimensions as y; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), same dtype and device.
        kernel: `Riesz(1.0)`, the one kernel whose slices the sort engine solves.
        slices: number of directions P. A multiple of d lets orthogonal blocks be whole, which pays.
        directions: "orthogonal" (Haar blocks), "independent", "auto" (orthogonal up to d = 1024), or a tensor (P, d)
            of unit rows, which then sets P.
        engine: "sort" (exact in every slice) or "auto".
        generator: source of the random directions; None for torch's default generator.
        statistic: "V" (never negative) or "U" (unbiased in the samples too).
        x_weights: non-negative weights of x that sum to one, (N,) or (..., N); None for 1/N.
        y_weights: likewise for y.

    Returns:
        The value, 0-dimensional or of the batch's shape; differentiable once by x, y and the weights.

    Raises:
        TypeError: wrong type or dtype. ValueError: wrong shape, empty, NaN or infinity, unknown name, bad weights,
        or a kernel other than `Riesz(1.0)`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.zeros(5, 2), torch.tensor([[3.0, 4.0]])
        >>> round(sliced_mmd2(x, y, slices=4096, generator=g).item(), 1)
        5.0
    """
    x, y, answer = _validate.pair(x, y)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    xi, solver = _setup(x, kernel, slices, directions, engine, generator)
    return answer(_SlicedMMD2.apply(x, y, a, b, xi, solver, kernel, statistic == "U"))


def sliced_mmd2_gradient(
    x: Any,
    y: Any,
    kernel: Riesz = Riesz(1.0),
    slices: int = 1024,
    directions: str | Tensor = "auto",
    engine: str = "auto",
    generator: torch.Generator | None = None,
    statistic: str = "V",
    x_weights: Any = None,
    y_weights: Any = None,
) -> Any:
    """Gradient of `sliced_mmd2` with respect to x, without autograd: one sort per slice, nothing else kept.

    ∂/∂x_i = a_i c_{d,1} · mean_p 2[G_p(⟨ξ_p, x_i⟩) − F_p(⟨ξ_p, x_i⟩)] ξ_p with the distribution functions F of the
    projected x and G of the projected y, mid-ranks at ties (paper, section 3). Copies of one point share their gradient only
    on average: the projections of two copies can differ by rounding. Args and errors as `sliced_mmd2`.

    Returns:
        Gradient, shape of x, detached; NumPy for NumPy input.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> sliced_mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]]), slices=8, generator=g).tolist()
        [[1.0]]
    """
    x, y, answer = _validate.pair(x, y)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    xi, solver = _setup(x, kernel, slices, directions, engine, generator)
    return answer(_gradient(x.detach(), y.detach(), a, b, xi, solver, kernel, statistic == "U"))


def _setup(x: Tensor, kernel: Any, slices: Any, kind: Any, engine: str, generator: Any) -> tuple[Directions, Any]:
    if not isinstance(kernel, Riesz) or kernel.r != 1:
        raise ValueError(
            f"kernel: {kernel!r} given; sliced functionals accept Riesz(1.0) (use mmd2 and mmd2_gradient for others)"
        )
    solver = engines.get(engine)
    P = _validate.positive_int("slices", slices)
    return directions.sample(kind, P, x.shape[-1], x, _validate.generator(generator)), solver


def _gradient(
    x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, xi: Directions, solver: Any, kernel: Riesz, unbiased: bool
) -> Tensor:
    factor = _self_factor(a, x, unbiased)
    x, y = _centred(x, y)
    out = torch.zeros_like(x)
    for part in _chunks(xi, x, y):
        out += part.adjoint(solver.gradient(part.project(x), part.project(y), a, b, factor))
    return out * _scale(kernel, xi, x, a)


class _SlicedMMD2(torch.autograd.Function):
    """The derivatives by all arguments come out of the forward pass: keeping them is N·d + M·d numbers."""

    @staticmethod
    def forward(ctx, x, y, a, b, xi, solver, kernel, unbiased):  # type: ignore[no-untyped-def]
        alpha, beta = _self_factor(a, x, unbiased), _self_factor(b, y, unbiased)
        dtype = x.dtype
        x, y = _centred(x, y)
        need_x, need_y, need_a, need_b = ctx.needs_input_grad[:4]
        grad_x, grad_y = torch.zeros_like(x) if need_x else None, torch.zeros_like(y) if need_y else None
        grad_a, grad_b = torch.zeros_like(x[..., 0]) if need_a else None, torch.zeros_like(y[..., 0]) if need_b else None
        value = torch.zeros(x.shape[:-2], dtype=torch.float64, device=x.device)
        for part in _chunks(xi, x, y):
            s = solver.profile(part.project(x), part.project(y), a, b)
            # E|X−Y| − ½αE|X−X′| − ½βE|Y−Y′| in every slice; α = β = 1 for the V-statistic.
            correction = (alpha[..., 0] - 1) * s.spread_x + (beta[..., 0] - 1) * s.spread_y
            value += (s.distance - correction).double().sum(-1)
            if need_x:
                grad_x += part.adjoint(2 * s.G_x - 1 - alpha * (2 * s.F_x - 1))
            if need_y:
                grad_y += part.adjoint(2 * s.F_y - 1 - beta * (2 * s.G_y - 1))
            if need_a:
                grad_a += _weights_gradient(s.potential_x, s.own_x, s.spread_x, a, alpha, unbiased)
            if need_b:
                grad_b += _weights_gradient(-s.potential_y, s.own_y, s.spread_y, b, beta, unbiased)
        c = kernel.slicing_constant(xi.n) / xi.P
        ctx.save_for_backward(
            None if grad_x is None else grad_x * _scale(kernel, xi, x, a),
            None if grad_y is None else grad_y * _scale(kernel, xi, y, b),
            # A weight vector (N,) shared by a batch collects the derivative of every member.
            None if grad_a is None else c * grad_a,
            None if grad_b is None else c * grad_b,
        )
        ctx.weight_shapes = [None if w is None else w.shape for w in (a, b)]
        return (c * value).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        grad_x, grad_y, grad_a, grad_b = ctx.saved_tensors
        points = [None if g is None else upstream[..., None, None] * g for g in (grad_x, grad_y)]
        weights = [
            None if g is None else (upstream[..., None] * g).sum_to_size(shape)
            for g, shape in zip((grad_a, grad_b), ctx.weight_shapes, strict=True)
        ]
        return *points, *weights, None, None, None, None


def _weights_gradient(potential: Tensor, own: Tensor, spread: Tensor, w: Tensor, factor: Tensor, unbiased: bool) -> Tensor:
    """Derivative by the weights of one cloud, summed over slices: (..., N)."""
    if unbiased:
        potential = potential - (factor - 1) * own - (2 * factor**2 * spread.unsqueeze(-1)) * w.detach().unsqueeze(-2)
    return potential.sum(-2)


def _self_factor(w: Tensor | None, x: Tensor, unbiased: bool) -> Tensor:
    """1/(1 − Σw²), which turns E over all pairs into E over distinct ones; shape (..., 1, 1). 1 for the V-statistic."""
    if not unbiased:
        return x.new_ones(1, 1)
    if w is None:
        return x.new_full((1, 1), x.shape[-2] / (x.shape[-2] - 1))
    return 1 / (1 - (w.detach() ** 2).sum(-1))[..., None, None]


def _scale(kernel: Riesz, xi: Directions, x: Tensor, w: Tensor | None) -> float | Tensor:
    c = kernel.slicing_constant(xi.n) / xi.P
    return c / x.shape[-2] if w is None else c * w.detach().unsqueeze(-1)


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing here changes under a common shift; near the origin the projections keep more digits."""
    centre = y.mean(-2, keepdim=True)
    return x - centre, y - centre


def _chunks(xi: Directions, x: Tensor, y: Tensor) -> Iterator[Directions]:
    numbers = (x.numel() + y.numel()) // x.shape[-1]
    yield from xi.split(max(1, _PROJECTIONS // numbers))
