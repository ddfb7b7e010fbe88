"""The step of a flow: default step sizes, schedules, and the updates of velocities and positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._infra.workspace import empty_like
from rieszflow.constraints import Constraint, Rows
from rieszflow.directions import Kind, PatchSlices
from rieszflow.errors import InputError
from rieszflow.kernels import Riesz

_STEP = 0.4  # τ / (1 − m) relative to the targets' mean distance: with m = 0.8, τ ≈ 1 on Fashion-MNIST, as in the paper
_TARGETS = 2000  # used to estimate distances


@isolated_numerics
def default_step_sizes(
    y: Tensor, kinds: Sequence[Kind], slices: Sequence[int], momenta: Sequence[float], frozen: Constraint | None = None
) -> list[float]:
    """Return τ for every kind of slices: a share of the mean distance between targets (..., M, d), without the frozen part.

    The norm of the gradient hardly depends on the dimension, and with momentum m the steps add up to τ / (1 − m). Raises
    InputError if all targets are equal.
    """
    y = y.detach().reshape(-1, y.shape[-1])
    y = y[torch.linspace(0, len(y) - 1, min(len(y), _TARGETS), device="cpu").round().long().to(y.device)].float()
    rows: list[Rows] = [slice(None)]
    if frozen is not None:
        rows, y = frozen.rows(y), frozen.project_out(y.clone())
    distances = [
        _patch_distance(y, kind, P)
        if isinstance(kind, PatchSlices)
        else torch.stack([torch.pdist(y[r]).mean() for r in rows]).nanmean().item()  # without clouds of a single point
        for kind, P in zip(kinds, slices, strict=True)
    ]
    if not all(distance > 0 for distance in distances):  # NaN for a single target
        raise InputError("`step_size` must be a number if all targets are equal, got None")
    return [_STEP * (1 - m) * distance / len(kinds) for m, distance in zip(momenta, distances, strict=True)]


def _patch_distance(y: Tensor, kind: PatchSlices, P: int) -> float:
    """Return E‖patch of Y − patch of Y′‖ times the number of positions, which share the gradient of a step.

    The P slices are divided between the positions. If there are fewer than n at a position, noise dominates, and the step is
    shortened accordingly.
    """
    generator = torch.Generator(y.device).manual_seed(0)
    p = kind.sample(1024, y.shape[1], y, generator).project(y)
    distance = Riesz(1.0).basis_constant(kind.n) * (p - p.roll(1, dims=1)).abs().mean().item()
    return distance * min(kind.n_patches, P / kind.n)


def geometric_schedule(first: float, last: float, steps: int) -> Callable[[int], float]:
    """Return a `step_schedule` for `ParticleFlow` that decreases geometrically from `first` to `last` in some steps.

    Long steps at the beginning cover distance; short steps at the end average out the noise of the slices.

    Example:
        >>> [round(geometric_schedule(8, 1, 4)(k), 1) for k in range(5)]
        [8.0, 4.0, 2.0, 1.0, 1.0]
    """
    return partial(_geometric, first, last, steps)  # unlike a closure, it can be pickled


def _geometric(first: float, last: float, steps: int, step: int) -> float:
    return float(first * (last / first) ** min(1.0, step / max(1, steps - 1)))


_TILE = 1 << 15  # coordinates


def update_velocity(gradient: Tensor, velocity: Tensor | None, momentum: float) -> Tensor:
    """Return ∇MMD² + m v in the memory of the gradient, because allocating memory would take longer than the addition."""
    if velocity is None:
        return gradient
    if not _can_loop(gradient, velocity):
        return gradient.add_(velocity, alpha=momentum)
    v, m = gradient.numpy().reshape(-1), gradient.numpy().dtype.type(momentum)
    parallel_for(_add, v.size, _TILE, v, velocity.numpy().reshape(-1), m)
    return gradient


def apply_moves(
    x: Tensor, moves: Sequence[tuple[Tensor, float]], bounds: tuple[float, float] | None, frozen: Constraint | None
) -> Tensor:
    """Return x after moves along several velocities, each with its length; the bounds apply after the last one."""
    for k, (velocity, length) in enumerate(moves, 1):
        x = update_positions(x, velocity, length, bounds if k == len(moves) else None, frozen)
    return x


def update_positions(
    x: Tensor, velocity: Tensor, length: float, bounds: tuple[float, float] | None, frozen: Constraint | None = None
) -> Tensor:
    """Return x − length · v, clipped to the bounds, with the frozen part of x."""
    out = empty_like(x)
    if _can_loop(x, velocity, out):
        real = out.numpy().dtype.type
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        flat = [t.numpy().reshape(-1) for t in (x, velocity, out)]
        parallel_for(_move, x.numel(), _TILE, *flat, real(length), real(low), real(high))
    else:
        out = velocity.mul(-length).add_(x)
        if bounds is not None:
            out = out.clamp_(*bounds)
    return out if frozen is None else frozen.restore(out, x)


def _can_loop(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and t.is_contiguous() and t.dtype == tensors[0].dtype for t in tensors)


# The loops run over views from 0 on: with an index from `first` on, Numba checks for negative indices and does not vectorise.


@numba.njit(**OPTIONS)
def _add(first, last, worker, step, v, before, m):
    v, before = v[first:last], before[first:last]
    for i in range(last - first):
        v[i] += m * before[i]


@numba.njit(**OPTIONS)
def _move(first, last, worker, step, x, v, out, length, low, high):
    x, v, out = x[first:last], v[first:last], out[first:last]
    for i in range(last - first):
        out[i] = min(max(x[i] - length * v[i], low), high)
