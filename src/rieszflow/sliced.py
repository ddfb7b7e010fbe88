"""Directions × engine → value, gradient, autograd. The work is done by the engines: see engines/bins.py for the hot path."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate, directions, engines
from rieszflow._autograd import once
from rieszflow._surroundings import plain
from rieszflow._types import Seed
from rieszflow.directions import Directions, LocalSlices
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["sliced_mmd2", "sliced_mmd2_gradient"]


@plain
def sliced_mmd2(
    x: Any,
    y: Any,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: str | Tensor | LocalSlices = "auto",
    engine: str = "auto",
    seed: Seed = None,
    statistic: str = "V",
    x_weights: Any = None,
    y_weights: Any = None,
) -> Any:
    """`mmd2` estimated on P random one-dimensional slices: D² = c_{d,1} · mean_p D²_1D(⟨ξ_p, x⟩, ⟨ξ_p, y⟩).

    Unbiased over the directions; the relative error falls like 1/√P (paper, Theorems 1 and 4). Time O((N+M) P log d) on
    fast directions and bins instead of O(NM d). Paper's convention: half the statisticians' energy distance.

    Args:
        x: points (N, d), or (..., N, d) with the same batch dimensions as y; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), same dtype and device.
        kernel: `Riesz(1.0)`, or with the bins any other: one that they cannot resolve (much narrower than the data) is refused,
            and gradients of `Riesz(r)`, r < 1, come with a warning. Their accuracy is in docs/design.md.
        slices: number of directions P. Whole orthogonal blocks pay: a multiple of d for "orthogonal", of the next power of
            two for "hadamard".
        directions: "orthogonal" (Haar blocks), "hadamard" (orthogonal blocks by a fast transform), "sobol"
            (quasi-Monte-Carlo), "independent", "auto" (orthogonal up to d = 64, hadamard above), `LocalSlices` (patches
            of images), or a tensor (P, d) of unit rows, which then sets P.
        engine: "sort" (exact in every slice; Riesz(1.0)), "bins" (linear time, memory that does not grow with N; in a slice
            off by at most the mass of a point's bin, some 1e-3 in all), or "auto": bins for float32 and 4096 points or
            more, and for other kernels.
        seed: of the random directions: a whole number, or a torch.Generator that goes on; None for torch's default generator.
        statistic: "V" (never negative) or "U" (unbiased in the samples too).
        x_weights: non-negative weights of x that sum to one, (N,) or (..., N); None for 1/N.
        y_weights: likewise for y.

    Returns:
        The value, 0-dimensional or of the batch's shape; differentiable once by x, y and the weights.

    Raises:
        TypeError: wrong type or dtype. ValueError: wrong shape, empty, NaN or infinity, unknown name, bad weights, a
        kernel that the engine does not take, derivatives by weights asked of the bins, or points further apart than
        the dtype can hold. RuntimeError: a second derivative, on the way back.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.zeros(5, 2), torch.tensor([[3.0, 4.0]])
        >>> round(sliced_mmd2(x, y, slices=4096, seed=g).item(), 1)
        5.0
    """
    x, y, answer = _validate.pair(x, y)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    by_weights = any(w is not None and w.requires_grad for w in (a, b))
    xi, solver = _setup(x, y, kernel, slices, directions, engine, seed, by_weights)
    # Nothing, but hanging on all that derivatives are taken by, which itself need not be kept for the way back.
    leaves = [t[..., :0].flatten() for t in (x, y, a, b) if t is not None and t.requires_grad]
    root = torch.cat(leaves) if leaves else None
    return answer(_SlicedMMD2.apply(x, y, a, b, root, xi, solver, kernel, statistic == "U"))


@plain
def sliced_mmd2_gradient(
    x: Any,
    y: Any,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: str | Tensor | LocalSlices = "auto",
    engine: str = "auto",
    seed: Seed = None,
    statistic: str = "V",
    x_weights: Any = None,
    y_weights: Any = None,
) -> Any:
    """Gradient of `sliced_mmd2` with respect to x, without autograd.

    r = 1: ∂/∂x_i = a_i c_{d,1} · mean_p 2[G_p(⟨ξ_p, x_i⟩) − F_p(⟨ξ_p, x_i⟩)] ξ_p with the distribution functions F of the
    projected x and G of the projected y, mid-ranks at ties (paper, section 3). Copies of one point share their gradient only
    on average: the projections of two copies can differ by rounding. Args and errors as `sliced_mmd2`.

    Returns:
        Gradient, shape of x, detached; NumPy for NumPy input.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> sliced_mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]]), slices=8, seed=g).tolist()
        [[1.0]]
    """
    x, y, answer = _validate.pair(x, y)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    xi, solver = _setup(x, y, kernel, slices, directions, engine, seed, by_weights=False)
    need = (False, True, False, False, False)
    return answer(solver.evaluate(x.detach(), y.detach(), a, b, xi, kernel, statistic == "U", need).x)


def _setup(
    x: Tensor, y: Tensor, kernel: Any, slices: Any, kind: Any, engine: str, seed: Any, by_weights: bool
) -> tuple[Directions, ModuleType]:
    check_kernel(kernel)
    solver = engines.get(engine, kernel, x, y, by_weights)
    P = _validate.positive_int("slices", slices)
    return directions.sample(kind, P, x.shape[-1], x.detach(), _validate.generator(seed)), solver


class _SlicedMMD2(torch.autograd.Function):
    """The derivatives by all arguments come out of the forward pass: keeping them is N·d + M·d numbers."""

    @staticmethod
    def forward(ctx, x, y, a, b, root, xi, solver, kernel, unbiased):  # type: ignore[no-untyped-def]
        result = solver.evaluate(x.detach(), y.detach(), a, b, xi, kernel, unbiased, (True, *ctx.needs_input_grad[:4]))
        ctx.save_for_backward(result.x, result.y, result.a, result.b, root)
        # A weight vector (N,) shared by a batch collects the derivative of every member.
        ctx.weight_shapes = [None if w is None else w.shape for w in (a, b)]
        return result.value.to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        grad_x, grad_y, grad_a, grad_b, root = ctx.saved_tensors
        factor = upstream.detach()
        points = [None if g is None else factor[..., None, None] * g for g in (grad_x, grad_y)]
        weights = [
            None if g is None else (factor[..., None] * g).sum_to_size(shape)
            for g, shape in zip((grad_a, grad_b), ctx.weight_shapes, strict=True)
        ]
        return *once("sliced_mmd2", [*points, *weights], [root, upstream]), None, None, None, None, None
