"""Step sizes τ of a flow: a default, and a decreasing schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rieszflow.constraints import Constraint
from rieszflow.directions import Kind, PatchSlices
from rieszflow.errors import InputError
from rieszflow.kernels import Riesz

__all__ = ["default_steps", "geometric_schedule"]

_STEP = 0.4  # τ / (1 − m) by the targets' mean distance: with m = 0.8 τ ≈ 1 on Fashion-MNIST, the paper's
_LOOKED_AT = 2000  # targets


def default_steps(
    y: Tensor, kinds: Sequence[Kind], slices: Sequence[int], momenta: Sequence[float], frozen: Constraint | None = None
) -> list[float]:
    """τ of every kind of slices.

    A gradient of D² has about the same length whatever the dimension is, so steps are a share of the targets' mean distance.
    Kinds of slices take turns, so each has its share of that.

    Args:
        y: targets (M, d) or (..., M, d); some thousand are looked at.
        kinds: of slices, one at least.
        slices: P of every kind.
        momenta: m of every kind; steps add up to τ / (1 − m).
        frozen: what of a point does not move, and is no distance to go.

    Raises:
        InputError: all targets are equal.
    """
    y = y.detach().reshape(-1, y.shape[-1])
    y = y[torch.linspace(0, len(y) - 1, min(len(y), _LOOKED_AT), device="cpu").round().long().to(y.device)].float()
    if frozen is not None:
        y = frozen.project_out(y.clone())
    distances = [
        _patch_distance(y, kind, P) if isinstance(kind, PatchSlices) else _mean_distance(y)
        for kind, P in zip(kinds, slices, strict=True)
    ]
    if not all(distance > 0 for distance in distances):
        raise InputError("step_size: None given, and the targets do not differ from one another; a number is accepted")
    return [_STEP * (1 - m) * distance / len(kinds) for m, distance in zip(momenta, distances, strict=True)]


def _patch_distance(y: Tensor, kind: PatchSlices, P: int) -> float:
    """What `_mean_distance` is for whole images: E‖patch of Y − patch of Y′‖, times the places that share a step's gradient.

    A place has P / places slices for patches of n numbers. Where those are fewer than n, most of a step is noise, and steps
    are made shorter by as much.
    """
    generator = torch.Generator(y.device).manual_seed(0)
    p = kind.sample(1024, y.shape[1], y, generator).project(y)
    distance = Riesz(1.0).basis_constant(kind.n) * (p - p.roll(1, dims=1)).abs().mean().item()
    return distance * min(kind.n_patches, P / kind.n)


def _mean_distance(y: Tensor) -> float:
    """E‖Y − Y′‖ over distinct pairs."""
    return torch.pdist(y).mean().item() if len(y) > 1 else 0.0


def geometric_schedule(first: float, last: float, steps: int) -> Callable[[int], float]:
    """Return step lengths for `ParticleFlow(step_schedule=...)` that decrease geometrically from `first` to `last` over some steps.

    Long steps at first cover distance; short steps at the end average out the noise of the slices.

    Example:
        >>> [round(geometric_schedule(8, 1, 4)(k), 1) for k in range(5)]
        [8.0, 4.0, 2.0, 1.0, 1.0]
    """
    return partial(_fall, first, last, steps)  # unlike a closure, it can be pickled


def _fall(first: float, last: float, steps: int, step: int) -> float:
    return float(first * (last / first) ** min(1.0, step / max(1, steps - 1)))
