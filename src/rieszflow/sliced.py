"""D² on random one-dimensional slices: value, gradient, and autograd. The work is the engines'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rieszflow import directions, engines
from rieszflow._infra import validate
from rieszflow._infra.autograd import once, recomputing
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import Cloud, EngineName, Need, Pair, Points, PointsT, Seed, Statistic
from rieszflow.directions import Directions, Kind
from rieszflow.engines import Engine, Problem, Result
from rieszflow.errors import DerivativeError
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["Work", "prepared", "sliced_mmd2", "sliced_mmd2_gradient"]


@isolated_numerics
def sliced_mmd2(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: Kind = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    """`mmd2`, estimated on P random directions: D² = c_{d,1} · mean_p D²_1D(⟨ξ_p, x⟩, ⟨ξ_p, y⟩).

    The estimate is unbiased over the directions, and its relative error falls like 1/√P. With fast directions and bins it takes
    O((N + M) P log d) time, where brute force takes O(N M d). The convention is the paper's: half of the statisticians' energy
    distance.

    Args:
        x: points (N, d), or (..., N, d) with batch dimensions in front; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), with the batch dimensions, dtype and device of x.
        kernel: `Riesz(1.0)`; with engine "bins" any other, too. A kernel much narrower than the data is refused, because bins
            do not resolve it. Gradients of `Riesz(r)` with r < 1 come with a warning. Their accuracy is in docs/measured.md.
        slices: number P of directions. Whole blocks are best: a multiple of d for "orthogonal", of the next power of two for
            "hadamard".
        directions: "orthogonal" (Haar blocks), "hadamard" (orthogonal blocks by a fast transform), "sobol" (quasi-Monte-Carlo),
            "independent", or "auto": "orthogonal" up to d = 64, "hadamard" above. Or `PatchSlices`, for patches of images. Or a
            tensor (P, d) of unit rows, which then sets P.
        engine: "sort" is exact on every slice, for `Riesz(1.0)`. "bins" takes linear time and memory that does not grow with N;
            on a slice it is off by at most the mass of a point's bin, some 1e-3 in all. "auto" is "bins" for float32 with 4096
            points or more, and for other kernels.
        seed: of the directions. A whole number; or a torch.Generator, which goes on; or None for torch's default generator.
        statistic: "V" for the mean over all pairs, never negative; "U" for pairs i ≠ k only, unbiased in the samples.
        x_weights: non-negative weights of x, (N,) or (..., N), of sum one and of the dtype of x. None for 1/N each.
        y_weights: likewise for y.

    Returns:
        The value, in the kernel's unit (length^r for Riesz): without dimensions, or of the shape of the batch. A tensor can be
        differentiated once, by x, y and the weights. If x and y are arrays it is a NumPy number or array.

    Raises:
        InputTypeError (a TypeError): a wrong type or dtype.
        InputError (a ValueError): a wrong shape, no points, NaN or infinity, an unknown name, bad weights, a kernel or a
            derivative that the engine does not have, or points further apart than the dtype can hold.
        DerivativeError (a RuntimeError): a second derivative, on the way back.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.zeros(5, 2), torch.tensor([[3.0, 4.0]])
        >>> round(sliced_mmd2(x, y, slices=4096, seed=g).item(), 1)
        5.0

    Source: paper, Theorems 1 and 4.
    """
    pair, answer = validate.clouds(x, y, x_weights, y_weights, statistic)
    tensors = (pair.x.points, pair.y.points, pair.x.weights, pair.y.weights)
    need = Need(True, *(t is not None and t.requires_grad for t in tensors))
    if isinstance(seed, torch.Generator) and recomputing() and need != Need(True):
        raise DerivativeError("`seed` must be an integer or None in an activation checkpoint, got a torch.Generator")
    work = prepared(pair, Problem(kernel, need), slices, directions, engine, seed)
    # Nothing, but hanging on all that derivatives are taken by, which itself need not be kept for the way back.
    leaves = [t[..., :0].flatten() for t in tensors if t is not None and t.requires_grad]
    root = torch.cat(leaves) if leaves else None
    value: Tensor = _SlicedMMD2.apply(*tensors, root, work)  # type: ignore[no-untyped-call]  # PyTorch's
    return answer(value)


@isolated_numerics
def sliced_mmd2_gradient(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: Kind = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    """Gradient of `sliced_mmd2` by x, without autograd.

    For r = 1 it is ∂/∂x_i = a_i c_{d,1} · mean_p 2[G_p(⟨ξ_p, x_i⟩) − F_p(⟨ξ_p, x_i⟩)] ξ_p. F_p and G_p are the distribution
    functions of the projected x and y, with mid-ranks at ties. Copies of one point have the same gradient only on average: the
    projections of two copies can differ by rounding.

    Args:
        x: as in `sliced_mmd2`, like all that follow.
        y: as there.
        kernel: as there.
        slices: as there.
        directions: as there.
        engine: as there.
        seed: as there.
        statistic: as there.
        x_weights: as there.
        y_weights: as there.

    Returns:
        The gradient, shape and dtype of x, detached. If x and y are arrays it is one, too.

    Raises:
        InputError, InputTypeError: as `sliced_mmd2`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> sliced_mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]]), slices=8, seed=g).tolist()
        [[1.0]]

    Source: paper, section 3.
    """
    pair, answer = validate.clouds(x, y, x_weights, y_weights, statistic)
    work = prepared(pair, Problem(kernel, Need(x=True)), slices, directions, engine, seed)
    gradient = work.evaluate(pair.x, pair.y).x
    assert gradient is not None
    return answer(gradient)


@dataclass(frozen=True)
class Work:
    """An engine, and what it is to do with two clouds."""

    engine: Engine
    directions: Directions
    problem: Problem
    unbiased: bool

    def evaluate(self, x: Cloud, y: Cloud) -> Result:
        return self.engine.evaluate(Pair(x, y, self.unbiased).detached(), self.directions, self.problem)


def prepared(pair: Pair, problem: Problem, slices: int, kind: Kind, engine: EngineName, seed: Seed) -> Work:
    """An engine and slices for two clouds."""
    check_kernel(problem.kernel)
    x, y = pair.x.points, pair.y.points
    chosen = engines.choose(engine, problem, x, y)
    P = validate.positive_int("slices", slices)
    drawn = directions.sample(kind, P, x.shape[-1], x.detach(), validate.generator(seed))
    return Work(chosen, drawn, problem, pair.unbiased)


class _SlicedMMD2(torch.autograd.Function):
    """The forward pass makes the derivatives by all arguments, too: keeping them is N·d + M·d numbers."""

    # `ctx` is PyTorch's, which takes any attribute.

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, root: Tensor | None, work: Work) -> Tensor:
        result = work.evaluate(Cloud(x, a), Cloud(y, b))
        assert result.value is not None
        ctx.save_for_backward(result.x, result.y, result.a, result.b, root)
        # A weight vector (N,) shared by a batch collects the derivative of every member.
        ctx.weight_shapes = [None if w is None else w.shape for w in (a, b)]
        return result.value.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, grad_a, grad_b, root = ctx.saved_tensors
        factor = upstream.detach()
        points = [None if g is None else factor[..., None, None] * g for g in (grad_x, grad_y)]
        weights = [
            None if g is None else (factor[..., None] * g).sum_to_size(shape)
            for g, shape in zip((grad_a, grad_b), ctx.weight_shapes, strict=True)
        ]
        return *once("sliced_mmd2", [*points, *weights], [root, upstream]), None, None
