"""Groups of points dealt into blocks of a size that suits two groups at a time, and the Gram matrices of these blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rieszflow.two_sample.gram import Gram
from rieszflow.two_sample.pairwise_bins import Binned, Merged

__all__ = ["Dealt", "Grams"]

_MOST_BLOCKS = 32


@dataclass(frozen=True)
class Dealt:
    """Groups dealt into blocks of one size. The rows of a group are its blocks, then one row for the points in no block.

    Attributes:
        members: Indices of the groups.
        size: Number of points in a block.
        blocks: Number of blocks of every member.
        starts: First row of every member, and the number of rows.
        row: Row of every point; −1 for points of other groups.
        numbers: Number of points in every row.
        sizes: Number of points of every member.
    """

    members: np.ndarray
    size: int
    blocks: np.ndarray
    starts: np.ndarray
    row: np.ndarray
    numbers: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray, sizes: np.ndarray, members: np.ndarray, size: int, random: np.random.Generator) -> Dealt:
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
class Grams:
    """Inner products of the distribution functions of blocks: of the first groups with all, of the others with themselves."""

    dealt: Dealt
    of_first: np.ndarray
    of_own: list[np.ndarray]
    first: int

    @classmethod
    def of(cls, binned: Binned, merged: Merged, dealt: Dealt, first: int) -> Grams:
        """Compute the products of the first members with all members, and of every other member with itself."""
        starts, rows = dealt.starts, len(dealt.numbers)
        end = starts[first]
        products = np.zeros((end, rows))
        own = [np.zeros((many, many)) for many in np.diff(starts)[first:]]
        for some, counted in binned.counts(merged, dealt.row, rows):
            shares = counted / np.maximum(dealt.numbers, 1).astype(np.float32)[:, None, None]
            # The mean is subtracted before rounding to float32: the rest is as small as the differences to be found.
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
        """Return the Gram matrix of members i and j, where i is among the first ones."""
        starts, K, L = self.dealt.starts, int(self.dealt.blocks[i]), int(self.dealt.blocks[j])
        a, b = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        theirs = self.of_first[b, b] if j < self.first else self.of_own[j - self.first]
        between = self.of_first[a, b]
        matrix = np.block([[self.of_first[a, a], between], [between.T, theirs]])
        order = [*range(K), *range(K + 1, K + 1 + L), K, K + 1 + L]  # blocks first, as `Gram` requires
        size, (n, m) = self.dealt.size, self.dealt.sizes[[i, j]]
        in_x = np.array([size] * K + [0] * L + [n - K * size, 0]) / n
        in_y = np.array([0] * K + [size] * L + [0, m - L * size]) / m
        return Gram(matrix[np.ix_(order, order)], in_x, in_y, 0.0, K, L)
