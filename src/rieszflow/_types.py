"""Types that several rooms share: choices that are words, seeds, and how far something long has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "DirectionsName", "EngineName", "PointSource", "Points", "PointsT", "Progress", "ProgressCallback", "ScaleName", "Seed", "Statistic",
]  # fmt: skip

Statistic: TypeAlias = Literal["V", "U"]
"""V: all pairs, never negative. U: without the pairs of a point with itself, unbiased."""

EngineName: TypeAlias = Literal["auto", "sort", "bins"]
DirectionsName: TypeAlias = Literal["auto", "orthogonal", "hadamard", "sobol", "independent"]

ScaleName: TypeAlias = Literal["auto", "columns", "none"]
"""columns: divide every column by its robust spread. none: raw units. auto: "columns" if columns have names."""

Seed: TypeAlias = "int | torch.Generator | None"
"""A whole number, a generator that goes on, or None for torch's default generator."""

Points: TypeAlias = "torch.Tensor | np.ndarray"
"""What a public function takes as points, and gives back in kind."""

PointSource: TypeAlias = object
"""Anything that `rieszflow.stream` accepts: arrays, tensors, data frames, batches, data loaders, paths, …"""

PointsT = TypeVar("PointsT", "torch.Tensor", "np.ndarray")
"""In a signature: tensors in, a tensor out; arrays in, an array out. Both together are taken, too, and give a tensor."""


@dataclass(frozen=True)
class Progress:
    """How far something long has come. Every `progress` callback is called with one.

    Attributes:
        what: the unit of the count: "points", "x", "y" or "reference" in a pass over points, "stages" in sampling, "flow" or
            "fit" for the steps of a training.
        done: how many of them.
        total: how many there will be; None where that is not known.
        stage: number of the current training stage, from 1; 0 outside of trainings. A stage is one network, or one part of a
            recorded flow.
        stages: how many stages the training has.
        loss: the last normalised loss of a fit.
        row: the stage's line of metrics.jsonl; only when the stage is finished.

    Example:
        >>> Progress("points", 500, 1000).share
        0.5
    """

    what: str
    done: int
    total: int | None
    stage: int = 0
    stages: int = 0
    loss: float | None = None
    row: dict[str, Any] | None = None

    @property
    def share(self) -> float | None:
        """done / total, in [0, 1]; None where the total is not known."""
        return self.done / self.total if self.total else None


ProgressCallback: TypeAlias = Callable[[Progress], object]
