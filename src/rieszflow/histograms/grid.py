"""Where the bins are. A frame says how points are projected; a grid is a frame and the range of the bins on every slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow.directions import Directions, HadamardDirections, PatchDirections

__all__ = ["SPAN", "BinGrid", "Projector", "grid_of", "parts"]

_PART = 1024  # dense directions at a time
_LOCAL_PART = 2048  # on patches; the images of a tile are read once for them
SPAN = ("low", "inverse", "shift", "scale", "B")
"""The names of the numbers of `Grid.span`."""


def parts(directions: Directions) -> Sequence[Directions]:
    """The slices that go through the passes together, in float32: the bins resolve no more."""
    directions = directions.to_float32()
    if isinstance(directions, HadamardDirections):
        return directions.blocks()
    return directions.split(_LOCAL_PART if isinstance(directions, PatchDirections) else _PART)


@dataclass(frozen=True)
class Projector:
    """How points are projected on a part of the slices: ⟨ξ, (x − shift)·scale⟩.

    Attributes:
        directions: the slices, P of them, in float32.
        shift: an origin near the points, (d,), where projections keep the most digits. Its dtype and device are the points'.
        scale: a power of two that brings the points near one: very small numbers would lose digits, very large ones overflow.
    """

    directions: Directions
    shift: Tensor
    scale: float

    def project(self, x: Tensor) -> Tensor:
        """Projections (P, N) of points (N, d), in float32."""
        x = x.detach()
        if x.dtype == torch.float32:
            return self.directions.project(x, self.shift, self.scale)
        return self.directions.project(((x - self.shift) * self.scale).float())


@dataclass(frozen=True)
class BinGrid(Projector):
    """A frame and its bins. Position u of a projection v, in equal bins, is (v − low)·inverse.

    Attributes:
        low: left end of the equal bins on every slice, (P,) float32, on the device of `shift`.
        inverse: how many of them there are in a unit, (P,) float32.
        B: number of equal bins; `layout.TAIL` geometric ones follow on either side.
    """

    low: Tensor
    inverse: Tensor
    B: int

    def span(self) -> dict[str, Tensor]:
        """A copy of the few numbers that say where the bins are, on this part of the slices. See `grid_of`."""
        return {
            "low": self.low.clone(),
            "inverse": self.inverse.clone(),
            "shift": self.shift.clone(),
            "scale": torch.tensor(self.scale, dtype=torch.float64, device="cpu"),
            "B": torch.tensor(self.B, dtype=torch.int64, device="cpu"),
        }

    def of_dtype(self, dtype: torch.dtype) -> BinGrid:
        """The same bins, for points of another dtype."""
        return dataclasses.replace(self, shift=self.shift.to(dtype))

    def met(self, x: Tensor) -> tuple[BinGrid, Tensor]:
        """Grid and points in the wider of their two dtypes: an origin far away is subtracted before anything is rounded."""
        dtype = torch.promote_types(self.shift.dtype, x.dtype)
        return self.of_dtype(dtype), x.to(dtype)


def with_bins(frame: Projector, low: np.ndarray, inverse: np.ndarray, B: int) -> BinGrid:
    """The grid of a frame and a range."""
    left, many = (torch.from_numpy(np.ascontiguousarray(v, np.float32)).to(frame.shift.device) for v in (low, inverse))
    return BinGrid(frame.directions, frame.shift, frame.scale, left, many, B)


def grid_of(directions: Directions, span: dict[str, Tensor]) -> BinGrid:
    """The grid on a part of the slices whose `span` it was, on the device and for points of the dtype of `span["shift"]`."""
    frame = Projector(directions, span["shift"], float(span["scale"]))
    return with_bins(frame, span["low"].cpu().numpy(), span["inverse"].cpu().numpy(), int(span["B"]))
