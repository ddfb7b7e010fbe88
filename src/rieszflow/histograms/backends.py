"""The passes over the points of a cloud, which are all the work that grows with their number. `of` chooses who makes them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rieszflow._types import Cloud
from rieszflow.directions import HadamardDirections, PatchDirections
from rieszflow.histograms.count_cpu import FUSED, PATCHED, TILED
from rieszflow.histograms.count_torch import Device
from rieszflow.histograms.grid import BinGrid, Projector
from rieszflow.histograms.lines import PiecewiseLinear

__all__ = ["Passes", "of"]


class Passes(Protocol):
    """An array of all projections, P × N, never exists: points are projected a tile at a time, in every pass anew."""

    def extent(self, frame: Projector, x: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest projection on every slice, (P,) each."""

    def count(
        self, grid: BinGrid, cloud: Cloud, *, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Counts a cloud (N, d) into the bins.

        Args:
            grid: where the bins are.
            cloud: the points; one without weights counts 1 each.
            moments: whether to add up positions outside of the equal bins.
            scale: a factor for all results.
            memory: name of the scratch memory that holds the mass until the next call with that name. None for its own.

        Returns:
            mass (P, bins), float32; moments Σ mass·u in the geometric bins, (P, 2·TAIL) float64, or None.
        """

    def look_up(self, grid: BinGrid, cloud: Cloud, lines: PiecewiseLinear) -> Tensor:
        """Σ_p w_i line_p(⟨ξ_p, x_i⟩) ξ_p for every point, (N, d) in the points' dtype; w_i = 1 without weights."""

    def cumulate(self, f: Tensor, g: Tensor, alpha: float, factor: float) -> PiecewiseLinear:
        """factor·[2G − 1 − α(2F − 1)] from the masses f and g, in memory that holds until the next call."""


_DEVICE = Device()


def of(frame: Projector) -> Passes:
    """The passes for a part of the slices, on the device of the points."""
    if frame.shift.device.type != "cpu":
        return _DEVICE
    directions = frame.directions
    if isinstance(directions, PatchDirections):
        return PATCHED
    return FUSED if isinstance(directions, HadamardDirections) and directions.first == 0 else TILED
