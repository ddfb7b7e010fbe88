"""What projections look up in their bin, and the check that they have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow.errors import InputError

__all__ = ["PiecewiseLinear", "check_inside"]


@dataclass(frozen=True)
class PiecewiseLinear:
    """A function on every slice that is linear in every bin: value at the bin's left edge, and rise over the bin.

    Attributes:
        values: (P, bins, 2) float32.
        own: value and rise that a point of weight one causes in its own bin, (2,) float32, to be taken off. None for nothing.
    """

    values: Tensor
    own: Tensor | None = None


def check_inside(positions: np.ndarray | Tensor, all_of_them: bool = True) -> None:
    """Refuses points too far off for float32: their positions outside of the bins, or sums of positions, are no numbers.

    Where only signs matter (not `all_of_them`), infinity does no harm.
    """
    if isinstance(positions, np.ndarray):
        good = np.isfinite(positions).all() if all_of_them else not np.isnan(positions).any()
    else:
        good = torch.isfinite(positions).all() if all_of_them else not torch.isnan(positions).any()
    if not good:
        raise InputError(
            "x, y: points so far from the others (about 10^30 times their spread) that float32 cannot hold the slices; "
            "mmd2 and mmd2_gradient take them"
        )
