"""Recorded steps: the functions 2(G − F) on all slices, from which any point's gradient follows without x and y.

They are stored at the edges of a few equal bins, as 8-bit integers in a unit per slice. They are linear in between and constant
beyond; what is lost is less than the noise of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rieszflow._infra.numerics import to_device
from rieszflow._infra.ranks import Group, total
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, Pair
from rieszflow.constraints import Constraint, Labels
from rieszflow.directions import Directions
from rieszflow.histograms.backends import select_backend
from rieszflow.histograms.choose import choose_grids
from rieszflow.histograms.grid import BinGrid, split_directions
from rieszflow.histograms.histogram import Histogram
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

    With `Labels`, all of them have a first axis of K entries, for the coordinates that follow the label.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    inverse: Tensor
    unit: Tensor
    table: Tensor


def record_step(
    pair: Pair, directions: Directions, bins: int, group: Group = None, frozen: Constraint | None = None
) -> StepTables:
    """Return the gradient of MMD² for Riesz(1.0) by the points of x, which have no weights, as a function of the point.

    With `Labels`, it is the gradient of Σ_c N_c MMD²(x_c, y_c) / N over the labels c.
    """
    x, y, P, first = pair.x.points, pair.y.points, directions.P, 0
    if isinstance(frozen, Labels):
        clouds = zip(*([t[rows, 1:].contiguous() for rows in frozen.rows(t)] for t in (x, y)), strict=True)
        steps = []
        for a, b in clouds:
            step = record_step(Pair(Cloud(a), Cloud(b)), directions, bins)
            steps.append(replace(step, unit=step.unit * (len(a) / len(x))))
        return StepTables(**{name: torch.stack([getattr(step, name) for step in steps]) for name in vars(steps[0])})
    unit = torch.empty(P, dtype=torch.float32, device=x.device)
    table = torch.empty(P, bins + 1, dtype=torch.int8, device=x.device)
    grids = choose_grids(x, y, directions, Riesz(1.0), bins=bins, group=group)
    for grid in grids:
        f = Histogram.from_points(grid, pair.x, workspace=_X, group=group).counts
        g = Histogram.from_points(grid, pair.y, workspace=_Y, group=group).counts
        factor = 4 * Riesz(1.0).basis_constant(grid.directions.n) / P / total(len(x), group)
        rows, first = slice(first, first + len(f)), first + len(f)
        select_backend(grid).encode(f, g, factor, unit[rows], table[rows])
    low, inverse = (torch.cat([getattr(grid, name) for grid in grids]) for name in ("low", "inverse"))
    scale = torch.as_tensor(grids[0].scale, dtype=torch.float64, device=x.device)
    return StepTables(grids[0].shift.float(), scale, low, inverse, unit, table)


def replay_step(step: StepTables, directions: Directions, z: Tensor, frozen: Constraint | None = None) -> Tensor:
    """Return the recorded gradient at the points z (n, d), on any device; `directions` are those of `record_step`."""
    if isinstance(frozen, Labels):
        gradients = torch.zeros_like(z)
        for k, rows in enumerate(frozen.rows(z)):
            if len(points := z[rows, 1:].contiguous()):
                own = StepTables(**{name: t[k] for name, t in vars(step).items()})
                gradients[rows, 1:] = replay_step(own, directions, points)
        return gradients
    gradient, first, shift, bins = None, 0, to_device(step.shift, z.device).to(z), step.table.shape[1] - 1
    low, inverse, unit, table = (to_device(t, z.device) for t in (step.low, step.inverse, step.unit, step.table))
    scale = float(step.scale) if z.device.type == "cpu" else to_device(step.scale, z.device)
    for part in split_directions(directions):
        rows = slice(first, first + part.P)
        grid = BinGrid(part, shift, scale, low[rows], inverse[rows], bins)
        backend = select_backend(grid)
        new = backend.look_up(grid, Cloud(z), backend.decode(unit[rows], table[rows]))
        gradient, first = new if gradient is None else gradient.add_(new), first + part.P
    assert gradient is not None
    return gradient
