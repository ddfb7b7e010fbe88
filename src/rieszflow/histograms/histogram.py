"""Histograms of point clouds on slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow._infra.ranks import Group, all_reduce_sum, total
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Batches, Cloud
from rieszflow.histograms.backends import select_backend
from rieszflow.histograms.grid import BinGrid
from rieszflow.histograms.loops import TAIL

__all__ = ["Histogram", "count_batches"]

_BATCH = Workspace()


@dataclass(frozen=True)
class Histogram:
    """A cloud, counted on a part of the slices.

    Attributes:
        grid: The bins.
        counts: The share of points in every bin, (P, TAIL + B + TAIL) float32, on the grid's device; every slice sums to one.
        tail_sums: Σ share·u over the positions u in the geometric bins, (P, 2·TAIL) float64, which values need; or None.
        self_weight: Σ w² over the points' weights.
    """

    grid: BinGrid
    counts: Tensor
    tail_sums: Tensor | None
    self_weight: float

    @classmethod
    def from_points(
        cls,
        grid: BinGrid,
        cloud: Cloud,
        *,
        tail_sums: bool = False,
        workspace: Workspace | None = None,
        group: Group = None,
    ) -> Histogram:
        """Count a cloud (N, d), or that of all ranks of a group; see `Backend.count` for `tail_sums` and `workspace`."""
        n, w = len(cloud.points), cloud.weights
        scale = 1 / n if w is None and group is None else 1.0
        counts, sums = select_backend(grid).count(grid, cloud, tail_sums=tail_sums, scale=scale, workspace=workspace)
        if group is not None:
            n = total(n, group)
            for table in (counts, sums):
                if table is not None:
                    all_reduce_sum(table, group)
                    if w is None:
                        table /= n
        if w is None:
            return cls(grid, counts, sums, 1 / n)
        return cls(grid, counts, sums, float(all_reduce_sum((w.detach().double() ** 2).sum().reshape(1), group)))

    @property
    def inner(self) -> Tensor:
        """The counts in the equal bins, (P, B)."""
        return self.counts[:, TAIL : TAIL + self.grid.B]

    def outside(self) -> float:
        """Return the share of projections outside the equal bins."""
        left, right = self.counts[:, :TAIL], self.counts[:, TAIL + self.grid.B :]
        if self.counts.device.type == "cpu":
            # In NumPy, because PyTorch's threads keep spinning after an operation and slow down those that count.
            return float(left.numpy().sum() + right.numpy().sum()) / self.grid.directions.P
        return float(left.sum() + right.sum()) / self.grid.directions.P


def count_batches(grids: Sequence[BinGrid], batches: Batches, group: Group = None) -> list[Histogram]:
    """Count a cloud that comes in batches on all parts of the slices, in one pass."""
    n = 0
    sums = [torch.zeros(g.directions.P, g.B + 2 * TAIL, dtype=torch.float64, device=g.shift.device) for g in grids]
    for batch in batches:
        n += len(batch)
        for grid, table in zip(grids, sums, strict=True):
            table += select_backend(grid).count(grid, Cloud(batch.to(grid.shift)), workspace=_BATCH)[0]
    n = total(n, group)
    return [Histogram(g, (all_reduce_sum(table, group) / n).float(), None, 1 / n) for g, table in zip(grids, sums, strict=True)]
