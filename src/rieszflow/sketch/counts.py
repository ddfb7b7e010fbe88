"""What is counted in the bins of a plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra import ranks
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud
from rieszflow.sketch.plan import Plan
from rieszflow.sketch.reservoir import Reservoir

__all__ = ["Counts"]

_COUNTS = Workspace()
_PASS = 1 << 22  # points counted in one go: whole numbers of this size are exact in float32


class Counts:
    """The points that were counted, and some of them as they came.

    Attributes:
        masses: points, or the sum of their weights, in every bin: (P, bins) float64 for every part of the plan.
        moments: sums of positions in the geometric bins, (P, 2·TAIL) float64 for every part.
        n: points.
        weight: the sum of their weights; n without weights.
        squares: the sum of squared weights.
        weighted: whether they have weights.
        reservoir: random points.
    """

    def __init__(self, plan: Plan, sample: int, weighted: bool = False) -> None:
        self.n, self.weight, self.squares, self.weighted = 0, 0.0, 0.0, weighted
        shapes = [(grid.directions.P, grid.B + 2 * histograms.TAIL) for grid in plan.grids]
        device = plan.grids[0].shift.device
        self.masses = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
        self.moments = [torch.zeros(P, 2 * histograms.TAIL, dtype=torch.float64, device=device) for P, _ in shapes]
        self.reservoir = Reservoir(sample, plan.settings.d, plan.settings.seed)

    def see(self, plan: Plan, x: Tensor, w: Tensor | None = None) -> None:
        """Count points (n, d) in the data's own units, with weights (n,) or one each."""
        x = x.detach()
        for k in range(0, len(x), _PASS):
            self._see(plan, x[k : k + _PASS], None if w is None else w[k : k + _PASS])

    def _see(self, plan: Plan, x: Tensor, w: Tensor | None) -> None:
        scaled = plan.settings.divide(x)
        if w is None:
            self.reservoir.see(x, scaled)
        for grid, masses, moments in zip(plan.grids, self.masses, self.moments, strict=True):
            grid, points = grid.promote(scaled)
            mass, moment = histograms.select_backend(grid).count(grid, Cloud(points, w), tail_sums=True, workspace=_COUNTS)
            assert moment is not None
            with torch.inference_mode():  # the tables may have been made in it
                masses += mass
                moments += moment
        self.n += len(x)
        self.weight += float(len(x) if w is None else w.double().sum())
        self.squares += float(len(x) if w is None else (w.double() ** 2).sum())

    def add(self, other: Counts) -> None:
        for mine, theirs in zip([*self.masses, *self.moments], [*other.masses, *other.moments], strict=True):
            with torch.inference_mode():
                mine += theirs
        self.n, self.weight = self.n + other.n, self.weight + other.weight
        self.squares, self.weighted = self.squares + other.squares, self.weighted or other.weighted
        self.reservoir.add(other.reservoir)

    def reduce(self, group: Group) -> None:
        """Adds up those of all ranks, on every one of them."""
        for table in (*self.masses, *self.moments):
            ranks.all_reduce_sum(table, group)
        own = np.array([self.n, self.weight, self.squares, self.weighted], np.float64)
        numbers = ranks.all_reduce_sum(own, group)
        self.n, self.weight, self.squares = int(numbers[0]), float(numbers[1]), float(numbers[2])
        self.weighted = bool(numbers[3])  # a rank without points knows nothing of weights
        self.reservoir.reduce(group)

    def tables(self, plan: Plan) -> list[histograms.Histogram]:
        """As the engine wants them: masses that sum to one."""
        self_weight = self.squares / self.weight**2
        return [
            histograms.Histogram(grid, (masses / self.weight).float(), moments / self.weight, self_weight)
            for grid, masses, moments in zip(plan.grids, self.masses, self.moments, strict=True)
        ]
