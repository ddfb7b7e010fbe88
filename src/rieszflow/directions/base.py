"""The contract of directions: P points on the unit sphere, and the two maps that engines need."""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow._surroundings import plain

__all__ = ["Directions"]


class Directions:
    """P directions ξ_1, …, ξ_P as a dense matrix `xi` (P, d). Structured kinds override `_project` and the other methods.

    Attributes:
        P: number of directions.
        n: dimension in which they are uniform on the sphere; the constant of slicing is the one of R^n.
    """

    P: int
    n: int

    def __init__(self, xi: Tensor) -> None:
        self.xi = xi
        self.P, self.n = xi.shape

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """⟨ξ_p, (x_i − shift)·scale⟩ for x (..., N, d) and shift (..., 1, d): shape (..., P, N)."""
        return self._project(x if shift is None else (x - shift) * scale)

    @plain
    def _project(self, x: Tensor) -> Tensor:
        return torch.matmul(self.xi, x.transpose(-1, -2))

    @plain
    def adjoint(self, g: Tensor) -> Tensor:
        """Σ_p g_pi ξ_p for g (..., P, N): shape (..., N, d)."""
        return torch.matmul(g.transpose(-1, -2), self.xi)

    def split(self, rows: int) -> list[Directions]:
        """The same directions in consecutive parts of at most `rows`."""
        return [Directions(part) for part in self.xi.split(rows)]

    def single(self) -> Directions:
        """The same directions in float32."""
        return Directions(self.xi.float())
