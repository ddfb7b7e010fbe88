"""Energy distances between all pairs of many groups of points, in time that is linear in the points.

Few points are compared by brute force. Otherwise every point is projected once, and its bin on every slice is stored in two
bytes; all K² distances are differences of inner products of the groups' distribution functions. For standard errors and
p-values, features are summed over random blocks of every group; two groups are tested with blocks of one size.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, KernelsName, PointSource, Progress, ProgressCallback, ScaleName, Statistic
from rieszflow.data import Stream, load_labelled
from rieszflow.data.encoding import open_clouds
from rieszflow.errors import InputError
from rieszflow.sketch.counts import with_progress
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.multiscale import BlockSums, PairedSums
from rieszflow.two_sample.octaves import FITTED, FITTED_NUMBERS, Octaves, fit_group_octaves
from rieszflow.two_sample.pairwise_bins import BinnedGroups, MergedBins
from rieszflow.two_sample.permutations import Gram, are_few, draw_splits, permutation_rng, scaled_distances

_MIN_BLOCKS, _MAX_BLOCKS = 16, 32  # of a group; the smaller of two groups has fewer than twice as many as the former


@dataclass(frozen=True)
class PairwiseDistances:
    """The energy distances between K groups.

    Attributes:
        names, sizes: The groups' labels as strings, sorted, and their numbers of points of shape (K,).
        distances: Energy distances of shape (K, K), zero on the diagonal.
        standard_errors: Standard errors of the distances from the choice of points and slices, (K, K); NaN on the diagonal.
        pvalues: P-values of shape (K, K), without a correction for the number of pairs; NaN on the diagonal. None if there were
            no permutations.
        adjusted_pvalues: P-values adjusted for the number of pairs: pairs with values up to q have a false discovery rate of q
            (Benjamini and Hochberg).
        estimator: "U" or "V", as `statistic` in `pairwise_energy_distance`.
        scale: "columns" if every column was divided by its spread, "none" for raw units.
        method: "exact" if computed from the distances of all pairs of points, "sliced" if on slices, with bins and blocks.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    distances: np.ndarray
    standard_errors: np.ndarray
    pvalues: np.ndarray | None
    estimator: Statistic
    scale: Literal["columns", "none"]
    method: Literal["exact", "sliced"]

    def __len__(self) -> int:
        return len(self.names)

    def pairs(self) -> list[dict[str, str | int | float]]:
        """Return all pairs, the farthest first: a, b, n_a, n_b, distance, standard_error, and p-values if there are some."""
        rows, columns = np.triu_indices(len(self), 1)
        found = []
        for k in np.argsort(-self.distances[rows, columns], kind="stable"):
            i, j = int(rows[k]), int(columns[k])
            row: dict[str, str | int | float] = {
                "a": self.names[i], "b": self.names[j], "n_a": int(self.sizes[i]), "n_b": int(self.sizes[j]),
                "distance": float(self.distances[i, j]), "standard_error": float(self.standard_errors[i, j]),
            }  # fmt: skip
            if self.pvalues is not None and self.adjusted_pvalues is not None:
                row |= {"pvalue": float(self.pvalues[i, j]), "adjusted_pvalue": float(self.adjusted_pvalues[i, j])}
            found.append(row)
        return found

    @property
    def adjusted_pvalues(self) -> np.ndarray | None:
        if self.pvalues is None:
            return None
        from scipy.stats import false_discovery_control

        adjusted, pairs = np.full_like(self.pvalues, np.nan), np.triu_indices(len(self), 1)
        adjusted[pairs] = adjusted.T[pairs] = false_discovery_control(self.pvalues[pairs])
        return adjusted

    def order(self) -> list[int]:
        """Return the groups in the order of the leaves of a tree (average linkage), so that similar groups are neighbours."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        if len(self) < 3:
            return list(range(len(self)))
        condensed = squareform(np.maximum(self.distances, 0), checks=False)
        return [int(k) for k in leaves_list(linkage(condensed, "average", optimal_ordering=True))]

    def frame(self, field: str = "distances") -> Any:
        """Return one of these arrays as a pandas DataFrame with the groups' names on both axes."""
        with extra("cells", "frame"):
            import pandas

        validate.choice("field", field, ("distances", "standard_errors", "pvalues", "adjusted_pvalues"))
        return pandas.DataFrame(getattr(self, field), index=list(self.names), columns=list(self.names))

    def __repr__(self) -> str:
        return f"PairwiseDistances({len(self)} groups, {int(self.sizes.sum())} points)"


@isolated_numerics
def pairwise_energy_distance(
    x: PointSource,
    groups: object,
    *,
    obsm: str | None = None,
    layer: str | None = None,
    statistic: Statistic = "U",
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    scale: ScaleName = "auto",
    kernels: KernelsName = "auto",
    progress: ProgressCallback | None = None,
) -> PairwiseDistances:
    """Compute the energy distance between every two groups of points, with standard errors and p-values.

    Up to 2,000 points in all (fewer for d > 2,000) are compared by brute force, more on slices. Then time and memory are linear
    in the number of points, with 2 bytes per point and slice, and quadratic in the number of groups.

    Args:
        x: Points of shape (n, d): anything that `rieszflow.stream` accepts, except iterators; or an AnnData object, or the path
            of an .h5ad file.
        groups: A label for every point, all of one type; or the name of the column of labels, in a table (also one opened by
            `rieszflow.stream` with options) or in the `obs` of an AnnData object. In a CSV file a label is the text of its
            cell: 01 and 1 are two groups.
        obsm, layer: For AnnData, the key of the points in `obsm`, such as "X_pca", or in `layers`; None for its X.
        statistic: "U" (unbiased: around 0, and sometimes negative, if groups agree) or "V" (non-negative). Unlike functionals,
            which default to "V", tables of estimates should be unbiased.
        slices: Number P of random directions. Their error decreases like 1/√P and is part of the standard errors.
        permutations: Number B for every p-value, the smallest of which is 1 / (B + 1); 0 for no p-values, which is faster.
        directions: See `SliceSketch`.
        seed: Seed of directions, blocks and permutations, an integer.
        scale: See `two_sample_test`, with spreads from all groups together; AnnData are scaled only with "columns".
        kernels: "auto" for p-values with kernels of all widths, see `two_sample_test`, but without those of single columns;
            "energy" for the energy distance only, which is faster for hundreds of groups.
        progress: Called with a `Progress` that counts "points", and then "pairs".

    Raises:
        InputError, InputTypeError, DatasetError: Points that `stream` refuses, labels that do not fit, fewer than two groups,
            or a group of one point.
        MissingPackageError: An .h5ad file without anndata, a table without pyarrow.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(600, 3, generator=g) + torch.arange(3.0).repeat(200)[:, None]
        >>> found = pairwise_energy_distance(x, ["a", "b", "c"] * 200, permutations=99)
        >>> found.names, bool(found.distances[0, 2] > 2 * found.distances[0, 1]), found.pvalues[0, 1].item()
        (('a', 'b', 'c'), True, 0.01)

    References:
        Székely and Rizzo, Energy statistics: A class of statistics based on distances (2013).
    """
    validate.statistic(statistic)
    validate.choice("kernels", kernels, get_args(KernelsName))
    permutations = validate.nonnegative_int("permutations", permutations)
    source, labels = load_labelled(x, groups, obsm, layer)
    (points,), units = open_clouds([source], scale)
    points = points.scale_columns(units.spreads)
    unique, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    names = tuple(map(str, unique))
    if len(names) < 2:
        raise InputError(f"`groups` must have at least two groups, got all points in {names[0]!r}")
    if sizes.min() < 2:
        raise InputError(f"`groups` must have at least two points in every group, got one in {names[sizes.argmin()]!r}")
    settings = SliceSettings(points.d, slices, directions, seed)
    rng = permutation_rng(seed)
    exact = are_few(len(group), points.d)
    if exact:
        x = np.concatenate([batch.cpu().numpy() for batch in with_progress(points, progress)])
        distances, errors = _compare_exactly(x, group, statistic)
    else:
        binned = BinnedGroups.from_points(points, group.astype(np.int32), sizes, settings, progress)
        distances, slices_errors = _sliced_distances(binned, binned.merge(), statistic)
        errors = np.zeros_like(distances)
    pvalues, pairs = np.full_like(distances, np.nan), list(itertools.combinations(range(len(names)), 2))
    features = GroupFeatures.compute(points, group, sizes, rng) if permutations or not exact else None
    splits = functools.cache(lambda K, L: draw_splits(K, L, permutations, rng))  # shared by pairs with equal numbers of blocks
    for done, (i, j) in enumerate(pairs, 1):
        if features is not None:
            pair = features.pair(i, j)
            if not exact:
                gram = pair.energy_gram(slices_errors[i, j])
                errors[i, j] = errors[j, i] = gram.standard_error()
            if permutations:
                pvalues[i, j] = pvalues[j, i] = pair.test(kernels, splits(pair.x.K, pair.y.K))[0]
        if progress is not None and (done % 256 == 0 or done == len(pairs)):
            progress(Progress("pairs", done, len(pairs)))
    np.fill_diagonal(errors, np.nan)
    return PairwiseDistances(
        names, sizes, distances, errors, pvalues if permutations else None, statistic,
        "none" if units.spreads is None else "columns", "exact" if exact else "sliced",
    )  # fmt: skip


def _finished(distances: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Remove the rounding errors of distances (K, K) that must be symmetric and, for the V-statistic, non-negative."""
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0) if statistic == "V" else distances


def _compare_exactly(x: np.ndarray, group: np.ndarray, statistic: Statistic) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and standard errors of all pairs by brute force, of shape (K, K)."""
    sizes = np.bincount(group)
    between, unit = scaled_distances(x[np.argsort(group, kind="stable")])
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(np.add.reduceat(between, starts, 0), starts, 1)
    own = sums.diagonal() / sizes / (sizes - 1 if statistic == "U" else sizes)
    distances = _finished(2 * sums / sizes / sizes[:, None] - own - own[:, None], statistic)
    errors = np.zeros_like(distances)
    for i, j in itertools.combinations(range(len(sizes)), 2):
        both = np.r_[starts[i] : starts[i] + sizes[i], starts[j] : starts[j] + sizes[j]]
        gram = Gram.from_distances(between[np.ix_(both, both)], int(sizes[i]))
        errors[i, j] = errors[j, i] = gram.standard_error()
    return distances / unit, errors / unit


def _sliced_distances(binned: BinnedGroups, merged: MergedBins, statistic: Statistic) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of all pairs and their standard errors from the choice of slices, of shape (K, K)."""
    sizes, P = binned.sizes, len(binned.unit)
    K = len(sizes)
    total, squares = np.zeros((K, K)), np.zeros((K, K))
    for some, counts in binned.iter_counts(merged):
        functions = (counts / sizes[:, None, None].astype(np.float64)).cumsum(-1)
        centred, steps = functions - functions.mean(0), merged.steps[some]
        for p in range(counts.shape[1]):
            gram = (centred[:, p] * steps[p]) @ centred[:, p].T
            spread = (functions[:, p] * (1 - functions[:, p])) @ steps[p] if statistic == "U" else np.zeros(K)
            own = gram.diagonal() - spread / (sizes - 1)
            each = own[:, None] + own - 2 * gram
            total += each
            squares += each**2
    variance = np.maximum(squares / P - (total / P) ** 2, 0)
    return _finished(total, statistic), np.sqrt(variance * P)


@dataclass(frozen=True, eq=False)
class GroupFeatures:
    """Sums of features over parts of all groups, of which blocks of every size consist."""

    octaves: Octaves
    sums: np.ndarray  # of all parts, (parts, L, 2, D)
    first: np.ndarray  # the first part of every group, (K + 1,)
    edges: list[np.ndarray]  # for every group, the points before each of its parts, of which the last one may be empty
    sizes: np.ndarray  # (K,)
    block_sizes: np.ndarray  # in a test with another group at least as large, (K,)
    _blocks: dict[tuple[int, int], BlockSums] = field(default_factory=dict)  # that other pairs have needed

    @classmethod
    def compute(cls, points: Stream, group: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> GroupFeatures:
        """Order the points of every group at random, and sum their features."""
        block_sizes = 1 << np.log2(np.maximum(sizes // _MIN_BLOCKS, 1)).astype(int)  # powers of two: few different ones
        members = [rng.permutation(mine) for mine in np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])]
        edges, row = [], np.empty(len(group), np.int64)
        first = np.zeros(len(sizes) + 1, np.int64)
        for g, (n, own) in enumerate(zip(sizes, block_sizes, strict=True)):
            needed = [size * np.arange(min(n // size, _MAX_BLOCKS) + 1) for size in np.unique(block_sizes) if size <= own]
            edges.append(np.unique(np.concatenate(needed)))
            first[g + 1] = first[g] + len(edges[-1])
            row[members[g]] = first[g] + np.searchsorted(edges[-1], np.arange(n), "right") - 1
        each = max(2, min(FITTED, FITTED_NUMBERS // points.d) // len(sizes))
        some = points.rows(np.concatenate([rng.permutation(mine)[:each] for mine in members]))
        octaves = fit_group_octaves(some.astype(np.float64), len(sizes), int(first[-1]), rng)
        validate.fits_memory("groups", len(sizes), int(first[-1]) * 16 * octaves.widths.shape[1] * octaves.D // len(sizes))
        sums, done = np.zeros((first[-1], octaves.widths.shape[1], 2, octaves.D)), 0
        for batch in points:
            mine = row[done : done + len(batch)]
            done += len(batch)
            order = np.argsort(mine, kind="stable")
            starts = np.searchsorted(mine[order], np.arange(first[-1] + 1))
            octaves.add(batch.cpu().numpy()[order].astype(np.float64), np.ones(len(batch)), starts, sums)
        return cls(octaves, sums, first, edges, sizes, block_sizes)

    def pair(self, i: int, j: int) -> PairedSums:
        """Return the sums over blocks of two groups."""
        size = int(min(self.block_sizes[i], self.block_sizes[j]))
        for g in (i, j):
            if (g, size) not in self._blocks:
                self._blocks[g, size] = self._sum_blocks(g, size)
        return PairedSums.of(self._blocks[i, size], self._blocks[j, size])

    def _sum_blocks(self, g: int, size: int) -> BlockSums:
        """Return the sums over blocks of a group, of some size, and over its other points."""
        n = int(self.sizes[g])
        K = min(n // size, _MAX_BLOCKS)
        at = np.searchsorted(self.edges[g], size * np.arange(K + 1))
        sums = np.add.reduceat(self.sums[self.first[g] : self.first[g + 1]], at, axis=0)
        return BlockSums([self.octaves], np.array([size] * K + [n - K * size], np.float64), [sums])
