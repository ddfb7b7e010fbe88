"""What is counted: a cloud's mass in the bins of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow._infra.ranks import Group, all_reduce_sum, total
from rieszflow._types import Batches, Cloud
from rieszflow.histograms import backends
from rieszflow.histograms.grid import BinGrid
from rieszflow.histograms.layout import TAIL

__all__ = ["Histogram", "count_batches", "counted"]


@dataclass(frozen=True)
class Histogram:
    """A cloud, counted on a part of the slices.

    Attributes:
        grid: where the bins are.
        mass: (P, TAIL + B + TAIL) float32, on the grid's device; each slice sums to one.
        moments: (P, 2·TAIL) float64, Σ mass·u over the positions u in the geometric bins, which values of D² need; or None.
        self_weight: Σ w² over the points' weights.
    """

    grid: BinGrid
    mass: Tensor
    moments: Tensor | None
    self_weight: float

    @property
    def equal(self) -> Tensor:
        """The mass in the equal bins, (P, B)."""
        return self.mass[:, TAIL : TAIL + self.grid.B]

    def outside(self) -> float:
        """The share of projections that lie outside of the equal bins."""
        left, right = self.mass[:, :TAIL], self.mass[:, TAIL + self.grid.B :]
        if self.mass.device.type == "cpu":
            # By NumPy: PyTorch's threads go on spinning after an operation, in the way of those that count.
            return float(left.numpy().sum() + right.numpy().sum()) / self.grid.directions.P
        return float(left.sum() + right.sum()) / self.grid.directions.P


def counted(grid: BinGrid, cloud: Cloud, *, moments: bool = False, memory: str | None = None, group: Group = None) -> Histogram:
    """The table of a cloud (N, d), of all ranks' points. See `backends.Passes.count` for `moments` and `memory`."""
    x, w = cloud.points, cloud.weights
    count = backends.of(grid).count
    if group is None:
        mass, sums = count(grid, cloud, moments=moments, scale=1 / len(x) if w is None else 1.0, memory=memory)
        return Histogram(grid, mass, sums, 1 / len(x) if w is None else float((w.detach().double() ** 2).sum()))
    mass, sums = count(grid, cloud, moments=moments, scale=1.0, memory=memory)
    many = total(len(x), group)
    for part in (mass, sums):
        if part is not None:
            all_reduce_sum(part, group)
            if w is None:
                part /= many
    if w is None:
        return Histogram(grid, mass, sums, 1 / many)
    return Histogram(grid, mass, sums, float(all_reduce_sum((w.detach().double() ** 2).sum().reshape(1), group)))


def count_batches(grids: Sequence[BinGrid], batches: Batches, group: Group = None) -> list[Histogram]:
    """The tables of a cloud that comes in batches, on all parts of the slices, in one pass over it."""
    n = 0
    sums = [torch.zeros(g.directions.P, g.B + 2 * TAIL, dtype=torch.float64, device=g.shift.device) for g in grids]
    for batch in batches:
        n += len(batch)
        for grid, counts in zip(grids, sums, strict=True):
            cloud = Cloud(batch.to(grid.shift))
            mass, _ = backends.of(grid).count(grid, cloud, moments=False, scale=1.0, memory="mass of y")
            counts += mass
    n = total(n, group)
    return [
        Histogram(g, (all_reduce_sum(counts, group) / n).float(), None, 1 / n) for g, counts in zip(grids, sums, strict=True)
    ]
