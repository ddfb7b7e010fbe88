"""Directions × engine → value, gradient, autograd. The engines do the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate, directions, engines
from rieszflow._autograd import once
from rieszflow._clouds import Cloud, Need, Pair
from rieszflow._surroundings import plain
from rieszflow._types import DirectionsName, EngineName, Points, Seed, Statistic
from rieszflow.directions import Directions, LocalSlices
from rieszflow.engines import Engine, Problem, Result
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["sliced_mmd2", "sliced_mmd2_gradient"]


@plain
def sliced_mmd2(
    x: Points,
    y: Points,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: DirectionsName | Tensor | LocalSlices = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
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
    pair, answer = _validate.clouds(x, y, x_weights, y_weights, statistic)
    tensors = (pair.x.points, pair.y.points, pair.x.weights, pair.y.weights)
    need = Need(True, *(t is not None and t.requires_grad for t in tensors))
    work = _work(pair, Problem(kernel, need), slices, directions, engine, seed)
    # Nothing, but hanging on all that derivatives are taken by, which itself need not be kept for the way back.
    leaves = [t[..., :0].flatten() for t in tensors if t is not None and t.requires_grad]
    root = torch.cat(leaves) if leaves else None
    return answer(_SlicedMMD2.apply(*tensors, root, work))


@plain
def sliced_mmd2_gradient(
    x: Points,
    y: Points,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: DirectionsName | Tensor | LocalSlices = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
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
    pair, answer = _validate.clouds(x, y, x_weights, y_weights, statistic)
    work = _work(pair, Problem(kernel, Need(x=True)), slices, directions, engine, seed)
    gradient = work.evaluate(pair.x, pair.y).x
    assert gradient is not None
    return answer(gradient)


@dataclass(frozen=True)
class _Work:
    """An engine, and what it is to do with two clouds."""

    engine: Engine
    directions: Directions
    problem: Problem
    unbiased: bool

    def evaluate(self, x: Cloud, y: Cloud) -> Result:
        return self.engine.evaluate(Pair(x, y, self.unbiased).detached(), self.directions, self.problem)


def _work(
    pair: Pair, problem: Problem, slices: int, kind: DirectionsName | Tensor | LocalSlices, engine: EngineName, seed: Seed
) -> _Work:
    check_kernel(problem.kernel)
    x, y = pair.x.points, pair.y.points
    chosen = engines.choose(engine, problem, x, y)
    P = _validate.positive_int("slices", slices)
    drawn = directions.sample(kind, P, x.shape[-1], x.detach(), _validate.generator(seed))
    return _Work(chosen, drawn, problem, pair.unbiased)


class _SlicedMMD2(torch.autograd.Function):
    """The derivatives by all arguments come out of the forward pass: keeping them is N·d + M·d numbers."""

    @staticmethod
    def forward(ctx, x, y, a, b, root, work):  # type: ignore[no-untyped-def]
        result = work.evaluate(Cloud(x, a), Cloud(y, b))
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
        return *once("sliced_mmd2", [*points, *weights], [root, upstream]), None, None
