"""The bins' passes over points on the CPU: fused with the fast transform, or on tiles of a matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for, threads, tile_width
from rieszflow._infra.workspace import empty_like, workspace
from rieszflow._types import Cloud
from rieszflow.directions import HadamardDirections, PatchDirections
from rieszflow.histograms import loops, patch_loops
from rieszflow.histograms.grid import BinGrid, Projector
from rieszflow.histograms.layout import TAIL
from rieszflow.histograms.lines import PiecewiseLinear, check_inside

__all__ = ["FUSED", "PATCHED", "TILED"]

_TILE = 1 << 20  # projections at a time, of a matrix product


class _Cpu:
    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> PiecewiseLinear:
        P, bins = f.shape
        lines = workspace("lines", (P, 2 * bins), np.float32)
        parallel_for(loops.cumulate, P, 1, f.numpy(), g.numpy(), alpha, factor, lines)
        return PiecewiseLinear(torch.from_numpy(lines).view(P, bins, 2))


class Fused(_Cpu):
    """For structured directions: a tile of points is projected and dealt with while it is in the cache.

    Args:
        loops: the compiled loops: extent, count and look-up.
        arguments: what they are told of the directions, of a frame.
        width: numbers of a point that lie side by side in a tile, of the directions.
    """

    def __init__(
        self,
        loops: tuple[Callable[..., object], Callable[..., object], Callable[..., object]],
        arguments: Callable[[Projector], tuple[object, ...]],
        width: Callable[[Projector], int],
    ) -> None:
        self._extent, self._count, self._look_up = loops
        self._arguments, self._width = arguments, width

    def _share(self, loop: Callable[..., object], frame: Projector, x: Tensor, *args: object) -> None:
        points = x.detach().numpy()
        of = points, frame.shift.numpy(), points.dtype.type(frame.scale), *self._arguments(frame)
        parallel_for(loop, len(x), tile_width(self._width(frame)), *of, *args)

    def extent(self, frame: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        extent = np.empty((threads(), 2, frame.directions.P), np.float32)
        extent[:, 0], extent[:, 1] = np.inf, -np.inf
        self._share(self._extent, frame, x, extent)
        return torch.from_numpy(extent[:, 0].min(0)), torch.from_numpy(extent[:, 1].max(0))

    def count(
        self, grid: BinGrid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x, w, P = cloud.points, cloud.weights, grid.directions.P
        counts = workspace("counts", (threads(), P, grid.B + 2 * TAIL), np.int32 if w is None else np.float32)
        counts.fill(0)
        sums = np.zeros((threads(), P if moments else 1, 2 * TAIL))
        self._share(self._count, grid, x, *_range(grid), _weights(w), counts, sums)
        return _merged(counts, sums, moments, scale, memory)

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        x, out = cloud.points, empty_like(cloud.points)
        self._share(self._look_up, grid, x, *_range(grid), _weights(cloud.weights), *_pairs(lines), out.numpy())
        return out


class Tiled(_Cpu):
    """For all other directions: a matrix product projects a tile of points, and threads share its slices."""

    def extent(self, frame: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in _tiles(frame, x)]
        return torch.stack([e[0] for e in ends]).amin(0), torch.stack([e[1] for e in ends]).amax(0)

    def count(
        self, grid: BinGrid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        P = grid.directions.P
        counts = workspace("counts", (1, P, grid.B + 2 * TAIL), np.int32 if cloud.weights is None else np.float32)
        counts.fill(0)
        sums = np.zeros((1, P if moments else 1, 2 * TAIL))
        weights = _weights(cloud.weights)
        for start, tile in _tiles(grid, cloud.points):
            parallel_for(loops.tile_count, P, 1, tile.numpy(), *_range(grid), weights, start, counts[0], sums[0])
        return _merged(counts, sums, moments, scale, memory)

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        out = empty_like(cloud.points)
        weights = _weights(cloud.weights)
        for start, tile in _tiles(grid, cloud.points):
            parallel_for(loops.tile_look_up, grid.directions.P, 1, tile.numpy(), *_range(grid), weights, start, *_pairs(lines))
            out[start : start + tile.shape[1]] = grid.directions.adjoint(tile)
        return out


def _tiles(frame: Projector, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(512, _TILE // frame.directions.P)
    for start in range(0, len(x), step):
        yield start, frame.project(x[start : start + step]).contiguous()


# What the compiled loops are called with.


def _whole(frame: Projector) -> tuple[object, ...]:
    assert isinstance(frame.directions, HadamardDirections)
    return frame.directions.signs[0].numpy(), frame.directions.P


def _patches(frame: Projector) -> tuple[object, ...]:
    local = frame.directions
    assert isinstance(local, PatchDirections)
    places, rows = (np.array([getattr(block, name) for block in local.blocks], np.int32) for name in ("patch", "rows"))
    basis = local.kind.colour_basis
    colours = np.empty((0, 0), np.float32) if basis is None else basis.float().numpy()
    unit, kind = np.float32(1 / (local.kind.stretch * local.n)), local.kind
    heed = np.float32(kind.condition_scale * kind.stretch)
    return local.signs.numpy(), places, rows, local.pixels.numpy(), unit, colours, kind.condition, heed


def _range(grid: BinGrid) -> tuple[object, ...]:
    return grid.low.numpy(), grid.inverse.numpy(), grid.B


def _weights(w: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if w is None else w.detach().float().contiguous().numpy()


def _pairs(lines: PiecewiseLinear) -> tuple[object, ...]:
    """Value and slope of a bin as one number of 64 bits, (P, bins), and what a point's own mass does."""
    own = np.zeros(2, np.float32) if lines.own is None else lines.own.numpy()
    return lines.values.numpy().view(np.uint64)[..., 0], own


def _merged(
    counts: np.ndarray, sums: np.ndarray, moments: bool, scale: float, memory: str | None
) -> tuple[Tensor, Tensor | None]:
    """The workers' tables as one: mass (P, bins), and moments (P, 2·TAIL) if asked for."""
    check_inside(sums, moments)
    shape = counts.shape[1:]
    mass = np.empty(shape, np.float32) if memory is None else workspace(memory, shape, np.float32)
    merged = np.empty(sums.shape[1:])
    parallel_for(loops.merge, len(mass), 1, counts, sums, scale, mass, merged)
    return torch.from_numpy(mass), torch.from_numpy(merged) if moments else None


FUSED = Fused((loops.fused_extent, loops.fused_count, loops.fused_look_up), _whole, lambda frame: frame.directions.n)
# A tile of images may be twice as large: it is swept once a patch, and not once a level of the transform.
PATCHED = Fused(
    (patch_loops.patch_extent, patch_loops.patch_count, patch_loops.patch_look_up),
    _patches,
    lambda frame: len(frame.shift) // 2,
)
TILED = Tiled()
