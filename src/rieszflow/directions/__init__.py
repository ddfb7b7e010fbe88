"""Points on the unit sphere to project on: ξ_1, …, ξ_P.

Adding a kind of direction is adding one file with a function `sample(P, d, generator) -> (P, d) tensor` (float64 or
float32, on the generator's device) and one entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rieszflow.directions import independent, orthogonal

__all__ = ["KINDS", "Directions", "sample"]

KINDS: dict[str, Callable[[int, int, torch.Generator | None], Tensor]] = {
    "independent": independent.sample,
    "orthogonal": orthogonal.sample,
}

# A Haar block costs one QR factorisation, O(d³); above this the QR would cost more than the slices it serves.
_LARGEST_AUTO_BLOCK = 1024


class Directions:
    """P directions in R^d and the two maps that every engine and functional needs.

    Attributes:
        P: number of directions.
        n: dimension in which they are uniform on the sphere; the constant of slicing is the one of R^n.
    """

    def __init__(self, xi: Tensor) -> None:
        self.xi = xi
        self.P, self.n = xi.shape

    def project(self, x: Tensor) -> Tensor:
        """⟨ξ_p, x_i⟩ for x (..., N, d): shape (..., P, N), one contiguous row per slice."""
        return torch.matmul(self.xi, x.transpose(-1, -2))

    def adjoint(self, g: Tensor) -> Tensor:
        """Σ_p g_pi ξ_p for g (..., P, N): shape (..., N, d)."""
        return torch.matmul(g.transpose(-1, -2), self.xi)

    def split(self, rows: int) -> list[Directions]:
        """The same directions in consecutive parts of at most `rows`."""
        return [Directions(part) for part in self.xi.split(rows)]


def sample(kind: str | Tensor, P: int, d: int, like: Tensor, generator: torch.Generator | None = None) -> Directions:
    """Draws P directions of a kind in R^d, with dtype and device of `like`. A tensor (P, d) is taken as it is."""
    if isinstance(kind, Tensor):
        if kind.ndim != 2 or kind.shape[1] != d or kind.shape[0] == 0:
            raise ValueError(f"directions: tensor of shape {tuple(kind.shape)} given; (P, {d}) is accepted")
        norms = kind.detach().double().norm(dim=1)
        if not ((norms - 1).abs() < 1e-4).all():
            raise ValueError("directions: rows of the tensor must be finite and have norm 1")
        return Directions(kind.detach().to(like))
    if kind == "auto":
        kind = "orthogonal" if d <= _LARGEST_AUTO_BLOCK else "independent"
    if kind not in KINDS:
        accepted = ", ".join(repr(name) for name in ("auto", *KINDS))
        raise ValueError(f"directions: {kind!r} given; {accepted} or a tensor (P, d) of unit rows are accepted")
    return Directions(KINDS[kind](P, d, generator).to(like))
