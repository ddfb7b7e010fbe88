"""Types that several rooms share, without importing PyTorch, so that the command line prints its help at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rieszflow.kernels import Kernel

Statistic: TypeAlias = Literal["V", "U"]
"""V: all pairs, never negative. U: without the pairs of a point with itself, unbiased."""

EngineName: TypeAlias = Literal["auto", "sort", "bins"]
DirectionsName: TypeAlias = Literal["auto", "orthogonal", "hadamard", "sobol", "independent"]

KernelsName: TypeAlias = Literal["auto", "energy"]
Kernels: TypeAlias = "KernelsName | Sequence[Kernel]"
ScaleName: TypeAlias = Literal["auto", "columns", "none"]
"""columns: divide every column by its robust spread. none: raw units. auto: "columns" if columns have names."""

Seed: TypeAlias = "int | torch.Generator | None"
"""An integer, a generator whose state advances, or None for torch's default generator."""

Points: TypeAlias = "torch.Tensor | np.ndarray"
"""Points that a public function accepts, and returns in the same type."""

PointSource: TypeAlias = object
"""Anything that `rieszflow.stream` accepts: arrays, tensors, data frames, batches, data loaders, paths, …"""

PointsT = TypeVar("PointsT", "torch.Tensor", "np.ndarray")
"""In a signature: tensors in, a tensor out; arrays in, an array out. A mixture of both gives a tensor."""


@dataclass(frozen=True)
class Cloud:
    """Points and their weights."""

    points: torch.Tensor  # (..., N, d), float32 or float64
    weights: torch.Tensor | None = None  # (N,) or (..., N), with sum one; None for 1/N each, which bins count as integers

    def detached(self) -> Cloud:
        return Cloud(self.points.detach(), None if self.weights is None else self.weights.detach())


@dataclass(frozen=True)
class Pair:
    """Two clouds of one dimension, dtype and device, and the statistic: the U-statistic if `unbiased`."""

    x: Cloud
    y: Cloud
    unbiased: bool = False

    def detached(self) -> Pair:
        return Pair(self.x.detached(), self.y.detached(), self.unbiased)


@dataclass(frozen=True)
class Need:
    """The requested results: the value of MMD², and its derivatives by x, y, the weights a of x and the weights b of y."""

    value: bool = False
    x: bool = False
    y: bool = False
    a: bool = False
    b: bool = False

    @property
    def weights(self) -> bool:
        return self.a or self.b


@dataclass(frozen=True)
class Progress:
    """The state of a long computation, the argument of every `progress` callback.

    Attributes:
        what: The unit of the count: "points", "x", "y" or "reference" in a pass over points, "steps" in a flow, "stages" in
            sampling, "flow" or "fit" for the steps of a training.
        done: Number of units that are done.
        total: Number of all units; None if it is not known.
        stage: Number of the current training stage (a network, or a part of a recorded flow), from 1; 0 outside of training.
        stages: Number of training stages.
        loss: The last normalised loss of a fit.
        row: The stage's line of metrics.jsonl; only when the stage is finished.

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
        """done / total, in [0, 1]; None if the total is not known."""
        return self.done / self.total if self.total else None


ProgressCallback: TypeAlias = Callable[[Progress], object]
