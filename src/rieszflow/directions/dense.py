"""Directions as a dense matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow._infra.isolation import isolated_numerics
from rieszflow.directions.base import Directions

__all__ = ["Dense"]


class Dense(Directions):
    """P directions as the rows of a matrix `xi` (P, d)."""

    def __init__(self, xi: Tensor) -> None:
        self.xi = xi
        self.P, self.n = xi.shape

    @isolated_numerics
    def _project(self, x: Tensor) -> Tensor:
        return torch.matmul(self.xi, x.transpose(-1, -2))

    @isolated_numerics
    def adjoint(self, g: Tensor) -> Tensor:
        return torch.matmul(g.transpose(-1, -2), self.xi)

    def split(self, size: int) -> list[Dense]:
        return [Dense(part) for part in self.xi.split(size)]

    def to_float32(self) -> Dense:
        return Dense(self.xi.float())
