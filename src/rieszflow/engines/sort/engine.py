"""The exact engine, as its contract has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rieszflow._infra.scaling import power_of_two, within_range
from rieszflow._types import Cloud, Need, Pair
from rieszflow.directions import Directions
from rieszflow.engines.base import Engine, Problem, Result, Sum
from rieszflow.engines.sort.profile import Profile, gradient, profile
from rieszflow.kernels import Riesz

__all__ = ["Sort"]

_PROJECTIONS = 1 << 26  # projected numbers in one chunk of slices: 256 MB of float32


class Sort(Engine):
    """Exact on every slice for Riesz(1.0), O((N + M) log(N + M)) a slice; derivatives by weights, too."""

    name: ClassVar[str] = "sort"
    exact: ClassVar[bool] = True
    takes_batches: ClassVar[bool] = True

    def refusal(self, problem: Problem) -> str | None:
        if problem.group is not None:
            return "engine: 'sort' given with a group; 'bins' and 'auto' are accepted"
        if problem.kernel.degree != 1:
            return f"kernel: {problem.kernel!r} given; engine 'sort' accepts Riesz(1.0), engine 'bins' the others"
        return None

    def _evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        setting = _Setting.of(pair)
        numbers = (pair.x.points.numel() + pair.y.points.numel()) // pair.x.points.shape[-1]
        total = Sum()
        for part in directions.split(max(1, _PROJECTIONS // numbers)):
            total.add(_on_part(part, setting, problem.need))
        c = 2 * Riesz(1.0).basis_constant(directions.n) / directions.P
        return _scaled(total.result(), pair, c, setting.scale)


@dataclass(frozen=True)
class _Setting:
    """The clouds, what is taken off and multiplied before they are projected, and 1/(1 − Σw²) of both."""

    pair: Pair
    centre: Tensor
    scale: float
    alpha: Tensor
    beta: Tensor

    @staticmethod
    def of(pair: Pair) -> _Setting:
        x, y = pair.x.points, pair.y.points
        centre = _centre(y)
        # A power of two, without rounding, keeps very small numbers from becoming denormal on the way.
        scale = power_of_two(within_range(max(_reach(x, centre), _reach(y, centre)), x.dtype), x.dtype)
        return _Setting(pair, centre, scale, _self_factor(pair.x, pair.unbiased), _self_factor(pair.y, pair.unbiased))

    def project(self, part: Directions, cloud: Cloud) -> Tensor:
        return part.project(cloud.points, self.centre, self.scale)


def _on_part(part: Directions, setting: _Setting, need: Need) -> Result:
    """Sums over a part of the slices, of scaled points."""
    x, y, alpha, beta, unbiased = setting.pair.x, setting.pair.y, setting.alpha, setting.beta, setting.pair.unbiased
    if need == Need(x=True):
        # In one expression, which gives up the projections as soon as it can: they are P × N.
        forces = gradient(setting.project(part, x), setting.project(part, y), x.weights, y.weights, alpha)
        return Result(x=part.adjoint(forces))
    s = profile(setting.project(part, x), setting.project(part, y), x.weights, y.weights)
    return Result(
        _value(s, alpha, beta) if need.value else None,
        part.adjoint(2 * s.G_x - 1 - alpha * (2 * s.F_x - 1)) if need.x else None,
        part.adjoint(2 * s.F_y - 1 - beta * (2 * s.G_y - 1)) if need.y else None,
        _by_weights(s.potential_x, s.own_x, s.spread_x, x, alpha, unbiased) if need.a else None,
        _by_weights(-s.potential_y, s.own_y, s.spread_y, y, beta, unbiased) if need.b else None,
    )


def _centre(y: Tensor) -> Tensor:
    """An origin for all points, (..., 1, d).

    Nothing changes under a common shift, and near the origin the projections keep more digits. It is the median of some points:
    an outlier would pull the mean away from all the others.
    """
    some = y[..., :31, :].sort(dim=-2).values
    middle = (some.shape[-2] - 1) // 2
    return some[..., middle : middle + 1, :]


def _reach(x: Tensor, centre: Tensor) -> float:
    """The largest coordinate of x − centre, which is not formed."""
    ends = torch.cat([x.amax(-2, keepdim=True) - centre, centre - x.amin(-2, keepdim=True)])
    return ends.amax().item()


def _self_factor(cloud: Cloud, unbiased: bool) -> Tensor:
    """1/(1 − Σw²), which turns E over all pairs into E over distinct ones; shape (..., 1, 1). 1 for the V-statistic."""
    x, w = cloud.points, cloud.weights
    if not unbiased:
        return x.new_ones(1, 1)
    if w is None:
        return x.new_full((1, 1), x.shape[-2] / (x.shape[-2] - 1))
    return 1 / (1 - (w**2).sum(-1))[..., None, None]


def _value(s: Profile, alpha: Tensor, beta: Tensor) -> Tensor:
    """E|X−Y| − ½αE|X−X′| − ½βE|Y−Y′|, summed over slices: (...,) float64. α = β = 1 for the V-statistic."""
    correction = (alpha[..., 0] - 1) * s.spread_x + (beta[..., 0] - 1) * s.spread_y
    return (s.distance - correction).double().sum(-1)


def _by_weights(potential: Tensor, own: Tensor, spread: Tensor, cloud: Cloud, factor: Tensor, unbiased: bool) -> Tensor:
    """Derivative by the weights of one cloud, summed over slices: (..., N)."""
    if unbiased:
        assert cloud.weights is not None
        w = cloud.weights.unsqueeze(-2)
        potential = potential - (factor - 1) * own - (2 * factor**2 * spread.unsqueeze(-1)) * w
    return potential.sum(-2)


def _scaled(sums: Result, pair: Pair, c: float, scale: float) -> Result:
    """Sums over slices of scaled points to means, times the constant of slicing, in the points' unit."""
    return Result(
        None if sums.value is None else c / scale * sums.value,
        None if sums.x is None else sums.x.mul_(_per_point(c, pair.x)),
        None if sums.y is None else sums.y.mul_(_per_point(c, pair.y)),
        None if sums.a is None else c / scale * sums.a,
        None if sums.b is None else c / scale * sums.b,
    )


def _per_point(c: float, cloud: Cloud) -> float | Tensor:
    w = cloud.weights
    return c / cloud.points.shape[-2] if w is None else c * w.unsqueeze(-1)
