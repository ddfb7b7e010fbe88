"""Points dealt at random into blocks of equal size, whose tables are counted in the pass that counts the whole cloud."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud
from rieszflow.data import Stream
from rieszflow.sketch import Plan, SliceSketch
from rieszflow.sketch.counts import Counts
from rieszflow.sketch.reservoir import capacity

__all__ = ["Dealt", "deal", "sizes"]

_COUNTS = Workspace()
_BLOCKS = 32  # of the smaller sample


@dataclass(frozen=True)
class Dealt:
    """A cloud and its blocks.

    Attributes:
        whole: the sketch of all points.
        blocks: points in every bin, (K, P, bins) whole numbers for every part of the random slices.
        size: points of a block.
    """

    whole: SliceSketch
    blocks: list[np.ndarray]
    size: int

    @property
    def K(self) -> int:
        return len(self.blocks[0])

    @property
    def tested(self) -> int:
        """Points in blocks."""
        return self.K * self.size

    @property
    def others(self) -> int:
        """Points in none."""
        return self.whole.n - self.tested

    def rest(self, part: int) -> np.ndarray:
        """What the points in no block are in the bins of a part of the slices, (P, bins)."""
        rest: np.ndarray = self.whole.counts[part].cpu().numpy() - self.blocks[part].sum(0, dtype=np.float64)
        return rest


def sizes(n: int, m: int, most_times: int) -> tuple[int, int, int]:
    """Points of a block, and how many blocks samples of n and m points have: 32 of the smaller one, more of the larger one."""
    size = max(1, min(n, m) // _BLOCKS)
    K, L = (min(many // size, most_times * _BLOCKS) for many in (n, m))
    return size, K, L


def deal(
    cloud: Stream, plan: Plan, sizes: tuple[int, int], random: np.random.Generator, told: Callable[[int], object] | None = None
) -> Dealt:
    """Deals a cloud into blocks.

    Args:
        cloud: the points, in their own units.
        plan: where the bins are.
        sizes: points of a block, and number of blocks.
        random: who comes into which block.
        told: called after every batch with the number of points so far.
    """
    size, K = sizes
    counts = Counts(plan, capacity(None, plan.settings.d))
    blocks = [np.zeros((K, g.directions.P, g.B + 2 * histograms.TAIL), np.min_scalar_type(size)) for g in plan.random]
    # How many points every block still gets, and how many none does: who gets which is drawn batch by batch.
    left = np.array([size] * K + [cloud.count() - K * size])
    for batch in cloud:
        counts.see(plan, batch)
        drawn = random.multivariate_hypergeometric(left, len(batch), method="marginals")
        left -= drawn
        order, scaled = torch.from_numpy(random.permutation(len(batch))), plan.settings.divide(batch)
        for k, mine in enumerate(order.split(drawn.tolist())[:K]):
            if len(mine):
                _add(scaled, mine, k, plan, blocks)
        if told is not None:
            told(counts.n)
    return Dealt(SliceSketch.counted(plan, counts), blocks, size)


def _add(batch: Tensor, mine: Tensor, k: int, plan: Plan, blocks: list[np.ndarray]) -> None:
    """Some points of a batch, divided by their spreads, come into block k."""
    # A single point twice: its projections, a product with a vector, would differ in the last digit from those of the same
    # point among others, and equal points must be in equal bins.
    times = 2 if len(mine) == 1 else 1
    for grid, counts in zip(plan.random, blocks, strict=True):
        grid, points = grid.promote(batch[mine.repeat(times)])
        mass, _ = histograms.select_backend(grid).count(grid, Cloud(points), scale=1 / times, workspace=_COUNTS)
        counts[k] += mass.cpu().numpy().astype(counts.dtype)
