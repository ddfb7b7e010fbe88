"""Energy distances between all pairs of many groups of points, in time that is linear in the points.

Few points are compared by brute force. Otherwise every point is projected once, and its bin on every slice is stored in two
bytes; the rest is computed from counts. The table of a group is its distribution function on all slices, and all K² distances
are differences of inner products of these functions. For standard errors and p-values, groups are dealt into blocks as in
`two_sample`. Two groups are tested with blocks of one size, that of the smaller group. Sizes are powers of two, so that a few
sizes serve all pairs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import DirectionsName, Progress, ProgressCallback, ScaleName, Statistic
from rieszflow.data import Stream, load_labelled
from rieszflow.data.scale import choose_spreads
from rieszflow.errors import InputError
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.exact import are_few, exact_gram, in_range, pair_distances
from rieszflow.two_sample.gram import Gram
from rieszflow.two_sample.pairwise_bins import Binned, Merged
from rieszflow.two_sample.pairwise_blocks import Dealt, Grams
from rieszflow.two_sample.permutations import pvalue, source, splits

__all__ = ["PairwiseDistances", "pairwise_energy_distance"]

_BINS = ((1.5e-6, 1 << 14), (1e-4, 384))  # see `Binned.merged`: for groups, and for blocks, whose noise is larger
_BLOCKS = 16  # of the smaller of two groups, at least


@dataclass(frozen=True)
class PairwiseDistances:
    """Energy distances between K groups.

    Attributes:
        names: of the groups: their labels as strings, sorted.
        sizes: points of every group, (K,).
        distances: 2E‖X−Y‖ − E‖X−X′‖ − E‖Y−Y′‖ of all pairs, (K, K), zero on the diagonal. Distances of points are Euclidean,
            not squared, and no root is taken of the whole.
        standard_errors: of the distances, from the choice of points and slices, (K, K); NaN on the diagonal.
        pvalues: by permutations, (K, K), each of a pair by itself: among many pairs some are small by chance. NaN on the
            diagonal; None where none were asked for.
        estimator: "U" or "V", of the distances.
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
        """K."""
        return len(self.names)

    def pairs(self) -> list[dict[str, Any]]:
        """All pairs, those furthest apart first: a, b, n_a, n_b, distance, standard_error, and pvalue if there are some."""
        rows, columns = np.triu_indices(len(self), 1)
        found = []
        for k in np.argsort(-self.distances[rows, columns], kind="stable"):
            i, j = int(rows[k]), int(columns[k])
            row = {"a": self.names[i], "b": self.names[j], "n_a": int(self.sizes[i]), "n_b": int(self.sizes[j])}
            row |= {"distance": float(self.distances[i, j]), "standard_error": float(self.standard_errors[i, j])}
            found.append(row if self.pvalues is None else {**row, "pvalue": float(self.pvalues[i, j])})
        return found

    def order(self) -> list[int]:
        """The groups along the leaves of a tree that joins those that are near (average linkage): alike ones are neighbours."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        if len(self) < 3:
            return list(range(len(self)))
        near = squareform(np.maximum(self.distances, 0), checks=False)
        return [int(k) for k in leaves_list(linkage(near, "average", optimal_ordering=True))]

    def frame(self, what: str = "distances") -> Any:
        """The distances, or "standard_errors" or "pvalues", as a pandas DataFrame with the groups' names on both sides."""
        with extra("cells", "frame"):
            import pandas

        if what not in ("distances", "standard_errors", "pvalues"):
            raise InputError(f'what: {what!r} given; "distances", "standard_errors" and "pvalues" are accepted')
        return pandas.DataFrame(getattr(self, what), index=list(self.names), columns=list(self.names))

    def __repr__(self) -> str:
        return f"PairwiseDistances({len(self)} groups, {int(self.sizes.sum())} points)"


@isolated_numerics
def pairwise_energy_distance(
    x: Any,
    groups: Any,
    *,
    obsm: str | None = None,
    layer: str | None = None,
    statistic: Statistic = "U",
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    scale: ScaleName = "auto",
    progress: ProgressCallback | None = None,
) -> PairwiseDistances:
    """Compute the energy distance between every two groups of points, with standard errors and p-values.

    Up to 2,000 points in all (fewer for d > 2,000) are compared by brute force. For more, distances are those on slices; time
    and memory are linear in the points, with 2 bytes for every point and slice, and quadratic in the number of groups.

    Args:
        x: points (n, d): all that `rieszflow.stream` takes, but iterators; or an AnnData object, or the path of an .h5ad file.
        groups: a label for every point, all of one type; or the name of the column of labels, in a table (also one opened by
            `rieszflow.stream` with options) or in the `obs` of an AnnData object. In a CSV file a label is the text of its
            cell: 01 and 1 are two groups.
        obsm: of an AnnData object, the key of the points in `obsm`, such as "X_pca"; None for its X.
        layer: the key of the points in the `layers` of an AnnData object; None for its X.
        statistic: "U", unbiased: around 0, and at times below it, where nothing differs. "V": never negative.
        slices: random directions P. Their error falls like 1/√P and is part of the standard errors.
        permutations: for every p-value; the least one is 1 / (permutations + 1). 0 for none, which saves most of the time.
        directions: as in `SliceSketch`.
        seed: of directions, blocks and permutations; a whole number.
        scale: as in `two_sample_test`, with spreads from all groups together; AnnData are scaled only with "columns".
        progress: called with a `Progress` that counts "points", and then "pairs".

    Raises:
        InputError, InputTypeError, DatasetError: what `stream` refuses; labels that do not fit; fewer than two groups, or a
            group of one point.
        MissingPackageError: an .h5ad file without anndata, a table without pyarrow.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(600, 3, generator=g) + torch.arange(3.0).repeat(200)[:, None]
        >>> found = pairwise_energy_distance(x, ["a", "b", "c"] * 200, permutations=99)
        >>> found.names, bool(found.distances[0, 2] > 2 * found.distances[0, 1]), found.pvalues[0, 1].item()
        (('a', 'b', 'c'), True, 0.01)

    Source: Székely and Rizzo, Energy statistics (2013), on slices by the paper's Theorem 1; blocks as in `two_sample_test`.
    """
    if statistic not in ("V", "U"):
        raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
    if isinstance(permutations, bool) or not isinstance(permutations, (int, np.integer)) or permutations < 0:
        raise InputError(f"permutations: {permutations!r} given; whole numbers from 0 are accepted")
    points, labels = load_labelled(x, groups, obsm, layer)
    spreads = choose_spreads(scale, [points])
    points = points.scaled(spreads)
    found_names, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    names = tuple(map(str, found_names))
    if len(names) < 2:
        raise InputError(f"groups: all points are in one group, {names[0]!r}; two at least are needed")
    if sizes.min() < 2:
        raise InputError(f"groups: {names[sizes.argmin()]!r} has one point; two at least are needed in every group")
    drawn = SliceSettings(points.d, slices, directions, seed)
    tests = _Tests(permutations, source(seed))
    exact = are_few(len(group), points.d)
    if exact:
        distances, pvalues, errors = _exactly(points, group, sizes, statistic, tests, progress)
    else:
        binned = Binned.of(points, group.astype(np.int32), sizes, drawn, progress)
        fine, coarse = binned.merged(*_BINS)
        whole = _whole(binned, fine, statistic)
        pvalues, errors = _tested(binned, coarse, whole, tests, progress)
        distances = whole.distances
    np.fill_diagonal(errors, np.nan)
    method: Literal["exact", "sliced"] = "exact" if exact else "sliced"
    used: Literal["columns", "none"] = "none" if spreads is None else "columns"
    return PairwiseDistances(names, sizes, distances, errors, pvalues if permutations else None, statistic, used, method)


class _Tests:
    """Permutation tests of pairs, where pairs with equal numbers of blocks share their permutations."""

    def __init__(self, permutations: int, random: np.random.Generator) -> None:
        self.permutations, self.random = permutations, random
        self._splits: dict[tuple[int, int], np.ndarray] = {}

    def pvalue(self, gram: Gram, scale: float) -> float:
        """Return the p-value of a pair, or NaN without permutations; `scale` is the size of the statistic's largest terms."""
        shape = gram.K, gram.L
        if not self.permutations:
            return math.nan
        if shape not in self._splits:
            self._splits[shape] = splits(*shape, self.permutations, self.random)
        split = self._splits[shape]
        return pvalue(gram.squares, gram.weights, shape, permutations=self.permutations, scale=scale, random=split).value


def _exactly(
    points: Stream, group: np.ndarray, sizes: np.ndarray, statistic: Statistic, tests: _Tests, progress: ProgressCallback | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distances, p-values and half the standard errors of all pairs by brute force, (K, K) each."""
    K = len(sizes)
    x = np.concatenate([batch.cpu().numpy() for batch in points])
    if progress is not None:
        progress(Progress("points", len(x), len(x)))
    x, unit = in_range(x[np.argsort(group, kind="stable")])
    between = pair_distances(x)
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(np.add.reduceat(between, starts, 0), starts, 1)
    own = sums.diagonal() / sizes / (sizes - 1 if statistic == "U" else sizes)
    distances = 2 * sums / sizes / sizes[:, None] - own - own[:, None]
    distances = (distances + distances.T) / 2  # sums are symmetric up to rounding
    np.fill_diagonal(distances, 0)
    if statistic == "V":
        distances = np.maximum(distances, 0)  # rounding, if all points are equal
    pvalues, errors = np.full((K, K), np.nan), np.zeros((K, K))
    rows = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    for i, j in itertools.combinations(range(K), 2):
        both = np.r_[rows[i], rows[j]]
        pair = between[np.ix_(both, both)]
        gram = exact_gram(pair, int(sizes[i]))
        errors[i, j] = errors[j, i] = gram.points_error() / unit
        pvalues[i, j] = pvalues[j, i] = tests.pvalue(gram, 2 * float(pair.max()))
    if progress is not None:
        progress(Progress("pairs", K * (K - 1) // 2, K * (K - 1) // 2))
    return distances / unit, pvalues, errors


@dataclass(frozen=True)
class _Whole:
    """What the whole groups say.

    Attributes:
        distances: D² of all pairs, (K, K).
        slices_errors: their standard errors by the choice of slices, (K, K).
    """

    distances: np.ndarray
    slices_errors: np.ndarray


def _whole(binned: Binned, merged: Merged, statistic: Statistic) -> _Whole:
    sizes, P = binned.sizes, len(binned.unit)
    K = len(sizes)
    total, squares = np.zeros((K, K)), np.zeros((K, K))
    for some, counted in binned.counts(merged, binned.group, K):
        shares = counted / sizes[:, None, None].astype(np.float64)
        functions = shares.cumsum(-1)
        centred, steps = functions - functions.mean(0), merged.steps[some]
        for p in range(counted.shape[1]):
            gram = (centred[:, p] * steps[p]) @ centred[:, p].T
            spread = (functions[:, p] * (1 - functions[:, p])) @ steps[p] if statistic == "U" else np.zeros(K)
            own = gram.diagonal() - spread / (sizes - 1)
            each = own[:, None] + own - 2 * gram
            total += each
            squares += each**2
    variance = np.maximum(squares / P - (total / P) ** 2, 0)
    total = (total + total.T) / 2  # products are symmetric up to rounding
    np.fill_diagonal(total, 0)
    if statistic == "V":
        total = np.maximum(total, 0)  # rounding, where all is equal
    return _Whole(total, np.sqrt(variance * P))


def _tested(
    binned: Binned,
    merged: Merged,
    whole: _Whole,
    tests: _Tests,
    progress: ProgressCallback | None,
) -> tuple[np.ndarray, np.ndarray]:
    """p-values and standard errors of all pairs, (K, K) each."""
    sizes = binned.sizes
    K = len(sizes)
    pvalues, errors = np.full((K, K), np.nan), np.zeros((K, K))
    hidden = np.zeros((K, K), bool) if merged.enough else binned.near(whole.distances)
    level = np.maximum(np.log2(np.maximum(sizes // _BLOCKS, 1)).astype(int), 0)
    done = 0
    for at in np.unique(level):
        size = 1 << int(at)
        first, later = np.flatnonzero(level == at), np.flatnonzero(level > at)
        dealt = Dealt.of(binned.group, sizes, np.concatenate([first, later]), size, tests.random)
        grams = Grams.of(binned, merged, dealt, len(first))
        for i in range(len(first)):
            for j in range(i + 1, len(dealt.members)):
                a, b = dealt.members[i], dealt.members[j]
                gram = _alone(binned.pair(a, b), size, tests.random) if hidden[a, b] else grams.pair(i, j)
                error = math.hypot(gram.points_error(), whole.slices_errors[a, b])
                errors[a, b] = errors[b, a] = error
                scale = float(gram.matrix.diagonal()[gram.weights != 0].max())
                pvalues[a, b] = pvalues[b, a] = tests.pvalue(gram, scale)
                done += 1
                if progress is not None and (done % 256 == 0 or done == K * (K - 1) // 2):
                    progress(Progress("pairs", done, K * (K - 1) // 2))
    return pvalues, errors


def _alone(pair: Binned, size: int, random: np.random.Generator) -> Gram:
    """Return the Gram matrix of two groups in bins of their own, because those for all groups do not resolve them."""
    dealt = Dealt.of(pair.group, pair.sizes, np.arange(2), size, random)
    return Grams.of(pair, pair.merged(_BINS[1])[0], dealt, 2).pair(0, 1)
