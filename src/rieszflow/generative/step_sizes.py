"""Step sizes τ of the flow, where the settings name none."""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow.directions import LocalSlices
from rieszflow.generative.pyramid import Level
from rieszflow.kernels import Riesz

__all__ = ["default_steps", "step_sizes"]

_STEP = 0.4  # τ / (1 − m) by the targets' mean distance: with m = 0.8 τ ≈ 1 on Fashion-MNIST, the paper's


def step_sizes(level: Level, y: Tensor) -> tuple[float, ...]:
    """τ of a level's flow towards targets y (M, d), or one for every scale of its slices on patches."""
    config, kinds = level.config, level.local_slices()
    if config.local_steps:
        return config.local_steps
    if config.step_size is not None:
        return (config.step_size,) * max(1, len(kinds))
    return default_steps(y, kinds, config.slices, config.momentum)


def default_steps(y: Tensor, kinds: list[LocalSlices], P: int, momentum: float) -> tuple[float, ...]:
    """τ towards targets: one, or one for every kind of slices on patches.

    A gradient of D² has about the same length whatever the dimension is, so steps are a share of the targets' mean distance.
    Kinds of slices take turns, so each has its share of that.

    Args:
        y: targets (M, d); some thousand are enough.
        kinds: of slices on patches; empty for slices that see all of a point.
        P: slices of a step.
        momentum: m; the steps add up to τ / (1 − m).
    """
    share = _STEP * (1 - momentum)
    if not kinds:
        return (share * _mean_distance(y),)
    return tuple(share * _patch_distance(y, kind, P) / len(kinds) for kind in kinds)


def _patch_distance(y: Tensor, kind: LocalSlices, P: int) -> float:
    """What `_mean_distance` is for whole images: E‖patch of Y − patch of Y′‖, times the places that share a step's gradient.

    A place has P / places slices for patches of n numbers. Where those are fewer than n, most of a step is noise, and steps
    are made shorter by as much.
    """
    generator = torch.Generator(y.device).manual_seed(0)
    xi = kind.sample(1024, y.shape[1], y, generator)
    p = xi.project(y)
    distance = Riesz(1.0).basis_constant(xi.n) * (p - p.roll(1, dims=1)).abs().mean().item()
    return distance * min(kind.places, P / kind.n)


def _mean_distance(y: Tensor) -> float:
    """E‖Y − Y′‖ over distinct pairs."""
    return torch.pdist(y).mean().item()
