"""Step sizes τ of a level's flow."""

from __future__ import annotations

from torch import Tensor

from rieszflow.generative.pyramid import Level
from rieszflow.step_sizes import default_steps

__all__ = ["step_sizes"]


def step_sizes(level: Level, y: Tensor) -> tuple[float, ...]:
    """τ towards targets y (M, d), of every kind of slices."""
    config, kinds = level.config, level.kinds()
    if config.local_steps:
        return config.local_steps
    if config.step_size is not None:
        return (config.step_size,) * len(kinds)
    return tuple(default_steps(y, kinds, [config.slices] * len(kinds), [config.momentum] * len(kinds)))
