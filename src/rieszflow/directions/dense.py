"""Directions as a dense matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow._infra.isolation import plain
from rieszflow.directions.base import Directions

__all__ = ["Dense"]


class Dense(Directions):
    """P directions as the rows of a matrix `xi` (P, d)."""

    def __init__(self, xi: Tensor) -> None:
        self.xi = xi
        self.P, self.n = xi.shape

    @plain
    def _project(self, x: Tensor) -> Tensor:
        return torch.matmul(self.xi, x.transpose(-1, -2))

    @plain
    def adjoint(self, g: Tensor) -> Tensor:
        return torch.matmul(g.transpose(-1, -2), self.xi)

    def split(self, size: int) -> list[Dense]:
        return [Dense(part) for part in self.xi.split(size)]

    def to_float32(self) -> Dense:
        return Dense(self.xi.float())
