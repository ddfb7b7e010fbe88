"""Energy distances between all pairs of many groups of points, in time that is linear in the points.

Every point is projected once, and its bin on every slice is kept, in two bytes. What follows are counts. A group's table is its
distribution function on all slices, and all K² distances are differences of inner products of these functions. For standard
errors and p-values groups are dealt into blocks, as in `two_sample`. Two groups are tested with blocks of one size, which is
that of the smaller one's. Sizes are powers of two, so that few of them serve all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rieszflow import _validate
from rieszflow._extras import extra
from rieszflow._group_bins import Binned, Merged
from rieszflow._surroundings import plain
from rieszflow._types import DirectionsName, Progress, ProgressCallback, Statistic
from rieszflow.data import labelled
from rieszflow.errors import InputError
from rieszflow.permutations import p_value, source, splits
from rieszflow.two_sample.gram import Gram

__all__ = ["PairwiseDistances", "pairwise_energy_distance"]

_BINS = ((2e-7, 1024), (1.3e-5, 256))  # see `Binned.merged`: for groups, and for blocks, whose noise is larger
_BLOCKS = 16  # of the smaller of two groups, at least
_MOST_BLOCKS = 32


@dataclass(frozen=True)
class PairwiseDistances:
    """Energy distances between K groups.

    Attributes:
        names: of the groups, in the order of their labels.
        sizes: points of every group, (K,).
        distances: 2E‖X−Y‖ − E‖X−X′‖ − E‖Y−Y′‖ of all pairs, (K, K), zero on the diagonal. Distances of points are Euclidean,
            not squared, and no root is taken of the whole.
        standard_errors: of the distances, from the choice of points and slices, (K, K); NaN on the diagonal.
        p_values: by permutations, (K, K), each of a pair by itself: among many pairs some are small by chance. NaN on the
            diagonal; None where none were asked for.
        statistic: "U" or "V", of the distances.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    distances: np.ndarray
    standard_errors: np.ndarray
    p_values: np.ndarray | None
    statistic: Statistic

    def __len__(self) -> int:
        """K."""
        return len(self.names)

    def pairs(self) -> list[dict[str, Any]]:
        """All pairs, those furthest apart first: a, b, n_a, n_b, distance, standard_error, and p_value if there are some."""
        rows, columns = np.triu_indices(len(self), 1)
        found = []
        for k in np.argsort(-self.distances[rows, columns], kind="stable"):
            i, j = int(rows[k]), int(columns[k])
            row = {"a": self.names[i], "b": self.names[j], "n_a": int(self.sizes[i]), "n_b": int(self.sizes[j])}
            row |= {"distance": float(self.distances[i, j]), "standard_error": float(self.standard_errors[i, j])}
            found.append(row if self.p_values is None else {**row, "p_value": float(self.p_values[i, j])})
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
        """The distances, or "standard_errors" or "p_values", as a pandas DataFrame with the groups' names on both sides."""
        with extra("cells", "frame"):
            import pandas

        if what not in ("distances", "standard_errors", "p_values"):
            raise InputError(f'what: {what!r} given; "distances", "standard_errors" and "p_values" are accepted')
        return pandas.DataFrame(getattr(self, what), index=list(self.names), columns=list(self.names))

    def __repr__(self) -> str:
        return f"PairwiseDistances({len(self)} groups, {int(self.sizes.sum())} points)"


@plain
def pairwise_energy_distance(
    x: Any,
    groups: Any,
    *,
    obsm: str | None = None,
    statistic: Statistic = "U",
    slices: int = 256,
    permutations: int = 999,
    directions: DirectionsName = "auto",
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> PairwiseDistances:
    """The energy distance between every two groups of points, with standard errors and p-values.

    Time and memory are linear in the points, 2 bytes for every point and slice, and quadratic in the number of groups.

    Args:
        x: points (n, d): all that `rieszflow.stream` takes, but iterators; or an AnnData object, or the path of an .h5ad file.
        groups: a label for every point; or the name of the column that holds them, of a table or of an AnnData object's `obs`.
        obsm: of an AnnData object, the key of the points in `obsm`, "X_pca" say; None for its X.
        statistic: "U", unbiased: around 0, and at times below it, where nothing differs. "V": never negative.
        slices: random directions P. Their error falls like 1/√P and is part of the standard errors.
        permutations: for every p-value; the least one is 1 / (permutations + 1). 0 for none, which saves most of the time.
        directions: as in `SliceSketch`.
        seed: of directions, blocks and permutations; a whole number.
        progress: called with a `Progress` that counts "points", and then "pairs".

    Raises:
        InputError, InputTypeError, DatasetError: what `stream` refuses; labels that do not fit; fewer than two groups, or a
            group of one point.
        MissingPackageError: an .h5ad file without anndata, a table without pyarrow.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(600, 3, generator=g) + torch.arange(3.0).repeat(200)[:, None]
        >>> found = pairwise_energy_distance(x, ["a", "b", "c"] * 200, permutations=99)
        >>> found.names, bool(found.distances[0, 2] > 2 * found.distances[0, 1]), found.p_values[0, 1].item()
        (('a', 'b', 'c'), True, 0.01)

    Source: Székely and Rizzo, Energy statistics (2013), on slices by the paper's Theorem 1; blocks as in `two_sample_test`.
    """
    if statistic not in ("V", "U"):
        raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
    if isinstance(permutations, bool) or not isinstance(permutations, (int, np.integer)) or permutations < 0:
        raise InputError(f"permutations: {permutations!r} given; whole numbers from 0 are accepted")
    points, labels = labelled(x, groups, obsm)
    found_names, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    names = tuple(map(str, found_names))
    if len(names) < 2:
        raise InputError(f"groups: all points are in one group, {names[0]!r}; two at least are needed")
    if sizes.min() < 2:
        raise InputError(f"groups: {names[sizes.argmin()]!r} has one point; two at least are needed in every group")
    group = group.astype(np.int32)
    binned = Binned.of(points, group, sizes, slices, directions, _validate.whole_seed(seed), progress)
    fine, coarse = binned.merged(*_BINS)
    found = _whole(binned, fine, statistic)
    p_values, errors = _tested(binned, coarse, found, permutations, source(seed), progress)
    np.fill_diagonal(errors, np.nan)
    return PairwiseDistances(names, sizes, 2 * found.distances, 2 * errors, p_values if permutations else None, statistic)


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
    permutations: int,
    random: np.random.Generator,
    progress: ProgressCallback | None,
) -> tuple[np.ndarray, np.ndarray]:
    """p-values and standard errors of all pairs, (K, K) each."""
    sizes = binned.sizes
    K = len(sizes)
    p_values, errors = np.full((K, K), np.nan), np.zeros((K, K))
    level = np.maximum(np.log2(np.maximum(sizes // _BLOCKS, 1)).astype(int), 0)
    done = 0
    for at in np.unique(level):
        size = 1 << int(at)
        first, later = np.flatnonzero(level == at), np.flatnonzero(level > at)
        dealt = _Dealt.of(binned.group, sizes, np.concatenate([first, later]), size, random)
        grams = _Grams.of(binned, merged, dealt, len(first))
        ways: dict[tuple[int, int], np.ndarray] = {}
        for i in range(len(first)):
            for j in range(i + 1, len(dealt.members)):
                gram = grams.pair(i, j)
                a, b = dealt.members[i], dealt.members[j]
                error = math.hypot(gram.points_error(), whole.slices_errors[a, b])
                errors[a, b] = errors[b, a] = error
                if permutations:
                    if (gram.K, gram.L) not in ways:
                        ways[gram.K, gram.L] = splits(gram.K, gram.L, permutations, random)
                    largest = float(gram.matrix.diagonal()[gram.weights != 0].max())
                    shape, split = (gram.K, gram.L), ways[gram.K, gram.L]
                    value = p_value(gram.squares, gram.weights, shape, permutations=permutations, scale=largest, random=split)
                    p_values[a, b] = p_values[b, a] = value.value
                done += 1
                if progress is not None and (done % 256 == 0 or done == K * (K - 1) // 2):
                    progress(Progress("pairs", done, K * (K - 1) // 2))
    return p_values, errors


@dataclass(frozen=True)
class _Dealt:
    """Some groups, dealt into blocks of one size. A group's rows are its blocks, and then one for the points in none.

    Attributes:
        members: the groups.
        size: points of a block.
        blocks: how many every member has.
        starts: first row of every member, and the end.
        row: of every point, −1 for those of other groups.
        numbers: points of every row.
        sizes: points of every member.
    """

    members: np.ndarray
    size: int
    blocks: np.ndarray
    starts: np.ndarray
    row: np.ndarray
    numbers: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, sizes: np.ndarray, members: np.ndarray, size: int, random: np.random.Generator) -> _Dealt:
        blocks = np.minimum(sizes[members] // size, _MOST_BLOCKS)
        starts = np.concatenate([[0], np.cumsum(blocks + 1)])
        row, numbers = np.full(len(group), -1, np.int32), np.full(starts[-1], size)
        order = np.argsort(group, kind="stable")
        firsts = np.concatenate([[0], np.cumsum(sizes)])
        for k, g in enumerate(members):
            mine = random.permutation(order[firsts[g] : firsts[g + 1]])
            row[mine] = starts[k] + np.minimum(np.arange(len(mine)) // size, blocks[k])
            numbers[starts[k + 1] - 1] = len(mine) - blocks[k] * size
        return cls(members, size, blocks, starts, row, numbers, sizes[members])


@dataclass(frozen=True)
class _Grams:
    """Inner products of the distribution functions of blocks: of some groups with all, and of the others with themselves."""

    dealt: _Dealt
    of_first: np.ndarray
    of_own: list[np.ndarray]
    first: int

    @classmethod
    def of(cls, binned: Binned, merged: Merged, dealt: _Dealt, first: int) -> _Grams:
        """The first members with all members, and every other member with itself."""
        starts, rows = dealt.starts, len(dealt.numbers)
        end = starts[first]
        products = np.zeros((end, rows))
        own = [np.zeros((many, many)) for many in np.diff(starts)[first:]]
        for some, counted in binned.counts(merged, dealt.row, rows):
            shares = counted / np.maximum(dealt.numbers, 1).astype(np.float32)[:, None, None]
            # Less the mean, and in single precision: what is left is as small as the differences that are looked for.
            functions = (shares - shares.mean(0)).cumsum(-1, dtype=np.float64).astype(np.float32)
            steps = merged.steps[some]
            used = steps > 0
            flat = functions[:, used] * np.sqrt(steps[used]).astype(np.float32)
            products += flat[:end] @ flat.T
            for k, gram in enumerate(own):
                mine = flat[starts[first + k] : starts[first + k + 1]]
                gram += mine @ mine.T
        return cls(dealt, products, own, first)

    def pair(self, i: int, j: int) -> Gram:
        """The Gram matrix of two members, the first of them among the first ones."""
        starts, K, L = self.dealt.starts, int(self.dealt.blocks[i]), int(self.dealt.blocks[j])
        a, b = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        theirs = self.of_first[b, b] if j < self.first else self.of_own[j - self.first]
        between = self.of_first[a, b]
        matrix = np.block([[self.of_first[a, a], between], [between.T, theirs]])
        order = [*range(K), *range(K + 1, K + 1 + L), K, K + 1 + L]  # blocks first, as `Gram` wants them
        size, (n, m) = self.dealt.size, self.dealt.sizes[[i, j]]
        in_x = np.array([size] * K + [0] * L + [n - K * size, 0]) / n
        in_y = np.array([0] * K + [size] * L + [0, m - L * size]) / m
        return Gram(matrix[np.ix_(order, order)], in_x, in_y, 0.0, K, L)
