"""The linear-time engine, an adapter of `rieszflow.histograms` to the contract of engines, and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra.files import below, prefixed
from rieszflow._infra.messages import notice
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, Pair
from rieszflow.directions import Directions
from rieszflow.engines.base import Engine, Problem, Result
from rieszflow.errors import InputError
from rieszflow.histograms import BINS, BinGrid, CdfEvaluator, Evaluator, FftEvaluator, Histogram
from rieszflow.kernels import Riesz

if TYPE_CHECKING:
    from rieszflow.data import Stream

_DRIFT = 0.02  # additional share of projections outside the range that makes a cache stale
_X, _Y = Workspace(), Workspace()


class Bins(Engine):
    """MMD² from histograms, in linear time; exact up to the width of the bins."""

    name: ClassVar[str] = "bins"

    def refusal(self, problem: Problem) -> str | None:
        if problem.need.weights:
            return "`x_weights` and `y_weights` must not require gradients with engine 'bins'; use engine 'sort' or mmd2"
        return None

    def evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        if pair.x.points.ndim == 2:
            return self._evaluate(pair, directions, problem)
        if problem.group is not None:
            raise InputError("`group` must be None for batches of clouds, got a process group")
        shape = pair.x.points.shape[:-2]
        results = [
            self._evaluate(Pair(x, y, pair.unbiased), directions, problem)
            for x, y in zip(_members(pair.x), _members(pair.y), strict=True)
        ]

        def stack(name: str) -> Tensor | None:
            parts = [part for part in (getattr(result, name) for result in results) if part is not None]
            return torch.stack(parts).view(*shape, *parts[0].shape) if parts else None

        return Result(stack("value"), stack("x"), stack("y"), stack("a"), stack("b"))

    def _evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        """Evaluate a problem for clouds without batch dimensions."""
        kernel, need, group, P = problem.kernel, problem.need, problem.group, directions.P
        if isinstance(kernel, Riesz) and kernel.r < 1 and (need.x or need.y):
            notice(
                f"kernel: gradients of {kernel!r} on slices can be wrong by their own size, because forces grow without bound "
                "as points meet and bins do not resolve that (values are right); mmd2_gradient is exact"
            )
        total, bins = Result(), BINS if need.value else None
        for grid in histograms.choose_grids(pair.x.points, pair.y.points, directions, kernel, bins=bins, group=group):
            y = Histogram.from_points(grid, pair.y, tail_sums=need.value, workspace=_Y, group=group)
            x = Histogram.from_points(grid, pair.x, tail_sums=need.value, workspace=_X, group=group)
            cdf = histograms.uses_cdf(kernel)
            both: Evaluator = CdfEvaluator(x, y, pair.unbiased) if cdf else FftEvaluator(x, y, pair.unbiased, kernel)
            total += Result(
                both.value() / P if need.value else None,
                both.gradient(pair.x, P) if need.x else None,
                both.gradient(pair.y, P, by_y=True) if need.y else None,
            )
        return total


def _members(cloud: Cloud) -> list[Cloud]:
    points, w = cloud.points.flatten(0, -3), cloud.weights
    if w is None:
        return [Cloud(p) for p in points]
    weights = w.expand(*cloud.points.shape[:-2], w.shape[-1]).flatten(0, -2)
    return [Cloud(p, v) for p, v in zip(points, weights, strict=True)]


class CachedTarget:
    """The histograms of a target on all parts of the slices, so that a call costs nothing for the target.

    The owner knows and sets the `seed` of the slices; `uses` is the number of calls so far.
    """

    seed: int
    uses = 0

    def __init__(self, grids: Sequence[BinGrid], y: Cloud | Stream, group: Group) -> None:
        self._group = group
        if isinstance(y, Cloud):
            self.histograms = [Histogram.from_points(grid, y, group=group) for grid in grids]
        else:
            self.histograms = histograms.count_batches(grids, y, group)
        self._outside = [y.outside() for y in self.histograms]
        self._slices = sum(grid.directions.P for grid in grids)

    @classmethod
    def for_points(cls, x: Tensor, y: Cloud | Stream, directions: Directions, problem: Problem) -> CachedTarget:
        """Count a target y on these slices, in bins for y and for points distributed like x (N, d)."""
        points = y.points if isinstance(y, Cloud) else y
        grids = histograms.choose_grids(x, points, directions, problem.kernel, bins=None, group=problem.group)
        return cls(grids, y, problem.group)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], y: Cloud | Stream, directions: Directions, group: Group) -> CachedTarget:
        """Rebuild the cache of this `state` from the same target and slices. Raises KeyError if the state does not fit."""
        grids = [BinGrid.from_tensors(part, below(k, state)) for k, part in enumerate(histograms.split_directions(directions))]
        return cls(grids, y, group)

    def evaluate(self, x: Cloud, unbiased: bool) -> Result:
        """Return the result of `Bins.evaluate` for x (N, d) and this target."""
        total = Result()
        for y, outside in zip(self.histograms, self._outside, strict=True):
            mine = Histogram.from_points(y.grid, x, workspace=_X, group=self._group)
            stale = mine.outside() > outside + _DRIFT
            total += Result(x=CdfEvaluator(mine, y, unbiased).gradient(x, self._slices), stale=stale)
        self.uses += 1
        return total

    def state(self) -> dict[str, Tensor]:
        """Return what `from_state` needs in addition to the target and the slices."""
        return {name: t for k, y in enumerate(self.histograms) for name, t in prefixed(k, y.grid.to_tensors()).items()}
