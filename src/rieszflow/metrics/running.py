"""The sliced energy distance as a metric of torchmetrics: batch after batch, in constant memory, added up over processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._clouds import Cloud
from rieszflow._extras import extra
from rieszflow._surroundings import plain
from rieszflow._types import DirectionsName, ScaleName, Statistic
from rieszflow.data import spreads_of_rows
from rieszflow.engines import bins
from rieszflow.engines.bins import passes
from rieszflow.errors import InputError, InputTypeError
from rieszflow.loss import flat
from rieszflow.sketch.plan import Drawn, Plan

with extra("generative", "SlicedEnergyDistance"):
    from torchmetrics import Metric

__all__ = ["SlicedEnergyDistance"]


class SlicedEnergyDistance(Metric):
    """Energy distance between all points seen as real and all others, like torchmetrics' FID but without keeping features.

    What is kept are the tables of a `SliceSketch`, 20 KB a slice for both clouds, whatever the number of points. Those of
    several processes add up without loss: how points are spread over batches and processes does not matter.

    Args:
        rows: some points (m, ...), m ≥ 1, like those that are to come: they say where the bins should be. They are not counted.
            Every process needs the same ones.
        slices: number P of directions.
        directions: "auto", "orthogonal", "hadamard", "sobol" or "independent", as in `sliced_mmd2`.
        seed: of the directions, a whole number.
        scale: "columns" divides every column by its robust spread in `rows` (interquartile range, standard deviation where that
            is 0), "none" keeps raw units; "auto": raw units, and a notice where the spreads of `rows` (m, d) differ more than
            tenfold.
        statistic: "U", unbiased in the samples, or "V", never negative.
        reset_real: whether `reset` forgets the real points, too. False where they are the same for every epoch.
        kwargs: as for every `torchmetrics.Metric`.

    Raises:
        InputTypeError (a TypeError): a wrong type or dtype.
        InputError (a ValueError): a wrong shape, NaN or infinity, an unknown name, a number out of range.
        MissingPackageError: torchmetrics is not installed.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> real, made = torch.randn(4000, 3, generator=g), torch.randn(4000, 3, generator=g) + 1
        >>> metric = SlicedEnergyDistance(real[:100])
        >>> for batch in real.split(500):
        ...     metric.update(batch, real=True)
        >>> for batch in made.split(500):
        ...     metric.update(batch, real=False)
        >>> abs(metric.compute().item() - 1.0) < 0.1
        True

    Source: Székely and Rizzo, Energy statistics (2013), on slices by the paper's Theorem 1.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(
        self,
        rows: Any,
        *,
        slices: int = 1024,
        directions: DirectionsName = "auto",
        seed: int = 0,
        scale: ScaleName = "auto",
        statistic: Statistic = "U",
        reset_real: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        points = _validate.points("rows", flat("rows", rows).detach().cpu())
        if statistic not in ("V", "U"):
            raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
        self.statistic, self.reset_real = statistic, reset_real
        spreads = spreads_of_rows(scale, points, False, getattr(rows, "ndim", 2) > 2)
        self._drawn = Drawn(points.shape[1], slices, directions, seed, None, spreads)
        grids = Plan.around(self._drawn.divide(points), self._drawn).random
        self._spans = [grid.span() for grid in grids]
        P, width = sum(grid.directions.P for grid in grids), grids[0].B + 2 * bins.TAIL
        for name in ("real", "made"):
            self.add_state(f"{name}_mass", torch.zeros(P, width, dtype=torch.float64, device="cpu"), "sum")
            self.add_state(f"{name}_moments", torch.zeros(P, 2 * bins.TAIL, dtype=torch.float64, device="cpu"), "sum")
            self.add_state(f"{name}_n", torch.zeros((), dtype=torch.int64, device="cpu"), "sum")

    def _grids(self, device: torch.device) -> Iterator[tuple[bins.Grid, slice]]:
        """The bins on a device, a part of the slices after another, and the part's rows among all."""
        first = 0
        spans = [{**span, "shift": span["shift"].to(device)} for span in self._spans]
        for part, span in zip(bins.parts(self._drawn.kinds(spans[0]["shift"])[0]), spans, strict=True):
            yield bins.grid_of(part, span), slice(first, first + part.P)
            first += part.P

    @plain
    def update(self, x: Tensor, real: bool) -> None:
        """Counts a batch.

        Args:
            x: points (n, ...), float64, float32, bfloat16 or float16, of as many numbers each as `rows`.
            real: whether they are of the first cloud, or of the second.

        Raises:
            InputError, InputTypeError: what is not accepted. Nothing is counted then.
        """
        points = _validate.points("x", flat("x", x).detach())
        if points.shape[1] != self._drawn.d:
            raise InputError(f"x: points of {points.shape[1]} numbers given, rows had {self._drawn.d}; they must be equal")
        if not isinstance(real, bool):
            raise InputTypeError(f"real: {real!r} given; True and False are accepted")
        mass, moments, n = self._state(real)
        scaled = self._drawn.divide(points)
        for grid, rows in self._grids(points.device):
            grid, wide = grid.met(scaled)
            counted = passes.of(grid).count(grid, Cloud(wide), moments=True, scale=1.0, memory="metric")
            assert counted[1] is not None
            mass[rows] += counted[0]
            moments[rows] += counted[1]
        n += len(points)

    @plain
    def compute(self) -> Tensor:
        """2E‖X−Y‖ − E‖X−X′‖ − E‖Y−Y′‖ on the slices, float64, in the points' unit; scaled columns have none.

        Raises:
            InputError: fewer than two real points, or two others ("V" needs one of each).
        """
        least = 2 if self.statistic == "U" else 1
        clouds = {"real": self._state(True), "made": self._state(False)}
        for name, (_, _, n) in clouds.items():
            if n < least:
                raise InputError(f"compute: {int(n)} points with real={name == 'real'} seen; {least} are needed at least")
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for grid, rows in self._grids(self.real_mass.device):
            x, y = (
                bins.Table(grid, (mass[rows] / n).float(), moments[rows] / n, 1 / int(n))
                for mass, moments, n in clouds.values()
            )
            total += bins.Cumulated(x, y, self.statistic == "U").values().sum()
        return 2 * total / self._drawn.slices

    def _state(self, real: bool) -> tuple[Tensor, Tensor, Tensor]:
        name = "real" if real else "made"
        return getattr(self, f"{name}_mass"), getattr(self, f"{name}_moments"), getattr(self, f"{name}_n")

    def reset(self) -> None:
        """Forgets the points, and the real ones only if `reset_real`."""
        kept = None if self.reset_real else self._state(True)
        super().reset()
        if kept is not None:
            self.real_mass, self.real_moments, self.real_n = kept
