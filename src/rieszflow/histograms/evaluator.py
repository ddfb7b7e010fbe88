"""From the tables of two clouds to D² and its gradients: what cumulating and convolving have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from rieszflow._types import Cloud
from rieszflow.histograms import backends
from rieszflow.histograms.lines import PiecewiseLinear
from rieszflow.histograms.table import Histogram

__all__ = ["Evaluator"]


class Evaluator(ABC):
    """D² between two clouds on a part of the slices, from their tables x and y on one grid.

    Attributes:
        unit: a factor that gradients still need.
    """

    unit: float = 1.0

    def __init__(self, x: Histogram, y: Histogram, unbiased: bool) -> None:
        self.x, self.y, self.grid, self.unbiased = x, y, x.grid, unbiased

    def self_factor(self, own: Histogram) -> float:
        """1/(1 − Σw²) for the U-statistic, which turns a mean over all pairs into one over distinct pairs. 1 for V."""
        return 1 / (1 - own.self_weight) if self.unbiased else 1.0

    @abstractmethod
    def value(self) -> Tensor:
        """D² times the number of slices, () float64. Needs the moments of both tables."""

    @abstractmethod
    def lines(self, own: Histogram, other: Histogram, factor: float, weighted: bool) -> PiecewiseLinear:
        """`factor` times the derivative of D² by a point of the cloud `own`, over its weight.

        Where points are `weighted`, `factor` has no weight in it. Where not, it has the common weight Σw² of all points.
        """

    def gradient_x(self, x: Cloud, P: int) -> Tensor:
        """What this part of P slices contributes to the derivative by the points of x."""
        return self._gradient(x, self.x, self.y, P)

    def gradient_y(self, y: Cloud, P: int) -> Tensor:
        """The same by the points of y."""
        return self._gradient(y, self.y, self.x, P)

    def _gradient(self, cloud: Cloud, own: Histogram, other: Histogram, P: int) -> Tensor:
        weighted = cloud.weights is not None
        each = 1.0 if weighted else own.self_weight  # without weights both Σw² and a point's own are 1/N
        lines = self.lines(own, other, each / P, weighted)
        gradient = backends.of(self.grid).look_up(self.grid, cloud, lines)
        return gradient if self.unit == 1 else gradient.mul_(self.unit)
