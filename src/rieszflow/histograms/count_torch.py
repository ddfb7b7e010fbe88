"""The bins' passes over points in plain PyTorch operations, for every device that is not the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rieszflow._types import Cloud
from rieszflow.histograms.grid import BinGrid, Projector
from rieszflow.histograms.layout import FIRST, PER_OCTAVE, STEEP, TAIL
from rieszflow.histograms.lines import PiecewiseLinear, check_inside

__all__ = ["Device"]

_TILE = 1 << 25  # projections at a time: 128 MB of float32


class Device:
    """As `cpu.Tiled`. A tile is much larger, and its operations go over all of it."""

    def extent(self, frame: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in _tiles(frame, x)]
        return torch.stack([e[0] for e in ends]).amin(0), torch.stack([e[1] for e in ends]).amax(0)

    def count(
        self, grid: BinGrid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x, w, P, B = cloud.points, cloud.weights, grid.directions.P, grid.B
        mass = torch.zeros(P, B + 2 * TAIL, dtype=torch.float32, device=x.device)
        sums = torch.zeros(P, 2 * TAIL, dtype=torch.float64, device=x.device)
        for part, tile in _tiles(grid, x):
            index, _, u = _place(grid, tile)
            weights = torch.ones_like(u) if w is None else w[part].detach().float().expand_as(u)
            mass.scatter_add_(1, index, weights)
            slot = torch.where(index < TAIL, index, (index - B).clamp(min=0))
            tail = (index < TAIL) | (index >= TAIL + B)
            sums.scatter_add_(1, slot.clamp(max=2 * TAIL - 1), torch.where(tail, u * weights, 0).double())
        check_inside(sums, moments)
        return mass * scale, sums * scale if moments else None

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        x, w, own = cloud.points, cloud.weights, lines.own
        out = torch.empty_like(x)
        for part, tile in _tiles(grid, x):
            index, fraction, _ = _place(grid, tile)
            value = lines.values[..., 0].gather(1, index) + fraction * lines.values[..., 1].gather(1, index)
            if w is not None:
                mine = w[part].detach().float()
                value = mine * value if own is None else mine * (value - mine * (own[0] + fraction * own[1]))
            out[part] = grid.directions.adjoint(value).to(x)
        return out

    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> PiecewiseLinear:
        rise = 2 * (_limited(g) - alpha * _limited(f)).double()
        left = _middle(g) - alpha * _middle(f) - 0.5 * rise
        return PiecewiseLinear((factor * torch.stack([left, rise], -1)).float())


def _tiles(frame: Projector, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    step = max(1, _TILE // frame.directions.P)
    for start in range(0, len(x), step):
        part = slice(start, min(len(x), start + step))
        yield part, frame.directions.project(((x[part].detach() - frame.shift) * frame.scale).float())


def _place(grid: BinGrid, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bin, fraction inside it, and position, (P, m) each; see `layout.place`."""
    B = grid.B
    u = (projected - grid.low[:, None]) * grid.inverse[:, None]
    inside, right = (u >= 0) & (u < B), u >= B
    k = u.floor().nan_to_num(0).clamp(0, B - 1)
    fraction = u - k
    v = 1 + torch.where(right, u - B, -u).clamp(min=0).nan_to_num(1e30) * (FIRST / B)
    mantissa, exponent = torch.frexp(v.clamp(max=1e30))
    within = (2 * mantissa - 1) * PER_OCTAVE
    step = within.floor().clamp(max=PER_OCTAVE - 1)
    far = (exponent - 1) * PER_OCTAVE + step.long()
    within = torch.where(far >= TAIL, 0.5, within - step)
    far = far.clamp(max=TAIL - 1)
    index = torch.where(inside, TAIL + k.long(), torch.where(right, TAIL + B + far, TAIL - 1 - far))
    return index, torch.where(inside, fraction, torch.where(right, within, 1 - within)), u


def _middle(mass: Tensor) -> Tensor:
    """2F − 1 in the middle of every bin."""
    mass = mass.double()
    return 2 * mass.cumsum(1) - mass - 1


def _limited(mass: Tensor) -> Tensor:
    """See `loops.limited`."""
    padded = torch.nn.functional.pad(mass, (1, 1))
    return torch.minimum(mass, STEEP * torch.minimum(padded[:, :-2], padded[:, 2:]))
