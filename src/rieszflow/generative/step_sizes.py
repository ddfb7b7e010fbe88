"""Step sizes τ of a level's flow."""

from __future__ import annotations

from torch import Tensor

from rieszflow.directions import Kind, PatchSlices
from rieszflow.flow.schedule import default_step_sizes
from rieszflow.generative.pyramid import Level
from rieszflow.kernels import Riesz

__all__ = ["step_sizes"]


def step_sizes(level: Level, y: Tensor) -> tuple[float, ...]:
    """τ towards targets y (M, d), of every kind of slices."""
    config, kinds = level.config, level.kinds()
    given = config.local_steps or (() if config.step_size is None else (config.step_size,) * len(kinds))
    if given:
        return tuple(tau * _paper_factor(kind, y.shape[1]) for tau, kind in zip(given, kinds, strict=True))
    many = len(kinds)
    return tuple(default_step_sizes(y, kinds, [config.slices] * many, [config.momentum] * many, level.condition.known))


def _paper_factor(kind: Kind, d: int) -> float:
    """By how much a gradient on one patch grows with the constant of the whole image, c_d, in the place of the patch's own c_n.

    The paper uses c_d for patches, too: see docs/paper.md.
    """
    if not isinstance(kind, PatchSlices) or not kind.single_patch:
        return 1.0
    riesz = Riesz(1.0)
    return riesz.basis_constant(d) / riesz.basis_constant(kind.patch_dim)
