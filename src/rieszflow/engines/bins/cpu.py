"""The bins' passes over points on the CPU: fused with the fast transform, or on tiles of a matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rieszflow._clouds import Cloud
from rieszflow._numba import share, threads, tile_width
from rieszflow._scratch import fresh, scratch
from rieszflow.directions import Hadamard
from rieszflow.engines.bins import loops
from rieszflow.engines.bins.grid import Frame, Grid
from rieszflow.engines.bins.layout import TAIL
from rieszflow.engines.bins.lines import Lines, check_inside

__all__ = ["Fused", "Tiled"]

_TILE = 1 << 20  # projections at a time, of a matrix product


class _Cpu:
    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> Lines:
        P, bins = f.shape
        lines = scratch("lines", (P, 2 * bins), np.float32)
        share(loops.cumulate, P, 1, f.numpy(), g.numpy(), alpha, factor, lines)
        return Lines(torch.from_numpy(lines).view(P, bins, 2))


class Fused(_Cpu):
    """For whole blocks of Hadamard directions: a tile of points is projected and dealt with while it is in the cache."""

    def extent(self, frame: Frame, x: Tensor) -> tuple[Tensor, Tensor]:
        extent = np.empty((threads(), 2, frame.directions.P), np.float32)
        extent[:, 0], extent[:, 1] = np.inf, -np.inf
        share(loops.fused_extent, len(x), tile_width(frame.directions.n), *_transform(frame, x), extent)
        return torch.from_numpy(extent[:, 0].min(0)), torch.from_numpy(extent[:, 1].max(0))

    def count(
        self, grid: Grid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x, w, P = cloud.points, cloud.weights, grid.directions.P
        counts = scratch("counts", (threads(), P, grid.B + 2 * TAIL), np.int32 if w is None else np.float32)
        counts.fill(0)
        sums = np.zeros((threads(), P if moments else 1, 2 * TAIL))
        args = *_transform(grid, x), *_range(grid), _weights(w), counts, sums
        share(loops.fused_count, len(x), tile_width(grid.directions.n), *args)
        return _merged(counts, sums, moments, scale, memory)

    def look_up(self, grid: Grid, cloud: Cloud, lines: Lines) -> Tensor:
        x, out = cloud.points, fresh(cloud.points)
        args = *_transform(grid, x), *_range(grid), _weights(cloud.weights), *_pairs(lines), out.numpy()
        share(loops.fused_look_up, len(x), tile_width(grid.directions.n), *args)
        return out


class Tiled(_Cpu):
    """For all other directions: a matrix product projects a tile of points, and threads share its slices."""

    def extent(self, frame: Frame, x: Tensor) -> tuple[Tensor, Tensor]:
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in _tiles(frame, x)]
        return torch.stack([e[0] for e in ends]).amin(0), torch.stack([e[1] for e in ends]).amax(0)

    def count(
        self, grid: Grid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        P = grid.directions.P
        counts = scratch("counts", (1, P, grid.B + 2 * TAIL), np.int32 if cloud.weights is None else np.float32)
        counts.fill(0)
        sums = np.zeros((1, P if moments else 1, 2 * TAIL))
        weights = _weights(cloud.weights)
        for start, tile in _tiles(grid, cloud.points):
            share(loops.tile_count, P, 1, tile.numpy(), *_range(grid), weights, start, counts[0], sums[0])
        return _merged(counts, sums, moments, scale, memory)

    def look_up(self, grid: Grid, cloud: Cloud, lines: Lines) -> Tensor:
        out = fresh(cloud.points)
        weights = _weights(cloud.weights)
        for start, tile in _tiles(grid, cloud.points):
            share(loops.tile_look_up, grid.directions.P, 1, tile.numpy(), *_range(grid), weights, start, *_pairs(lines))
            out[start : start + tile.shape[1]] = grid.directions.adjoint(tile)
        return out


def _tiles(frame: Frame, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(512, _TILE // frame.directions.P)
    for start in range(0, len(x), step):
        yield start, frame.project(x[start : start + step]).contiguous()


# What the compiled loops are called with.


def _transform(frame: Frame, x: Tensor) -> tuple[object, ...]:
    assert isinstance(frame.directions, Hadamard)
    points = x.detach().numpy()
    signs = frame.directions.signs[0].numpy()
    return points, frame.shift.numpy(), points.dtype.type(frame.scale), signs, frame.directions.P


def _range(grid: Grid) -> tuple[object, ...]:
    return grid.low.numpy(), grid.inverse.numpy(), grid.B


def _weights(w: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if w is None else w.detach().float().contiguous().numpy()


def _pairs(lines: Lines) -> tuple[object, ...]:
    """Value and slope of a bin as one number of 64 bits, (P, bins), and what a point's own mass does."""
    own = np.zeros(2, np.float32) if lines.own is None else lines.own.numpy()
    return lines.values.numpy().view(np.uint64)[..., 0], own


def _merged(
    counts: np.ndarray, sums: np.ndarray, moments: bool, scale: float, memory: str | None
) -> tuple[Tensor, Tensor | None]:
    """The workers' tables as one: mass (P, bins), and moments (P, 2·TAIL) if asked for."""
    check_inside(sums, moments)
    shape = counts.shape[1:]
    mass = np.empty(shape, np.float32) if memory is None else scratch(memory, shape, np.float32)
    merged = np.empty(sums.shape[1:])
    share(loops.merge, len(mass), 1, counts, sums, scale, mass, merged)
    return torch.from_numpy(mass), torch.from_numpy(merged) if moments else None
