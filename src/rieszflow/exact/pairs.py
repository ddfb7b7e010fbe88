"""Two sums over all pairs of points, in chunks and in float64: the potential of a cloud, and its gradient.

    potential  Σ_j b_j K(x_i, y_j)          pull  length · Σ_j b_j ∇₁K(x_i, y_j)

Time is O(N M d), memory O((N + M) d) and a chunk. Points may be as large or as small as numbers get: they are scaled first, by
a power of two (`prepared`), and results are scaled back (`Unit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow._infra.scaling import times_power_of_two, two_to
from rieszflow._types import Cloud, Pair
from rieszflow.kernels import Kernel

__all__ = ["Measure", "Unit", "distinct", "potential", "prepared", "pull", "self_energy", "weights_of"]

_PAIRS = 1 << 22  # pairs of points in one chunk: 32 MB of float64 an array
_CLOSE = 1e-4  # squared distances below this share of ‖x‖² + ‖y‖² are taken from differences
_ORDINARY = 100  # numbers from 2^−100 to 2^100 are squared as they are
_LARGE = 400  # extreme ones are brought near 2^400, where squares and sums are far from the end of float64's range
_TINY = 2.0**-900  # squares below have lost digits


@dataclass(frozen=True)
class Measure:
    """A cloud in float64, with weights and in the common unit.

    Attributes:
        points: (..., N, d), times 2^shift (see `Unit`).
        weights: (..., N), of sum one.
    """

    points: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Unit:
    """The kernel, and the unit of the points of both measures.

    Attributes:
        kernel: as given.
        shift: (...), whole numbers. The points are those given times 2^shift.
    """

    kernel: Kernel
    shift: Tensor

    def distances(self, rho: Tensor) -> Tensor:
        """What the kernel is evaluated at: true distances for a kernel with a length, scaled ones for one with a degree."""
        return rho if self.kernel.degree is not None else rho * two_to(-self.shift)[..., None, None]

    def value(self, v: Tensor) -> Tensor:
        """Values of the kernel, summed over scaled points, as they are for the points given."""
        return v if self.kernel.degree is None else self._scaled_back(v, self.kernel.degree)

    def slope(self, v: Tensor) -> Tensor:
        """Sums of `Kernel.derivative`, as derivatives by the points given."""
        degree = self.kernel.degree
        return v / self.kernel.length if degree is None else self._scaled_back(v, degree - 1)

    def at_zero(self, like: Tensor) -> Tensor:
        """K(x, x)."""
        return self.kernel.value(torch.zeros((), dtype=like.dtype, device=like.device))

    def _scaled_back(self, v: Tensor, degree: float) -> Tensor:
        """v · 2^(−degree·shift)."""
        if not self.shift.any():
            return v
        power = -self.shift.double() * degree
        return times_power_of_two(v, power.reshape(power.shape + (1,) * (v.ndim - power.ndim)))


def prepared(clouds: Pair, kernel: Kernel) -> tuple[Measure, Measure, Unit]:
    """Both clouds as measures in one unit, in which squares of coordinates are within range."""
    x, y = clouds.x.points.double(), clouds.y.points.double()
    a, b = weights_of(clouds.x), weights_of(clouds.y)
    largest = torch.maximum(x.abs().amax((-2, -1)), y.abs().amax((-2, -1)))
    exponent = torch.frexp(largest).exponent.long()
    # Ordinary numbers stay as they are. Extreme ones become large, but not too large to be squared: so small ones among them
    # keep their digits, too.
    extreme = (exponent.abs() > _ORDINARY) & (largest > 0)
    shift = torch.where(extreme, (_LARGE - exponent).clamp(max=1000), 0)
    if extreme.any():
        x, y = (t * two_to(shift)[..., None, None] for t in (x, y))
    return Measure(x, a), Measure(y, b), Unit(kernel, shift)


def weights_of(cloud: Cloud) -> Tensor:
    """(..., N) in float64. Equal ones are made here: 1/N rounded to float32 would not sum to one."""
    x = cloud.points
    if cloud.weights is None:
        return torch.full(x.shape[:-1], 1 / x.shape[-2], dtype=torch.float64, device=x.device)
    return cloud.weights.expand(x.shape[:-1]).double()


def potential(x: Tensor, y: Measure, unit: Unit, own: bool = False) -> Tensor:
    """Σ_j b_j K(x_i, y_j): (..., N). With `own`, x are y's own points, and j = i is left out."""
    parts = []
    for chunk in _chunks(x, y.points):
        values = unit.kernel.value(unit.distances(chunk.rho)) * y.weights.unsqueeze(-2)
        if own:
            values.diagonal(chunk.start, -2, -1).zero_()
        parts.append(values.sum(-1))
    return torch.cat(parts, -1)


def pull(x: Tensor, y: Measure, unit: Unit, own: bool = False) -> Tensor:
    """`kernel.length` · Σ_j b_j ∇₁K(x_i, y_j): (..., N, d). With `own`, x are y's own points, and j = i is left out."""
    parts = []
    for chunk in _chunks(x, y.points):
        w = unit.kernel.derivative(unit.distances(chunk.rho)) * y.weights.unsqueeze(-2)
        w = torch.where(chunk.rho > 0, w / chunk.rho, 0)
        if own:
            w.diagonal(chunk.start, -2, -1).zero_()
        # Between close points w is great and the difference small: taken from the points, for a sum would cancel.
        near = []
        for pairs in chunk.close:
            near.append(w[pairs].unsqueeze(-1) * chunk.differences(pairs))
            w[pairs] = 0
        part = chunk.x * w.sum(-1, keepdim=True) - w @ chunk.y
        for pairs, v in zip(chunk.close, near, strict=True):
            part.index_put_(pairs[:-1], v, accumulate=True)
        parts.append(part)
    return torch.cat(parts, -2)


def self_energy(x: Measure, unit: Unit, unbiased: bool) -> Tensor:
    """Σ_ik a_i a_k K(x_i, x_k): (...). Unbiased: the mean over the pairs i ≠ k."""
    # The pairs of a point with itself are left out and not subtracted: of a narrow kernel they are nearly everything.
    w = x.weights
    total = (w * potential(x.points, x, unit, own=True)).sum(-1)
    return total / distinct(w) if unbiased else total + unit.at_zero(w) * (w**2).sum(-1)


def distinct(w: Tensor) -> Tensor:
    """Σ_{i≠k} w_i w_k, without cancellation where one point has nearly all the weight: (...)."""
    most, index = w.max(-1, keepdim=True)
    others = w.scatter(-1, index, 0)
    rest = others.sum(-1)
    return 2 * most.squeeze(-1) * rest + (rest**2 - (others**2).sum(-1))


@dataclass(frozen=True)
class _Chunk:
    """Some points of x against all of y.

    Attributes:
        start: number of the first of these points.
        x: these points, minus the mean of y.
        y: all points of y, minus their mean.
        rho: (..., n, M), the distances.
        close: indices (..., i, j) of the pairs that are close to each other, in parts.
        as_given: these points and y, before the mean was subtracted.
    """

    start: int
    x: Tensor
    y: Tensor
    rho: Tensor
    close: list[tuple[Tensor, ...]]
    as_given: tuple[Tensor, Tensor]

    def differences(self, pairs: tuple[Tensor, ...]) -> Tensor:
        *batch, i, j = pairs
        return self.as_given[0][(*batch, i)] - self.as_given[1][(*batch, j)]


def _chunks(x: Tensor, y: Tensor) -> Iterator[_Chunk]:
    # Distances do not change when both clouds move; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
    centre = y.mean(-2, keepdim=True)
    centred = y - centre
    y_norms = (centred**2).sum(-1).unsqueeze(-2)
    batch = max(1, x[..., 0, 0].numel())
    start = 0
    for some in x.split(max(1, _PAIRS // (y.shape[-2] * batch)), dim=-2):
        part = some - centre
        norms = (part**2).sum(-1).unsqueeze(-1) + y_norms
        rho = (norms - 2 * part @ centred.transpose(-1, -2)).clamp_(min=0)
        close = ((rho <= _CLOSE * norms) | (norms < _TINY)).nonzero()
        rho.sqrt_()
        pairs = [p.unbind(-1) for p in close.split(max(1, _PAIRS // x.shape[-1]))] if len(close) else []
        chunk = _Chunk(start, part, centred, rho, pairs, (some, y))
        _measure_close_pairs(chunk)
        yield chunk
        start += some.shape[-2]


def _measure_close_pairs(chunk: _Chunk) -> None:
    """Writes into `rho` the distances of close pairs, taken from the differences of their points."""
    for pairs in chunk.close:
        difference = chunk.differences(pairs)
        largest = difference.abs().amax(-1, keepdim=True)
        unit = torch.where(largest > 0, largest, 1)  # squares of the smallest numbers are zero
        chunk.rho[pairs] = ((difference / unit) ** 2).sum(-1).sqrt() * largest.squeeze(-1)
