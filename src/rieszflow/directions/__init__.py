"""Directions to project on: points ξ_1, …, ξ_P on the unit sphere.

Adding a kind is adding one small file with a function `sample` (its type is `base.Draw`), one entry in `KINDS`, and its name in
`_types.DirectionsName`. It answers with a `Dense` matrix, or with a subclass of `Directions` (see `hadamard.py`). A kind that
needs to know more than d is an object with `sample` as its method (see `local.py`).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import DirectionsName
from rieszflow.directions import hadamard, independent, orthogonal, sobol
from rieszflow.directions.base import Directions, Draw
from rieszflow.directions.dense import Dense
from rieszflow.directions.hadamard import Hadamard
from rieszflow.directions.local import Local, PatchSlices
from rieszflow.errors import InputError

__all__ = ["KINDS", "Dense", "Directions", "Draw", "Hadamard", "Kind", "Local", "PatchSlices", "sample"]

Kind: TypeAlias = DirectionsName | Tensor | PatchSlices
"""What the argument `directions` of a public function may be: a name, a tensor (P, d) of unit rows, or `PatchSlices`."""

KINDS: dict[str, Draw] = {
    "independent": independent.sample,
    "orthogonal": orthogonal.sample,
    "hadamard": hadamard.sample,
    "sobol": sobol.sample,
}

# Up to here Haar blocks cost little and need no padding; above, a QR factorisation, O(d³), would cost more than its slices.
_LARGEST_HAAR = 64
_SIGNS = 2  # numbers per structured direction


@isolated_numerics
def sample(kind: Kind, P: int, d: int, like: Tensor, generator: torch.Generator | None = None) -> Directions:
    """Draws directions.

    Args:
        kind: see `Kind`. A tensor is taken as it is, and then P is its number of rows.
        P: number of directions, at least 1.
        d: dimension of the points.
        like: a tensor whose dtype and device the directions get.
        generator: where random numbers come from; None for torch's default generator of the CPU.

    Raises:
        InputError (a ValueError): an unknown name, a tensor whose rows are not of norm 1 in R^d, a kind that does not
            fit the dimension, or more directions than fit into memory.
        InputTypeError (a TypeError): a tensor of a wrong dtype or layout.
    """
    if isinstance(kind, Tensor):
        return _given(kind, d, like)
    if isinstance(kind, str) and kind == "auto":
        kind = "orthogonal" if d <= _LARGEST_HAAR else "hadamard"
    structured = isinstance(kind, PatchSlices) or (isinstance(kind, str) and kind == "hadamard")
    validate.fits_memory("slices", P, like.element_size() * (_SIGNS if structured else d))
    if isinstance(kind, PatchSlices):
        return kind.sample(P, d, like, generator)
    if not isinstance(kind, str) or kind not in KINDS:
        accepted = ", ".join(repr(name) for name in ("auto", *KINDS)) + ", PatchSlices"
        raise InputError(f"directions: {kind!r} given; {accepted} or a tensor (P, d) of unit rows are accepted")
    return KINDS[kind](P, d, like, generator)


def _given(xi: Tensor, d: int, like: Tensor) -> Dense:
    xi = validate.plain_tensor("directions", xi, f"(P, {d})")
    if xi.ndim != 2 or xi.shape[1] != d or xi.shape[0] == 0:
        raise InputError(f"directions: tensor of shape {tuple(xi.shape)} given; (P, {d}) is accepted")
    norms = xi.detach().double().norm(dim=1)
    if not ((norms - 1).abs() < 1e-4).all():
        raise InputError("directions: rows of the tensor must be finite and have norm 1")
    return Dense(xi.detach().to(like))
