"""MMD² over all pairs of points for any kernel, in float64 and in chunks of pairs.

Derivatives follow their formulas: no graph over N × M pairs is kept, and they are finite at coincident points. Points may have
any magnitude: they are scaled by a power of two, and results are scaled back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from rieszflow._infra.numerics import times_power_of_two, two_to
from rieszflow._types import Cloud, Need, Pair
from rieszflow.kernels import Kernel

_PAIRS = 1 << 22  # pairs of points in one chunk: 32 MB of float64 an array
_CLOSE = 1e-4  # squared distances below this share of ‖x‖² + ‖y‖² are computed from differences
_ORDINARY = 100  # numbers from 2^−100 to 2^100 are squared as they are
_LARGE = 400  # others are scaled near 2^400, so that squares are within float64's range and small ones keep their digits
_TINY = 2.0**-900  # squares below have lost digits


class Measure(NamedTuple):
    """Points (..., N, d) and their weights (..., N), float64 with sum one."""

    points: Tensor
    weights: Tensor


Sums: TypeAlias = Callable[[Measure, Measure, bool, bool], tuple[Tensor, Tensor]]
"""Returns Σ_j b_j K(x_i, y_j) (..., N) and Σ_j b_j ∇₁K(x_i, y_j) (..., N, d) if requested; without j = i if x is y."""


def evaluate(clouds: Pair, kernel: Kernel, need: Need) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return MMD² and its derivatives by x, its weights, y and its weights, in float64; None for those not needed."""
    x, y = (Measure(cloud.points.double(), weights_of(cloud)) for cloud in (clouds.x, clouds.y))
    # Both clouds are multiplied by 2^shift, so that squares of coordinates are within range.
    largest = torch.maximum(x.points.abs().amax((-2, -1)), y.points.abs().amax((-2, -1)))
    exponent = torch.frexp(largest).exponent.long()
    extreme = (exponent.abs() > _ORDINARY) & (largest > 0)
    shift = torch.where(extreme, (_LARGE - exponent).clamp(max=1000), 0)
    if extreme.any():
        x, y = (Measure(points * two_to(shift)[..., None, None], w) for points, w in (x, y))
    at_zero = kernel.value(torch.zeros((), dtype=torch.float64, device=x.points.device))
    # A kernel with a degree is evaluated at scaled distances, one with a length at the original ones.
    unit = None if kernel.degree is not None or not shift.any() else two_to(-shift)[..., None, None]
    value, slopes = combine(x, y, functools.partial(pair_sums, kernel, unit), at_zero, clouds.unbiased, need)

    def unscaled(v: Tensor, by_points: bool = False) -> Tensor:
        if kernel.degree is None:
            return v / kernel.length if by_points else v
        if not shift.any():
            return v
        power = shift.double() * (by_points - kernel.degree)
        return times_power_of_two(v, power.reshape(power.shape + (1,) * (v.ndim - power.ndim)))

    slopes = [None if v is None else unscaled(v, k % 2 == 0) for k, v in enumerate(slopes)]
    return None if value is None else unscaled(value), slopes


def combine(
    x: Measure, y: Measure, sums: Sums, at_zero: Tensor | float, unbiased: bool, need: Need
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return what `evaluate` returns, given the sums over pairs and K(x, x) = `at_zero`."""
    value: Tensor | None = None
    slopes: list[Tensor | None] = []
    for one, two, by_points, by_weights in ((x, y, need.x, need.a), (y, x, need.y, need.b)):
        if not (need.value or by_points or by_weights):
            slopes += [None, None]
            continue
        w, between = one.weights, by_weights or (need.value and one is x)
        n = distinct(w) if unbiased else torch.ones_like(w[..., 0])
        own, own_pull = sums(one, one, need.value or by_weights, by_points)
        cross, pull = sums(one, two, between, by_points) if between or by_points else (own, own_pull)
        if need.value or by_weights:
            # The diagonal is left out instead of subtracted: for a narrow kernel it is nearly everything.
            own = own if unbiased else own + at_zero * w
            energy = (w * own).sum(-1) / n
        if need.value:
            value = energy - 2 * (w * cross).sum(-1) if value is None else value + energy
        slopes.append(own_pull.div_(n[..., None, None]).sub_(pull).mul_(2 * w.unsqueeze(-1)) if by_points else None)
        if by_weights and unbiased:  # of S/n, S = Σ_{i≠k} w_i w_k K_ik, n = 1 − Σw²: quotient rule
            own = (own + energy.unsqueeze(-1) * w) / n.unsqueeze(-1)
        slopes.append(2 * (own - cross) if by_weights else None)
    return value, slopes


def weights_of(cloud: Cloud) -> Tensor:
    """Return the weights (..., N) in float64; equal ones are made here, because 1/N in float32 would not sum to one."""
    x = cloud.points
    if cloud.weights is None:
        return torch.full(x.shape[:-1], 1 / x.shape[-2], dtype=torch.float64, device=x.device)
    return cloud.weights.expand(x.shape[:-1]).double()


def distinct(w: Tensor) -> Tensor:
    """Return Σ_{i≠k} w_i w_k (...), without cancellation if one point has nearly all the weight."""
    most, index = w.max(-1, keepdim=True)
    others = w.scatter(-1, index, 0)
    rest = others.sum(-1)
    return 2 * most.squeeze(-1) * rest + (rest**2 - (others**2).sum(-1))


def pair_sums(
    kernel: Kernel, unit: Tensor | None, x: Measure, y: Measure, potential: bool, pull: bool
) -> tuple[Tensor, Tensor]:
    """Compute `Sums` at distances times `unit`; gradients are multiplied by `kernel.length`."""
    # Distances are invariant to shifts; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
    centre = y.points.mean(-2, keepdim=True)
    near_y, weights = y.points - centre, y.weights.unsqueeze(-2)
    potentials, pulls = [x.weights.new_empty(0)], [x.points.new_empty(0)]
    for start, rows, rho, close in _chunks(x.points, y.points, centre):
        at = rho if unit is None else rho * unit
        if potential:
            values = kernel.value(at) * weights
            if x is y:
                values.diagonal(start, -2, -1).zero_()
            potentials.append(values.sum(-1))
        if not pull:
            continue
        w = torch.where(rho > 0, kernel.derivative(at) * weights / rho, 0)
        if x is y:
            w.diagonal(start, -2, -1).zero_()
        # Close points have large w and small differences, which a sum over w would cancel.
        near = []
        for indices in close:
            near.append(w[indices].unsqueeze(-1) * _differences(rows, y.points, indices))
            w[indices] = 0
        part = (rows - centre) * w.sum(-1, keepdim=True) - w @ near_y
        for indices, v in zip(close, near, strict=True):
            part.index_put_(indices[:-1], v, accumulate=True)
        pulls.append(part)
    return torch.cat(potentials, -1), torch.cat(pulls, -2)


def _differences(x: Tensor, y: Tensor, indices: tuple[Tensor, ...]) -> Tensor:
    *batch, i, j = indices
    return x[(*batch, i)] - y[(*batch, j)]


def _chunks(x: Tensor, y: Tensor, centre: Tensor) -> Iterator[tuple[int, Tensor, Tensor, list[tuple[Tensor, ...]]]]:
    """Yield a start, the points of x from there on, their distances from y, and indices (..., i, j) of close pairs in parts."""
    near_y, start = y - centre, 0
    y_norms = (near_y**2).sum(-1).unsqueeze(-2)
    batch = max(1, x[..., 0, 0].numel())
    for rows in x.split(max(1, _PAIRS // (y.shape[-2] * batch)), dim=-2):
        part = rows - centre
        norms = (part**2).sum(-1).unsqueeze(-1) + y_norms
        rho = (norms - 2 * part @ near_y.transpose(-1, -2)).clamp_(min=0)
        close = ((rho <= _CLOSE * norms) | (norms < _TINY)).nonzero()
        rho.sqrt_()
        indices = [p.unbind(-1) for p in close.split(max(1, _PAIRS // x.shape[-1]))] if len(close) else []
        for these in indices:
            difference = _differences(rows, y, these)
            largest = difference.abs().amax(-1, keepdim=True)
            unit = torch.where(largest > 0, largest, 1)  # the squares of very small numbers are zero
            rho[these] = ((difference / unit) ** 2).sum(-1).sqrt() * largest.squeeze(-1)
        yield start, rows, rho, indices
        start += rows.shape[-2]
