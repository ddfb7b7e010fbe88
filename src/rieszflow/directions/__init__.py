"""Directions ξ_1, …, ξ_P on the unit sphere, to project points on.

A new kind is a function of type `base.Sampler`, an entry in `KINDS`, and a name in `_types.DirectionsName`.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, Seed
from rieszflow.directions.base import DenseDirections, Directions, Sampler, independent, orthogonal, sobol
from rieszflow.directions.hadamard import HadamardDirections, hadamard
from rieszflow.directions.patches import PatchDirections, PatchSlices
from rieszflow.errors import InputError

__all__ = ["KINDS", "DenseDirections", "Directions", "HadamardDirections", "Kind", "PatchDirections", "PatchSlices", "sample"]

Kind: TypeAlias = DirectionsName | Tensor | PatchSlices
"""Values of the argument `directions` of public functions: a name, a tensor (P, d) of unit rows, or `PatchSlices`."""

KINDS: dict[str, Sampler] = {"independent": independent, "orthogonal": orthogonal, "hadamard": hadamard, "sobol": sobol}
_MAX_HAAR_DIM = 64  # above it, a QR factorisation costs more than its slices
_SIGNS = 2  # numbers per structured direction


@isolated_numerics
def sample(kind: Kind, P: int, d: int, like: Tensor, generator: Seed = None) -> Directions:
    """Draw P directions in R^d, or check those given as a tensor, which sets P.

    Args:
        kind: A name, a tensor or `PatchSlices`, see `Kind`.
        P: Number of directions, at least 1.
        d: Dimension of the points.
        like: Tensor whose dtype and device the directions get.
        generator: Source of random numbers, or an integer to seed one; None for torch's default generator of the CPU.

    Raises:
        InputError: An unknown name, rows that are not unit vectors in R^d, or more directions than fit into memory.
        InputTypeError: A tensor of a wrong dtype or layout.
    """
    generator = validate.generator(generator) or torch.default_generator
    if isinstance(kind, Tensor):
        xi = validate.plain_tensor("directions", kind, f"(P, {d})").detach()
        if xi.ndim != 2 or xi.shape[1] != d or xi.shape[0] == 0:
            raise InputError(f"`directions` must be a tensor of shape (P, {d}), got shape {tuple(xi.shape)}")
        if not ((xi.double().norm(dim=1) - 1).abs() < 1e-4).all():
            raise InputError("`directions` must be a tensor with finite rows of norm 1, got rows of other norms")
        return DenseDirections(xi.to(like))
    if isinstance(kind, str) and kind == "auto":
        kind = "orthogonal" if d <= _MAX_HAAR_DIM else "hadamard"
    structured = isinstance(kind, PatchSlices) or (isinstance(kind, str) and kind == "hadamard")
    validate.fits_memory("slices", P, like.element_size() * (_SIGNS if structured else d))
    if isinstance(kind, PatchSlices):
        return kind.sample(P, d, like, generator)
    others = ", PatchSlices or a tensor (P, d) of unit rows"
    return KINDS[validate.choice("directions", kind, ("auto", *KINDS), others)](P, d, like, generator)
