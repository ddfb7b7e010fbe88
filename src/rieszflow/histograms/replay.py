"""Recorded steps: the functions 2(G − F) on all slices, from which any point's gradient follows without x and y.

They are stored at the edges of a few equal bins, as 8-bit integers in a unit per slice. They are linear in between and constant
beyond; what is lost is less than the noise of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for
from rieszflow._infra.ranks import Group, total
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, Pair
from rieszflow.directions import Directions
from rieszflow.histograms import loops
from rieszflow.histograms.backends import empty_lines, select_backend
from rieszflow.histograms.choose import choose_grids
from rieszflow.histograms.grid import BinGrid, PiecewiseLinear, split_directions
from rieszflow.histograms.histogram import Histogram
from rieszflow.histograms.loops import TAIL
from rieszflow.kernels import Riesz

_X, _Y = Workspace(), Workspace()


@dataclass(frozen=True)
class StepTables:
    """The gradient of MMD² on P slices, as a function of the point.

    Attributes:
        shift: Origin of the projections, (d,) float32.
        scale: Factor of the points before they are projected, () float64, a power of two.
        low: Left end of the equal bins, (P,) float32.
        inverse: Inverse of the bins' width, (P,) float32.
        unit: Unit of the table, (P,) float32.
        table: Values at the B + 1 edges of the equal bins, (P, B + 1) int8.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    inverse: Tensor
    unit: Tensor
    table: Tensor


def record_step(pair: Pair, directions: Directions, bins: int, group: Group = None) -> StepTables:
    """Return the gradient of MMD² for Riesz(1.0) by the points of x, which have no weights, as a function of the point."""
    x, y, P, first = pair.x.points, pair.y.points, directions.P, 0
    unit, table = np.empty(P, np.float32), np.empty((P, bins + 1), np.int8)
    grids = choose_grids(x, y, directions, Riesz(1.0), bins=bins, group=group)
    for grid in grids:
        f = Histogram.from_points(grid, pair.x, workspace=_X, group=group).counts.cpu().numpy()
        g = Histogram.from_points(grid, pair.y, workspace=_Y, group=group).counts.cpu().numpy()
        factor = 4 * Riesz(1.0).basis_constant(grid.directions.n) / P / total(len(x), group)
        rows, first = slice(first, first + len(f)), first + len(f)
        parallel_for(loops.encode_step, len(f), 1, f, g, factor, unit[rows], table[rows])
    low, inverse = (torch.cat([getattr(grid, name) for grid in grids]).cpu() for name in ("low", "inverse"))
    scale = torch.tensor(grids[0].scale, dtype=torch.float64, device="cpu")
    shift = grids[0].shift.float().cpu()
    return StepTables(shift, scale, low, inverse, torch.from_numpy(unit), torch.from_numpy(table))


def replay_step(step: StepTables, directions: Directions, z: Tensor) -> Tensor:
    """Return the recorded gradient at the points z (n, d), on any device; `directions` are those of `record_step`."""
    gradient, first, shift = None, 0, step.shift.to(z)
    for part in split_directions(directions):
        rows = slice(first, first + part.P)
        bins = step.table.shape[1] - 1
        grid = BinGrid(part, shift, float(step.scale), step.low[rows].to(z.device), step.inverse[rows].to(z.device), bins)
        new = select_backend(grid).look_up(grid, Cloud(z), _decode(step.table[rows], step.unit[rows], z.device))
        gradient, first = new if gradient is None else gradient.add_(new), first + part.P
    assert gradient is not None
    return gradient


def _decode(table: Tensor, unit: Tensor, device: torch.device) -> PiecewiseLinear:
    P, edges = table.shape
    if device.type == "cpu":
        lines = empty_lines(P, edges)
        parallel_for(loops.decode_step, P, 1, table.numpy(), unit.numpy(), lines)
        return PiecewiseLinear(torch.from_numpy(lines), bounded=True)
    values = table.to(device).float() * unit.to(device)[:, None]
    left = torch.cat([values[:, :1].expand(-1, TAIL), values, values[:, -1:].expand(-1, TAIL)], 1)
    return PiecewiseLinear(torch.stack([left[:, :-1], left.diff(dim=1)], -1))
