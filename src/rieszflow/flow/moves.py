"""The update of velocities and positions in a step, each in one pass over the memory.

On the CPU these loops run on the threads of the engines' loops. PyTorch's own threads would keep spinning for some milliseconds
after each operation, on a core that the next loop needs; with few points that doubled the time of a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from torch import Tensor

from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.workspace import empty_like
from rieszflow.constraints import Constraint

__all__ = ["apply_moves", "update_positions", "update_velocity"]

_TILE = 1 << 15  # coordinates


def update_velocity(gradient: Tensor, velocity: Tensor | None, momentum: float) -> Tensor:
    """Return v ← ∇MMD² + m v, in the memory of the gradient, because allocating it would take longer than the addition."""
    if velocity is None:
        return gradient
    if not _can_loop(gradient, velocity):
        return gradient.add_(velocity, alpha=momentum)
    v, m = gradient.numpy().reshape(-1), gradient.numpy().dtype.type(momentum)
    parallel_for(_add, v.size, _TILE, v, velocity.numpy().reshape(-1), m)
    return gradient


def apply_moves(
    x: Tensor,
    moves: Sequence[tuple[Tensor, float]],
    bounds: tuple[float, float] | None,
    frozen: Constraint | None,
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
