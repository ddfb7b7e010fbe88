"""The linear-time engine, as its contract has it. The package's docstring tells how it works."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import Batches, Cloud, Need, Pair
from rieszflow.directions import Directions
from rieszflow.engines.base import CachedTarget, Engine, Problem, Result, Sum
from rieszflow.histograms.cdf import CdfEvaluator
from rieszflow.histograms.choose import cumulates, grids
from rieszflow.histograms.evaluator import Evaluator
from rieszflow.histograms.fft import FftEvaluator
from rieszflow.histograms.grid import SPAN, BinGrid, grid_of, parts
from rieszflow.histograms.table import Histogram, count_batches, counted
from rieszflow.kernels import Kernel, Riesz

__all__ = ["Bins", "CachedHistograms"]

_DRIFT = 0.02  # share of projections that may leave the range of a kept table before it is made anew


class Bins(Engine):
    """Linear time; exact but for the bins."""

    name: ClassVar[str] = "bins"
    exact: ClassVar[bool] = False
    takes_batches: ClassVar[bool] = False

    def refusal(self, problem: Problem) -> str | None:
        if problem.need.weights:
            return "x_weights, y_weights: engine 'bins' has no derivatives by weights; use engine='sort' (Riesz(1.0)), or mmd2"
        return None

    def _evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        need, group, P = problem.need, problem.group, directions.P
        _warn_of(problem)
        total = Sum()
        for grid in grids(pair.x.points, pair.y.points, directions, problem.kernel, value=need.value, group=group):
            y = counted(grid, pair.y, moments=need.value, memory="mass of y", group=group)
            x = counted(grid, pair.x, moments=need.value, memory="mass of x", group=group)
            method = _method(x, y, pair.unbiased, problem.kernel)
            total.add(
                Result(
                    method.value() / P if need.value else None,
                    method.gradient_x(pair.x, P) if need.x else None,
                    method.gradient_y(pair.y, P) if need.y else None,
                )
            )
        return total.result()

    def can_cache(self, problem: Problem) -> bool:
        return cumulates(problem.kernel) and problem.need == Need(x=True)

    @isolated_numerics
    def keep(self, y: Cloud | Batches, x: Tensor, directions: Directions, problem: Problem) -> CachedHistograms:
        points = y.points if isinstance(y, Cloud) else y
        return _counted_on(grids(x, points, directions, problem.kernel, value=False, group=problem.group), y, problem)

    @isolated_numerics
    def restore(
        self, y: Cloud | Batches, state: dict[str, Tensor], directions: Directions, problem: Problem
    ) -> CachedHistograms:
        found = [grid_of(part, {name: state[f"{k}.{name}"] for name in SPAN}) for k, part in enumerate(parts(directions))]
        return _counted_on(found, y, problem)


class CachedHistograms(CachedTarget):
    """A target's tables on all parts of the slices."""

    def __init__(self, tables: Sequence[Histogram], problem: Problem) -> None:
        self.tables, self._problem = tuple(tables), problem
        self.outside = tuple(table.outside() for table in tables)
        """The share of the target's projections outside of the equal bins, of every part."""
        self._slices = sum(table.grid.directions.P for table in tables)

    @isolated_numerics
    def evaluate(self, x: Cloud, unbiased: bool) -> Result:
        total, stale = Sum(), False
        for y, outside in zip(self.tables, self.outside, strict=True):
            mine = counted(y.grid, x, memory="mass of x", group=self._problem.group)
            stale |= mine.outside() > outside + _DRIFT
            total.add(Result(x=CdfEvaluator(mine, y, unbiased).gradient_x(x, self._slices)))
        return total.result(stale)

    def state(self) -> dict[str, Tensor]:
        return {f"{k}.{name}": v for k, table in enumerate(self.tables) for name, v in table.grid.span().items()}


def _counted_on(found: Sequence[BinGrid], y: Cloud | Batches, problem: Problem) -> CachedHistograms:
    if isinstance(y, Cloud):
        return CachedHistograms([counted(grid, y, group=problem.group) for grid in found], problem)
    return CachedHistograms(count_batches(found, y, problem.group), problem)


def _method(x: Histogram, y: Histogram, unbiased: bool, kernel: Kernel) -> Evaluator:
    return CdfEvaluator(x, y, unbiased) if cumulates(kernel) else FftEvaluator(x, y, unbiased, kernel)


def _warn_of(problem: Problem) -> None:
    kernel, need = problem.kernel, problem.need
    if isinstance(kernel, Riesz) and kernel.r < 1 and (need.x or need.y):
        warnings.warn(
            f"kernel: gradients of {kernel!r} on slices can be off by their own size: forces grow without bound as points "
            "meet, and bins do not resolve that (values are right); mmd2_gradient is exact",
            stacklevel=2,
        )
