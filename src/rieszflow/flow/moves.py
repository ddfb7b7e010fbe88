"""What a step does to particles besides their gradient: momentum, move and clipping, in one sweep of the memory each.

On the CPU these are loops of our own, on the threads that the engines' loops run on. PyTorch's own would wait for more work for
some milliseconds after each of them, at full speed, on a core that the next engine's loop needs: with few points that doubled
the time of a step.
"""

from __future__ import annotations

import numba
import numpy as np
from torch import Tensor

from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.workspace import empty_like
from rieszflow.constraints import Constraint

__all__ = ["update_positions", "update_velocity"]

_TILE = 1 << 15  # numbers at a time


def update_velocity(gradient: Tensor, velocity: Tensor | None, momentum: float) -> Tensor:
    """v ← ∇D²(x) + m v, in the memory of the gradient: fresh arrays of this size would cost more than the additions."""
    if velocity is None:
        return gradient
    if not _ours(gradient, velocity):
        return gradient.add_(velocity, alpha=momentum)
    v, m = gradient.numpy().reshape(-1), gradient.numpy().dtype.type(momentum)
    parallel_for(_add, v.size, _TILE, v, velocity.numpy().reshape(-1), m)
    return gradient


def update_positions(
    x: Tensor, velocity: Tensor, length: float, bounds: tuple[float, float] | None, frozen: Constraint | None = None
) -> Tensor:
    """x ← x − length · v, clipped to the bounds; what is frozen stays as it was."""
    out = empty_like(x)
    if _ours(x, velocity, out):
        real = out.numpy().dtype.type
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        flat = [t.numpy().reshape(-1) for t in (x, velocity, out)]
        parallel_for(_move, x.numel(), _TILE, *flat, real(length), real(low), real(high))
    else:
        out = velocity.mul(-length).add_(x)
        if bounds is not None:
            out = out.clamp_(*bounds)
    return out if frozen is None else frozen.restore(out, x)


def _ours(*tensors: Tensor) -> bool:
    """Whether the loops can take them."""
    return all(t.device.type == "cpu" and t.is_contiguous() and t.dtype == tensors[0].dtype for t in tensors)


# Views from 0 on: in a loop from `first` Numba would look for negative places in every round, which no vector can do.


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
