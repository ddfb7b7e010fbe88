"""Bins for many groups of points at once.

Points are binned once, with edges between random points of every group. If many groups overlap, such bins are narrower than
any group requires. So neighbouring bins are merged as long as, for every group, h·m² stays below a given share of the group's
width, for the length h of the merged bin and the share m of the group in it. A bin can change MMD² by 2h·m·|F − G| + h·m² for
the distribution functions F and G of two groups; the first term vanishes if both have the same mean in the bin.
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
from rieszflow._types import ProgressCallback
from rieszflow.data import Stream
from rieszflow.kernels import Riesz
from rieszflow.sketch.counts import with_progress
from rieszflow.sketch.plan import SliceSettings

_MAX_EDGES = 1 << 14  # of the bins before merging, from all groups together
_MAX_GROUP_EDGES = 512  # from one group
_MAX_COORDINATES = 1 << 26  # of the points that the edges are placed between
_TAIL = 64  # geometric bins on either side, two per octave: an outlier falls into a bin of its own magnitude
_CUTS = (0.1, 0.05, 0.02, 0.0)  # quantiles cut off on either side to measure a group's width; the next one if the width is 0
_MAX_NUMBERS = 1 << 25  # in a table at a time
_ERROR = 1.5e-6  # the largest h·m² over a group's width


@dataclass(frozen=True)
class MergedBins:
    """Merged bins on every slice. Every point counts as if it lay at the mean of its bin.

    `steps` are the differences between the means of the points in a bin and in the next one, times the slicing constant over P;
    0 for the last bin.
    """

    bins: np.ndarray  # (P, original bins): the merged bin of every original one
    steps: np.ndarray  # (P, merged bins)


@dataclass(frozen=True)
class BinnedGroups:
    """Points of K groups in the bins of every slice."""

    bins: np.ndarray  # (P, n) uint16: the bin of every point
    sums: np.ndarray  # (2, P, bins): the number of points in every bin, and the sum of their positions
    unit: np.ndarray  # (P,): the slicing constant over P and the scale of the positions
    widths: np.ndarray  # (P, K): the width of every group, in the unit of the positions
    group: np.ndarray  # (n,): the group of every point
    sizes: np.ndarray  # (K,): the number of points of every group

    @classmethod
    def from_points(
        cls, points: Stream, group: np.ndarray, sizes: np.ndarray, settings: SliceSettings, progress: ProgressCallback | None
    ) -> BinnedGroups:
        P, n = settings.slices, len(group)
        validate.fits_memory("slices", P, 2 * n)
        some, parts = _sample(points, group, sizes)
        like = torch.from_numpy(some)
        # The origin of projections is in the narrowest group, because they are most precise near the origin.
        spreads = [np.abs(some[part] - np.median(some[part], 0)).mean() for part in parts]
        origin = np.resize(some[parts[int(np.argmin(spreads))]], (31, points.d))
        sample = torch.from_numpy(np.concatenate([some, origin]))
        projectors = histograms.make_projectors(settings.draw(like), sample, sample)
        projected = np.concatenate([projector.project(like).numpy() for projector in projectors])
        edges, widths = _edges(projected), _widths(projected, parts)
        bins, done = np.empty((P, n), np.uint16), 0
        sums = np.zeros((2, P, edges.shape[1] + 1))
        for batch in with_progress(points, progress):
            batch = batch.cpu()
            # A single point would be projected by another matrix product, which rounds differently.
            wide = batch if len(batch) > 1 else batch.repeat(2, 1)
            dtype = torch.promote_types(like.dtype, wide.dtype)
            first = 0
            for projector in projectors:
                projector = dataclasses.replace(projector, shift=projector.shift.to(dtype))
                x = projector.project(wide.to(dtype)).numpy()[:, : len(batch)]
                mine = slice(first, first + len(x))
                parallel_for(_locate, len(x), 1, x, edges[mine], bins[mine, done : done + len(batch)], sums[:, mine])
                first = mine.stop
            done += len(batch)
        scale = np.concatenate([np.full(projector.directions.P, projector.scale) for projector in projectors])
        constant = 2 * Riesz(1.0).basis_constant(projectors[0].directions.n)
        return cls(bins, sums, constant / (P * scale), widths, group, sizes)

    def merge(self) -> MergedBins:
        """Merge neighbouring bins as far as no group notices."""
        P, width = self.sums.shape[1:]
        new = np.zeros((P, width), np.uint16)
        step, same = max(1, _MAX_NUMBERS // (len(self.sizes) * width)), np.arange(width, dtype=np.uint16)
        for first in range(0, P, step):
            some = slice(first, min(P, first + step))
            tables = np.zeros((some.stop - first, width, len(self.sizes)), np.int32)
            parallel_for(_count, len(tables), 1, self.bins[some], np.tile(same, (len(tables), 1)), self.group, tables)
            largest = np.sqrt(_ERROR * self.widths[some]) * self.sizes
            parallel_for(_merge, len(tables), 1, tables, self.sums[:, some], largest, new[some])
        steps = np.zeros((P, int(new.max()) + 1))
        parallel_for(_steps, P, 1, self.sums, new, steps)
        return MergedBins(new, steps * self.unit[:, None])

    def iter_counts(self, merged: MergedBins) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield slices and the counts of all groups on them, (K, p, bins) int32."""
        (P, width), K = merged.steps.shape, len(self.sizes)
        step = max(1, _MAX_NUMBERS // (K * width))
        for first in range(0, P, step):
            some = slice(first, min(P, first + step))
            tables = np.zeros((some.stop - first, K, width), np.int32)
            parallel_for(_count, len(tables), 1, self.bins[some], merged.bins[some], self.group, tables.transpose(0, 2, 1))
            yield some, tables.transpose(1, 0, 2)


def _sample(points: Stream, group: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    """Draw random points of every group; return them, sorted by group, and the rows of each group."""
    K, rng = len(sizes), np.random.default_rng(0)
    each = max(2, min(_MAX_GROUP_EDGES, min(_MAX_EDGES, _MAX_COORDINATES // points.d) // K))
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    chosen = [rng.choice(mine, min(len(mine), each), replace=False) for mine in members]
    ends = np.cumsum([len(rows) for rows in chosen])
    return points.rows(np.concatenate(chosen)), [slice(end - len(rows), end) for end, rows in zip(ends, chosen, strict=True)]


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
        for cut in (int(share * mine.shape[1]) for share in _CUTS):
            widths[:, k] = np.where(widths[:, k] > 0, widths[:, k], mine[:, -1 - cut] - mine[:, cut])
    return widths


@numba.njit(**OPTIONS)
def _locate(first, last, worker, step, projected, edges, bins, sums):
    for p in range(first, last):
        mine = edges[p]
        for t in range(projected.shape[1]):
            k, many = 0, len(mine)
            while many > 0:
                half = many >> 1
                right = mine[k + half] <= projected[p, t]
                k = k + half + 1 if right else k
                many = many - half - 1 if right else half
            bins[p, t] = k
            sums[0, p, k] += 1
            sums[1, p, k] += projected[p, t]


@numba.njit(**OPTIONS)
def _count(first, last, worker, step, bins, merged, row, tables):
    for p in range(first, last):
        table, mine, new = tables[p], bins[p], merged[p]
        for t in range(row.shape[0]):
            table[new[mine[t]], row[t]] += 1


@numba.njit(**OPTIONS)
def _merge(first, last, worker, step, tables, sums, limits, new):
    K = tables.shape[2]
    held = np.empty(K, np.float32)
    for p in range(first, last):
        k, start, held[:] = 0, np.nan, 0
        for b in range(tables.shape[1]):
            if sums[0, p, b] > 0:
                position = sums[1, p, b] / sums[0, p, b]
                start = position if np.isnan(start) else start
                root = np.sqrt(max(position - start, 0.0))
                noticed = 0
                for g in range(K):
                    noticed += (held[g] + tables[p, b, g]) * root > limits[p, g]
                if noticed:
                    k, start, held[:] = k + 1, position, 0
                held += tables[p, b]
            new[p, b] = k


@numba.njit(**OPTIONS)
def _steps(first, last, worker, step, sums, new, steps):
    for p in range(first, last):
        merged = np.zeros((2, steps.shape[1]))
        for b in range(new.shape[1]):
            merged[0, new[p, b]] += sums[0, p, b]
            merged[1, new[p, b]] += sums[1, p, b]
        before = -1
        for k in range(steps.shape[1]):
            if merged[0, k] > 0:
                if before >= 0:
                    steps[p, before] = merged[1, k] / merged[0, k] - merged[1, before] / merged[0, before]
                before = k
