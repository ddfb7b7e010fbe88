"""What a step of a flow did, written down so small that it can be kept: its slices' differences of distribution functions.

A gradient of D² looks up 2(G − F) in a table for every slice. With that table, and without x and y, any other point can be
moved as x was: a point that takes no part in F and G follows the same flow.

Few bins are enough for that, because the noise of one slice is larger than what is lost between two edges. The functions are
kept at the edges of the equal bins, as whole numbers of 8 bits in a unit of every slice's own, and are linear in between.
Beyond the last edge they stay as they are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.jit import parallel_for
from rieszflow._infra.ranks import Group, total
from rieszflow._infra.workspace import workspace
from rieszflow._types import Cloud, Pair
from rieszflow.directions import Directions
from rieszflow.histograms import backends, loops
from rieszflow.histograms.choose import choose_bins, frames, sample_points
from rieszflow.histograms.grid import BinGrid, parts
from rieszflow.histograms.layout import TAIL
from rieszflow.histograms.lines import PiecewiseLinear
from rieszflow.histograms.table import counted
from rieszflow.kernels import Riesz

__all__ = ["StepTables", "record_step", "replay_step"]


@dataclass(frozen=True)
class StepTables:
    """∇D² on P slices, as a function of the point.

    Attributes:
        shift: origin of the projections, (d,) float32.
        scale: factor of the points before they are projected, () float64, a power of two.
        low: left end of the equal bins, (P,) float32.
        inverse: equal bins in a unit, (P,) float32.
        unit: what 1 in the table stands for, (P,) float32.
        table: values at the B + 1 edges of the equal bins, (P, B + 1) int8.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    inverse: Tensor
    unit: Tensor
    table: Tensor


@isolated_numerics
def record_step(pair: Pair, directions: Directions, bins: int, group: Group = None) -> StepTables:
    """What the gradient by the points of x is on these slices, for the kernel Riesz(1.0).

    Args:
        pair: clouds (N, d) and (M, d), x without weights. With a group they are this rank's parts.
        directions: the slices.
        bins: B.
        group: as in `base.Problem`.
    """
    x, y = pair.x.points, pair.y.points
    points, _ = sample_points(x, y, group)
    tables, units, grids = [], [], []
    for frame in frames(directions, points, x):
        grid = choose_bins(frame, points, bins)
        f = counted(grid, pair.x, memory="mass of x", group=group).mass.cpu().numpy()
        g = counted(grid, pair.y, memory="mass of y", group=group).mass.cpu().numpy()
        unit, table = np.empty(len(f), np.float32), np.empty((len(f), bins + 1), np.int8)
        factor = 4 * Riesz(1.0).basis_constant(grid.directions.n) / directions.P / total(len(x), group)
        parallel_for(loops.write_down, len(f), 1, f, g, factor, unit, table)
        tables.append(torch.from_numpy(table))
        units.append(torch.from_numpy(unit))
        grids.append(grid)
    low, inverse = (torch.cat([getattr(grid, name) for grid in grids]).cpu() for name in ("low", "inverse"))
    scale = torch.tensor(grids[0].scale, dtype=torch.float64)
    return StepTables(grids[0].shift.float().cpu(), scale, low, inverse, torch.cat(units), torch.cat(tables))


@isolated_numerics
def replay_step(trace: StepTables, directions: Directions, z: Tensor) -> Tensor:
    """∇D² at the points z (n, d), on any device, from what was written down; `directions` are those of `traced`."""
    gradient, first, shift = None, 0, trace.shift.to(z)
    for part in parts(directions):
        mine = slice(first, first + part.P)
        bins = trace.table.shape[1] - 1
        grid = BinGrid(part, shift, float(trace.scale), trace.low[mine].to(z.device), trace.inverse[mine].to(z.device), bins)
        lines = _lines(trace.table[mine], trace.unit[mine], z.device)
        update_positions = backends.of(grid).look_up(grid, Cloud(z), lines)
        gradient, first = update_positions if gradient is None else gradient.add_(update_positions), first + part.P
    assert gradient is not None
    return gradient


def _lines(table: Tensor, unit: Tensor, device: torch.device) -> PiecewiseLinear:
    """The table as passes look it up: value and rise of every bin, geometric ones too."""
    P, bins = table.shape[0], table.shape[1] - 1 + 2 * TAIL
    if device.type == "cpu":
        lines = workspace("lines", (P, 2 * bins), np.float32)
        parallel_for(loops.read_back, P, 1, table.numpy(), unit.numpy(), lines)
        return PiecewiseLinear(torch.from_numpy(lines).view(P, bins, 2))
    edges = table.to(device).float() * unit.to(device)[:, None]
    left = torch.cat([edges[:, :1].expand(-1, TAIL), edges, edges[:, -1:].expand(-1, TAIL)], 1)
    return PiecewiseLinear(torch.stack([left[:, :-1], left.diff(dim=1)], -1))
