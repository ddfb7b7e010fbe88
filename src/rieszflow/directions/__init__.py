"""Points on the unit sphere to project on: ξ_1, …, ξ_P.

Adding a kind of direction is adding one file and one entry in `KINDS`: a function `sample(P, d, generator)` that returns a
tensor (P, d) of unit rows, or one that returns `Directions` of its own (see hadamard.py). Kinds that need to know more than d
are objects with that function as their method `sample` (see local.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._surroundings import plain
from rieszflow.directions import hadamard, independent, orthogonal, sobol
from rieszflow.directions.base import Directions
from rieszflow.directions.hadamard import Hadamard
from rieszflow.directions.local import LocalSlices
from rieszflow.errors import InputError

__all__ = ["KINDS", "Directions", "Hadamard", "LocalSlices", "sample"]

KINDS: dict[str, Callable[[int, int, Tensor, torch.Generator | None], Directions]] = {
    "independent": lambda P, d, like, g: Directions(independent.sample(P, d, g).to(like)),
    "orthogonal": lambda P, d, like, g: Directions(orthogonal.sample(P, d, g).to(like)),
    "hadamard": hadamard.sample,
    "sobol": lambda P, d, like, g: Directions(sobol.sample(P, d, g).to(like)),
}

# Up to here Haar blocks cost little and need no padding; above, a QR factorisation, O(d³), would cost more than its slices.
_LARGEST_HAAR = 64


@plain
def sample(
    kind: str | Tensor | LocalSlices, P: int, d: int, like: Tensor, generator: torch.Generator | None = None
) -> Directions:
    """Draws P directions of a kind in R^d, with dtype and device of `like`. A tensor (P, d) is taken as it is."""
    if isinstance(kind, Tensor):
        kind = _validate.plain_tensor("directions", kind, f"(P, {d})")
        if kind.ndim != 2 or kind.shape[1] != d or kind.shape[0] == 0:
            raise InputError(f"directions: tensor of shape {tuple(kind.shape)} given; (P, {d}) is accepted")
        norms = kind.detach().double().norm(dim=1)
        if not ((norms - 1).abs() < 1e-4).all():
            raise InputError("directions: rows of the tensor must be finite and have norm 1")
        return Directions(kind.detach().to(like))
    if isinstance(kind, LocalSlices):
        return kind.sample(P, d, like, generator)
    if isinstance(kind, str) and kind == "auto":
        kind = "orthogonal" if d <= _LARGEST_HAAR else "hadamard"
    if not isinstance(kind, str) or kind not in KINDS:
        accepted = ", ".join(repr(name) for name in ("auto", *KINDS)) + ", LocalSlices"
        raise InputError(f"directions: {kind!r} given; {accepted} or a tensor (P, d) of unit rows are accepted")
    return KINDS[kind](P, d, like, generator)
