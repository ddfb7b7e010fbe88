"""Bins for many groups of points at once, on every slice as narrow as the narrowest group requires.

Points are binned once, with edges between random points of every group. Where many groups overlap, such bins are narrower than
any group requires. So neighbouring bins are merged as long as, for every group, h·m² stays below a given share of the group's
width, where h is the length of the merged bin and m the share of the group in it. A bin can change D² by 2h·m·|F − G| + h·m²,
where F and G are the distribution functions of two groups; the first term vanishes if both have the same mean in the bin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch

from rieszflow import histograms
from rieszflow._infra import validate
from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Stream
from rieszflow.directions import Directions
from rieszflow.kernels import Riesz
from rieszflow.sketch.plan import SliceSettings

__all__ = ["Binned", "Merged"]

_EDGES = 1 << 14  # edges of the bins before merging, from all groups together
_EDGES_OF_A_GROUP = 512
_NUMBERS = 1 << 26  # coordinates, at most, of the points that the edges are placed between
_TAIL = 64  # geometric bins on either side, two per octave: an outlier falls into a bin of its own magnitude
_WIDTHS = (0.1, 0.05, 0.02, 0.0)  # quantiles cut off on either side to measure a group's width; the next one if the width is 0
_TOGETHER = 1 << 25  # numbers of a table at a time
_ATTEMPTS = 8  # to merge bins further, each time with twice the limit of m·√h, until there are few enough
_ENOUGH = 4  # times that limit still resolve the groups


@dataclass(frozen=True)
class Merged:
    """Merged bins.

    Attributes:
        bins: The merged bin of every original one, of shape (P, original bins).
        steps: Difference between the means of the points in a bin and in the next one, times the slicing constant over P, of
            shape (P, merged bins); 0 for the last one. Every point counts as if it lay at the mean of its bin.
        enough: True if there are about as many bins as every group requires.
    """

    bins: np.ndarray
    steps: np.ndarray
    enough: bool


@dataclass(frozen=True)
class Binned:
    """Binned points on every slice.

    Attributes:
        places: The bin of every point on every slice, of shape (P, n), uint16.
        sums: The number of points in every bin and the sum of their positions, of shape (2, P, bins).
        unit: The slicing constant over P and the scale of the positions, of shape (P,).
        widths: The width of every group on every slice, in the unit of the positions, of shape (P, K).
        group: The group of every point, of shape (n,).
        sizes: The number of points of every group, of shape (K,).
    """

    places: np.ndarray
    sums: np.ndarray
    unit: np.ndarray
    widths: np.ndarray
    group: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls,
        points: Stream,
        group: np.ndarray,
        sizes: np.ndarray,
        slices: SliceSettings,
        progress: ProgressCallback | None,
    ) -> Binned:
        P, n = slices.slices, len(group)
        validate.fits_memory("slices", P, 2 * n)
        some, parts = _sample(points, group, sizes)
        like = torch.from_numpy(some)
        frames = _frames(slices.random(like), some, parts)
        projected = np.concatenate([frame.project(like).numpy() for frame in frames])
        edges, widths = _edges(projected), _widths(projected, parts)
        places, done = np.empty((P, n), np.uint16), 0
        sums = np.zeros((2, P, edges.shape[1] + 1))
        for batch in points:
            batch = batch.cpu()
            # A single point would be projected by another matrix product, which rounds differently.
            wide = batch if len(batch) > 1 else batch.repeat(2, 1)
            dtype = torch.promote_types(like.dtype, wide.dtype)
            first = 0
            for frame in frames:
                frame = dataclasses.replace(frame, shift=frame.shift.to(dtype))
                x = frame.project(wide.to(dtype)).numpy()[:, : len(batch)]
                mine = slice(first, first + len(x))
                parallel_for(_locate, len(x), 1, x, edges[mine], places[mine, done : done + len(batch)], sums[:, mine])
                first = mine.stop
            done += len(batch)
            if progress is not None:
                progress(Progress("points", done, n))
        scale = np.concatenate([np.full(frame.directions.P, frame.scale) for frame in frames])
        return cls(places, sums, 2 * Riesz(1.0).basis_constant(frames[0].directions.n) / (P * scale), widths, group, sizes)

    def merged(self, *wanted: tuple[float, int]) -> list[Merged]:
        """Merge the bins as far as possible without an error above a share of any group's width.

        Args:
            wanted: Pairs of limits; bins are merged for each pair. The first is the largest h·m² over the group's width, the
                second the largest number of bins, which takes precedence.
        """
        P, width = self.sums.shape[1:]
        K, new = len(self.sizes), np.zeros((len(wanted), P, width), np.uint16)
        times = np.empty((len(wanted), P))
        step, same = max(1, _TOGETHER // (K * width)), np.arange(width, dtype=np.uint16)
        for first in range(0, P, step):
            some = slice(first, min(P, first + step))
            tables = np.zeros((some.stop - first, width, K), np.float32)
            parallel_for(_count, len(tables), 1, self.places[some], np.tile(same, (len(tables), 1)), self.group, tables)
            for k, (off, most) in enumerate(wanted):
                limits = np.sqrt(off * self.widths[some]) * self.sizes
                parallel_for(_merge, len(tables), 1, tables, self.sums[:, some], limits, most, new[k, some], times[k, some])
        return [self._with(bins, bool((mine <= _ENOUGH).all())) for bins, mine in zip(new, times, strict=True)]

    def _with(self, new: np.ndarray, enough: bool) -> Merged:
        sums = np.zeros((2, len(new), int(new.max()) + 1))
        parallel_for(_add_up, len(new), 1, self.sums, new, sums)
        steps = np.zeros(sums.shape[1:])
        parallel_for(_steps, len(new), 1, sums, steps)
        return Merged(new, steps * self.unit[:, None], enough)

    def pair(self, i: int, j: int) -> Binned:
        """Return the points of two groups only."""
        both = np.flatnonzero((self.group == i) | (self.group == j))
        group = (self.group[both] == j).astype(np.int32)
        return Binned(self.places[:, both], self.sums, self.unit, self.widths[:, [i, j]], group, self.sizes[[i, j]])

    def near(self, distances: np.ndarray) -> np.ndarray:
        """Return which pairs of groups have a D² on the slices below the width of both groups, of shape (K, K)."""
        reach = (self.unit[:, None] * self.widths).sum(0)
        near: np.ndarray = distances < np.minimum(reach, reach[:, None])
        return near

    def counts(self, merged: Merged, row: np.ndarray, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield some slices and the counts of every row in every bin on these p slices, of shape (rows, p, bins), float32.

        Args:
            merged: The bins.
            row: The row that every point counts for, of shape (n,); −1 for none.
            rows: The number of rows.
        """
        P, width = merged.steps.shape
        step = max(1, _TOGETHER // (rows * width))
        for first in range(0, P, step):
            some = slice(first, min(P, first + step))
            tables = np.zeros((some.stop - first, rows, width), np.float32)
            parallel_for(_count, len(tables), 1, self.places[some], merged.bins[some], row, tables.transpose(0, 2, 1))
            yield some, tables.transpose(1, 0, 2)


def _sample(points: Stream, group: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """Draw random points of every group. Return them, sorted by group, and the slice of rows of each group."""
    K, random = len(sizes), np.random.default_rng(0)
    each = max(2, min(_EDGES_OF_A_GROUP, min(_EDGES, _NUMBERS // points.d) // K))
    order, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    chosen = [
        random.choice(order[end - size : end], min(size, each), replace=False) for end, size in zip(ends, sizes, strict=True)
    ]
    some = points.rows(np.concatenate(chosen))
    ends = np.cumsum([len(rows) for rows in chosen])
    parts = [slice(end - len(rows), end) for end, rows in zip(ends, chosen, strict=True)]
    return some, parts


def _frames(drawn: Directions, some: np.ndarray, parts: list[slice]) -> list[histograms.Projector]:
    """Return the projections, with the origin in the narrowest group, because they are most precise near the origin."""
    spread = [np.abs(some[part] - np.median(some[part], 0)).mean() for part in parts]
    narrowest = some[parts[int(np.argmin(spread))]]
    return histograms.make_projectors(
        drawn, np.concatenate([some, np.resize(narrowest, (31, some.shape[1]))]), torch.from_numpy(some)
    )


def _edges(x: np.ndarray) -> np.ndarray:
    """Return edges between neighbouring x (P, S) on every slice and geometric ones beyond: (P, S − 1 + 2·_TAIL) float32."""
    x = np.sort(x, 1).astype(np.float64)
    low, high = x[:, :1], x[:, -1:]
    first = np.where(high > low, high - low, 1e-4 * np.maximum(np.abs(high), 1e-6)) / 64
    tail = first * (2.0 ** (np.arange(_TAIL) / 2) - 0.5)
    return np.concatenate([low - tail[:, ::-1], (x[:, 1:] + x[:, :-1]) / 2, high + tail], 1).astype(np.float32)


def _widths(x: np.ndarray, parts: list[slice]) -> np.ndarray:
    """Return the width of every group on every slice, (P, K), between quantiles, so that outliers do not widen a group."""
    widths = np.zeros((len(x), len(parts)))
    for k, part in enumerate(parts):
        mine = np.sort(x[:, part], 1).astype(np.float64)
        for left_out in _WIDTHS:
            cut = int(left_out * mine.shape[1])
            widths[:, k] = np.where(widths[:, k] > 0, widths[:, k], mine[:, -1 - cut] - mine[:, cut])
    return widths


@numba.njit(**OPTIONS)
def _locate(first, last, worker, step, projected, edges, places, sums):
    for p in range(first, last):
        mine = edges[p]
        for t in range(projected.shape[1]):
            k, many = 0, len(mine)
            while many > 0:
                half = many >> 1
                right = mine[k + half] <= projected[p, t]
                k = k + half + 1 if right else k
                many = many - half - 1 if right else half
            places[p, t] = k
            sums[0, p, k] += 1
            sums[1, p, k] += projected[p, t]


@numba.njit(**OPTIONS)
def _count(first, last, worker, step, places, bins, row, tables):
    for p in range(first, last):
        table, mine, new = tables[p], places[p], bins[p]
        for t in range(row.shape[0]):
            if row[t] >= 0:
                table[new[mine[t]], row[t]] += np.float32(1)


@numba.njit(**OPTIONS)
def _merge(first, last, worker, step, tables, sums, limits, most, new, times):
    K = tables.shape[2]
    held = np.empty(K, np.float32)
    for p in range(first, last):
        times[p] = 1.0
        for _attempt in range(_ATTEMPTS):
            k, start, held[:] = 0, np.nan, 0
            for b in range(tables.shape[1]):
                if sums[0, p, b] > 0:
                    position = sums[1, p, b] / sums[0, p, b]
                    start = position if np.isnan(start) else start
                    root = np.sqrt(max(position - start, 0.0))
                    noticed = 0
                    for g in range(K):
                        noticed += (held[g] + tables[p, b, g]) * root > limits[p, g] * times[p]
                    if noticed:
                        k, start, held[:] = k + 1, position, 0
                    held += tables[p, b]
                new[p, b] = k
            if k < most:
                break
            times[p] *= 2.0
        if k >= most:
            for b in range(tables.shape[1]):
                new[p, b] = new[p, b] * most // (k + 1)


@numba.njit(**OPTIONS)
def _add_up(first, last, worker, step, sums, new, added):
    for p in range(first, last):
        for b in range(new.shape[1]):
            added[0, p, new[p, b]] += sums[0, p, b]
            added[1, p, new[p, b]] += sums[1, p, b]


@numba.njit(**OPTIONS)
def _steps(first, last, worker, step, sums, steps):
    for p in range(first, last):
        before = -1
        for k in range(sums.shape[2]):
            if sums[0, p, k] > 0:
                if before >= 0:
                    steps[p, before] = sums[1, p, k] / sums[0, p, k] - sums[1, p, before] / sums[0, p, before]
                before = k
