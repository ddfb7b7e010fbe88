"""Bin grids: how points are projected, where the bins are on every slice, and functions that are linear in every bin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow.directions import Directions, HadamardDirections, PatchDirections
from rieszflow.errors import InputError

_PART, _PATCH_PART = 1024, 2048  # dense directions at a time, and directions on patches


def split_directions(directions: Directions) -> Sequence[Directions]:
    """Split directions into parts that are processed together, in float32, because bins resolve no more."""
    directions = directions.to_float32()
    if isinstance(directions, HadamardDirections):
        return directions.blocks()
    return directions.split(_PATCH_PART if isinstance(directions, PatchDirections) else _PART)


@dataclass(frozen=True)
class Projector:
    """The projections ⟨ξ, (x − shift)·scale⟩ on a part of the slices.

    Attributes:
        directions: The P slices, in float32.
        shift: An origin (d,) near the points, where projections keep the most digits, in their dtype and on their device.
        scale: A power of two that brings the points near one: very small numbers would lose digits, very large ones overflow.
            A tensor () float64 on devices other than the CPU, because to know it would be to wait for them.
    """

    directions: Directions
    shift: Tensor
    scale: float | Tensor

    def project(self, x: Tensor) -> Tensor:
        """Return the projections (P, N) of points (N, d), in float32."""
        x = x.detach()
        if x.dtype == torch.float32:
            return self.directions.project(x, self.shift, self.scale)
        return self.directions.project(((x - self.shift) * self.scale).float())

    def tiles(self, x: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield consecutive rows of x and their projections (P, m)."""
        for start in range(0, len(x), size):
            rows = slice(start, min(len(x), start + size))
            yield rows, self.project(x[rows]).contiguous()

    def with_bins(self, low: np.ndarray | Tensor, inverse: np.ndarray | Tensor, B: int) -> BinGrid:
        """Return the grid of B equal bins per slice, given their left ends and the inverse of their widths, (P,) each."""
        left, per = (torch.as_tensor(v, dtype=torch.float32, device=self.shift.device) for v in (low, inverse))
        return BinGrid(self.directions, self.shift, self.scale, left, per, B)


@dataclass(frozen=True)
class BinGrid(Projector):
    """A projector and its bins. A projection v is at position u = (v − low)·inverse, in units of equal bins.

    Attributes:
        low: The left end of the equal bins on every slice, (P,) float32, on the device of `shift`.
        inverse: The inverse of the width of the equal bins, (P,) float32.
        B: The number of equal bins; `TAIL` geometric ones follow on either side.
    """

    low: Tensor
    inverse: Tensor
    B: int

    def to_tensors(self) -> dict[str, Tensor]:
        """Return a copy of all that defines the bins, except for the directions."""
        return {
            "low": self.low.clone(), "inverse": self.inverse.clone(), "shift": self.shift.clone(),
            "scale": torch.as_tensor(self.scale, dtype=torch.float64, device="cpu"),
            "B": torch.tensor(self.B, dtype=torch.int64, device="cpu"),
        }  # fmt: skip

    @staticmethod
    def from_tensors(directions: Directions, tensors: Mapping[str, Tensor]) -> BinGrid:
        """Restore the grid from `to_tensors`, on the device and for points of the dtype of `tensors["shift"]`."""
        projector = Projector(directions, tensors["shift"], float(tensors["scale"]))
        return projector.with_bins(tensors["low"], tensors["inverse"], int(tensors["B"]))

    def to_dtype(self, dtype: torch.dtype) -> BinGrid:
        """Return the same bins for points of another dtype."""
        return dataclasses.replace(self, shift=self.shift.to(dtype))

    def promote(self, x: Tensor) -> tuple[BinGrid, Tensor]:
        """Return grid and points in the wider of their dtypes, so that a distant origin is subtracted before rounding."""
        dtype = torch.promote_types(self.shift.dtype, x.dtype)
        return self.to_dtype(dtype), x.to(dtype)


@dataclass(frozen=True)
class PiecewiseLinear:
    """A function on every slice that is linear in every bin.

    Attributes:
        values: Its value at the left edge and its rise over the bin, (P, bins, 2) float32.
        own: The value and rise that a point of weight one causes in its own bin, (2,) float32, to be subtracted; or None.
        bounded: True if there are B + 1 values at the edges of the equal bins, which are constant beyond the range.
    """

    values: Tensor
    own: Tensor | None = None
    bounded: bool = False


def check_inside(largest: float, finite: bool = True) -> None:
    """Refuse points so far away that their largest absolute position is NaN, or infinite if it has to be `finite`."""
    if math.isnan(largest) or (finite and math.isinf(largest)):
        raise InputError(
            "`x` and `y` must lie within about 10^30 times their spread on slices, which are float32, got points further away; "
            "mmd2 and mmd2_gradient accept them"
        )
