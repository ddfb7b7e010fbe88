"""The passes over the points of a cloud: counting into bins, and looking up piecewise linear functions.

Every pass projects the points again, a tile at a time. On the CPU the projection is a fused fast transform or a matrix product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for, threads, tile_width
from rieszflow._infra.workspace import Workspace, empty_like
from rieszflow._types import Cloud
from rieszflow.directions import HadamardDirections, PatchDirections
from rieszflow.histograms import loops, patch_loops
from rieszflow.histograms.grid import BinGrid, PiecewiseLinear, Projector, check_inside
from rieszflow.histograms.loops import FIRST, PER_OCTAVE, STEEP, TAIL

_COUNTS, _LINES = Workspace(), Workspace()


class Backend:
    """The passes over points in PyTorch operations on large tiles, for all devices; compiled loops replace them on the CPU.

    Nothing waits for the device, except for values: where the CPU refuses points that are too far away, a slice becomes NaN.
    """

    tile = 1 << 25  # number of projections at a time
    shortest = 1  # smallest number of points at a time

    def _size(self, projector: Projector) -> int:
        return max(self.shortest, self.tile // projector.directions.P)

    def extent(self, projector: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest projection on every slice, (P,) each."""
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in projector.tiles(x, self._size(projector))]
        return torch.stack([e[0] for e in ends]).amin(0), torch.stack([e[1] for e in ends]).amax(0)

    def count(
        self, grid: BinGrid, cloud: Cloud, *, tail_sums: bool = False, scale: float = 1.0, workspace: Workspace | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Count a cloud (N, d), with weights 1 if it has none, and multiply all results by `scale`.

        Returns the counts (P, bins), float32, in the memory of a workspace until its next use; and, if `tail_sums`, the sums of
        weight·u over the positions u in the geometric bins, (P, 2·TAIL) float64.
        """
        x, w, P, B = cloud.points, cloud.weights, grid.directions.P, grid.B
        counts = torch.zeros(P, B + 2 * TAIL, dtype=torch.float32, device=x.device)
        sums = torch.zeros_like(counts, dtype=torch.float64) if tail_sums else None
        for rows, tile in grid.tiles(x, self._size(grid)):
            index, _, u = _locate(grid, tile)
            weights = torch.where(u.isnan(), u, 1.0 if w is None else w[rows].detach().float())
            counts.scatter_add_(1, index, weights)
            if sums is not None:
                sums.scatter_add_(1, index, (u * weights).double())
        if sums is not None:
            sums = torch.cat([sums[:, :TAIL], sums[:, TAIL + B :]], 1).mul_(scale)
            check_inside(sums.abs().amax().item())
        return counts.mul_(scale), sums

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        """Return Σ_p w_i line_p(⟨ξ_p, x_i⟩) ξ_p for every point, (N, d) in the points' dtype; w_i = 1 without weights."""
        x, w, own = cloud.points, cloud.weights, lines.own
        out = torch.empty_like(x)
        for rows, tile in grid.tiles(x, self._size(grid)):
            index, fraction, _ = _locate(grid, tile)
            value = lines.values[..., 0].gather(1, index) + fraction * lines.values[..., 1].gather(1, index)
            if w is not None:
                mine = w[rows].detach().float()
                value = mine * value if own is None else mine * (value - mine * (own[0] + fraction * own[1]))
            out[rows] = grid.directions.adjoint(value).to(x)
        return out

    def encode(self, f: Tensor, g: Tensor, factor: float, unit: Tensor, table: Tensor) -> None:
        """Write factor·(G − F) at the edges of the equal bins to the `unit` (P,) and `table` (P, B + 1) of `StepTables`."""
        edges = (g - f).cumsum(1, dtype=torch.float64)[:, TAIL - 1 : f.shape[1] - TAIL]
        largest = edges.abs().amax(1)
        unit.copy_(factor * largest / 127)
        table.copy_((edges * (127 / largest).masked_fill(largest == 0, 0)[:, None]).round())

    def decode(self, unit: Tensor, table: Tensor) -> PiecewiseLinear:
        """Return the function that `encode` wrote, constant beyond the range, valid until this thread's next call."""
        values = table.float() * unit[:, None]
        left = torch.cat([values[:, :1].expand(-1, TAIL), values, values[:, -1:].expand(-1, TAIL)], 1)
        return PiecewiseLinear(torch.stack([left[:, :-1], left.diff(dim=1)], -1))

    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> PiecewiseLinear:
        """Return factor·[2G − 1 − α(2F − 1)] for the counts f and g of F and G, valid until this thread's next call."""
        rise = 2 * (_spread_part(g) - alpha * _spread_part(f)).double()
        left = _middle(g) - alpha * _middle(f) - 0.5 * rise
        return PiecewiseLinear((factor * torch.stack([left, rise], -1)).float())


def _locate(grid: BinGrid, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return bin (tail bins included; 0 for NaN), fraction inside it and position in bin widths, (P, m) each."""
    u = (projected - grid.low[:, None]) * grid.inverse[:, None]
    inner = u.clamp(0, grid.B)
    beyond = u - inner
    v = beyond.abs().mul_(FIRST / grid.B).add_(1).clamp_(max=1e30)
    # The bits of v = 2^e·m are those of the integer 2^23 (e + 127 + m − 1), which is linear between powers of two.
    octaves = (v.view(torch.int32) - (127 << 23)).float() / (1 << 23)
    place = inner.add_(TAIL).add_((PER_OCTAVE * octaves).copysign_(beyond))
    index = place.floor().nan_to_num_(0).clamp_(0, grid.B + 2 * TAIL - 1)
    fraction = place.sub_(index)
    return index.long(), torch.where((fraction >= 0) & (fraction <= 1), fraction, 0.5), u


def _middle(counts: Tensor) -> Tensor:
    """Return 2F − 1 in the middle of every bin."""
    counts = counts.double()
    return 2 * counts.cumsum(1) - counts - 1


def _spread_part(counts: Tensor) -> Tensor:
    """Return the part of the counts that is spread over the bins; see `loops.spread_part`."""
    padded = torch.nn.functional.pad(counts, (1, 1))
    return torch.minimum(counts, STEEP * torch.minimum(padded[:, :-2], padded[:, 2:]))


class _Tiled(Backend):
    """The backend of all directions on the CPU: a matrix product projects a tile of points, and threads share its slices."""

    tile, shortest = 1 << 20, 512
    one_table = True  # all threads count into one table, on different slices

    def count(
        self, grid: BinGrid, cloud: Cloud, *, tail_sums: bool = False, scale: float = 1.0, workspace: Workspace | None = None
    ) -> tuple[Tensor, Tensor | None]:
        P, bins, workers = grid.directions.P, grid.B + 2 * TAIL, 1 if self.one_table else threads()
        tables = _COUNTS.array((workers, P, bins), np.int32 if cloud.weights is None else np.float32)
        tables.fill(0)
        sums = np.zeros((workers, P if tail_sums else 1, 2 * TAIL))  # one row serves all slices if nobody needs them
        self._count(grid, cloud.points, *_bins_and_weights(grid, cloud), tables, sums)
        check_inside(float(np.abs(sums).max()), tail_sums)
        counts = np.empty((P, bins), np.float32) if workspace is None else workspace.array((P, bins), np.float32)
        merged_sums = np.empty(sums.shape[1:])
        parallel_for(loops.merge, P, 1, tables, sums, scale, counts, merged_sums)
        return torch.from_numpy(counts), torch.from_numpy(merged_sums) if tail_sums else None

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        pairs = lines.values.numpy().view(np.uint64)[..., 0]
        own = None if lines.bounded else np.zeros(2, np.float32) if lines.own is None else lines.own.numpy()
        out = empty_like(cloud.points)
        self._look_up(out, grid, cloud.points, *_bins_and_weights(grid, cloud), pairs, own)
        return out

    def encode(self, f: Tensor, g: Tensor, factor: float, unit: Tensor, table: Tensor) -> None:
        parallel_for(loops.encode_step, len(f), 1, f.numpy(), g.numpy(), factor, unit.numpy(), table.numpy())

    def decode(self, unit: Tensor, table: Tensor) -> PiecewiseLinear:
        lines = _LINES.array((*table.shape, 2), np.float32)
        loops.decode_step(0, len(table), 0, 1, table.numpy(), unit.numpy(), lines)  # waiting for threads takes longer
        return PiecewiseLinear(torch.from_numpy(lines), bounded=True)

    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> PiecewiseLinear:
        lines = _LINES.array((*f.shape, 2), np.float32)
        parallel_for(loops.cumulate, len(f), 1, f.numpy(), g.numpy(), alpha, factor, lines)
        return PiecewiseLinear(torch.from_numpy(lines))

    def _count(self, grid: BinGrid, x: Tensor, *args: object) -> None:
        for rows, tile in grid.tiles(x, self._size(grid)):
            parallel_for(loops.tile_count, len(tile), 1, tile.numpy(), rows.start, *args)

    def _look_up(self, out: Tensor, grid: BinGrid, x: Tensor, bins: object, w: object, *lines: object) -> None:
        for rows, tile in grid.tiles(x, self._size(grid)):
            parallel_for(loops.tile_look_up, len(tile), 1, tile.numpy(), rows.start, bins, w, *lines)
            out[rows] = grid.directions.adjoint(tile)


def _bins_and_weights(grid: BinGrid, cloud: Cloud) -> tuple[tuple[object, ...], np.ndarray]:
    w = np.empty(0, np.float32) if cloud.weights is None else cloud.weights.detach().float().contiguous().numpy()
    return (grid.low.numpy(), grid.inverse.numpy(), grid.B), w


class _Fused(_Tiled):
    """The backend of structured directions: a tile of points is projected and used while it is in the cache."""

    one_table = False

    def _run(self, projector: Projector, x: Tensor, *args: object) -> None:
        directions = projector.directions
        if isinstance(directions, PatchDirections):
            # A tile of images may be twice as large: it is swept once per patch instead of once per level of the transform.
            loop, arguments, width = patch_loops.patch_pass, _patches(directions), directions.kind.d // 2
        else:
            assert isinstance(directions, HadamardDirections)
            loop, arguments, width = loops.hadamard_pass, (directions.signs[0].numpy(), directions.P), directions.n
        points = x.detach().numpy()
        source = points, projector.shift.numpy(), points.dtype.type(projector.scale)
        parallel_for(loop, len(x), tile_width(width), source, arguments, *args)

    def extent(self, projector: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        extent = np.empty((threads(), 2, projector.directions.P), np.float32)
        extent[:, 0], extent[:, 1] = np.inf, -np.inf
        none = np.empty(0, np.float32)
        self._run(projector, x, extent, (none, none, 0), None, None, None, None, None, None)
        return torch.from_numpy(extent[:, 0].min(0)), torch.from_numpy(extent[:, 1].max(0))

    def _count(self, grid: BinGrid, x: Tensor, *args: object) -> None:
        self._run(grid, x, None, *args, None, None, None)

    def _look_up(self, out: Tensor, grid: BinGrid, x: Tensor, bins: object, w: object, *lines: object) -> None:
        self._run(grid, x, None, bins, w, None, None, *lines, out.numpy())


def _patches(directions: PatchDirections) -> tuple[object, ...]:
    """Return the directions as `patch_loops` takes them."""
    places, rows = (np.array([getattr(block, name) for block in directions.blocks], np.int32) for name in ("patch", "rows"))
    kind, basis = directions.kind, directions.kind.colour_basis
    colours = np.empty((0, 0), np.float32) if basis is None else basis.float().numpy()
    unit, condition_scale = np.float32(1 / (kind.stretch * directions.n)), np.float32(kind.condition_scale * kind.stretch)
    return directions.signs.numpy(), places, rows, directions.pixels.numpy(), unit, colours, kind.condition, condition_scale


_FUSED, _TILED, _TORCH = _Fused(), _Tiled(), Backend()


def select_backend(projector: Projector) -> Backend:
    """Return the backend for the directions and the device of a projector."""
    directions = projector.directions
    if projector.shift.device.type != "cpu":
        return _TORCH
    fused = isinstance(directions, PatchDirections) or (isinstance(directions, HadamardDirections) and directions.first == 0)
    return _FUSED if fused else _TILED
