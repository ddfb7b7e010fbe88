"""Brute force, O(NM) time and O(N·d) memory: the reference that everything else is tested against.

The sums over pairs are in `_pairs.py`. Derivatives follow their formulas and not the graph of the sums. So no graph over N × M
pairs is ever kept, and derivatives at points in one place are finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.autograd import once
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import Cloud, Need, Pair, Points, PointsT, Statistic
from rieszflow.exact import energy
from rieszflow.exact.pairs import Measure, Unit, distinct, potential, prepared, pull, self_energy
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["energy_distance", "evaluate", "mmd2", "mmd2_gradient"]


@isolated_numerics
def mmd2(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    """Squared MMD by brute force, in the paper's convention D² = ½ ∬ K d(μ − ν) d(μ − ν).

    For the Riesz kernel this is E‖X−Y‖^r − ½E‖X−X′‖^r − ½E‖Y−Y′‖^r, **half** of the statisticians' `energy_distance`. For the
    other kernels it is half of the usual E K(X,X′) + E K(Y,Y′) − 2E K(X,Y), too.

    Sums are taken in float64 for both dtypes. The relative error is about 1e-12 of E|K(X, Y)|, before the result is rounded to
    the dtype of the points. For `Riesz(1.0)` with at least 64 float32 points in more than 8 dimensions on the CPU it is about
    1e-7, because all but small distances are computed in float32. Points may have any magnitude. A result beyond the range of
    the dtype is infinity.

    Args:
        x: points (N, d), or (..., N, d) with batch dimensions in front; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), with the batch dimensions, dtype and device of x.
        kernel: one of `Riesz`, `Gaussian`, `Laplace`, `InverseMultiquadric` and `Matern`.
        statistic: "V" for the mean over all pairs, never negative but for rounding; "U" for pairs i ≠ k only, unbiased.
        x_weights: non-negative weights of x, (N,) or (..., N), of sum one and of the dtype of x. None for 1/N each.
        y_weights: likewise for y.

    Returns:
        The value, in the kernel's unit (length^r for Riesz): without dimensions, or of the shape of the batch. A tensor can be
        differentiated once, by x, y and the weights. If x and y are arrays it is a NumPy number or array.

    Raises:
        InputTypeError (a TypeError): a wrong type or dtype.
        InputError (a ValueError): a wrong shape, no points, NaN or infinity, an unknown statistic, or weights that are negative
            or do not sum to one.
        DerivativeError (a RuntimeError): a second derivative, on the way back.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> mmd2(x, y).item()
        5.0

    Source: paper, section 2 (its D_K²).
    """
    clouds, answer = validate.clouds(x, y, x_weights, y_weights, statistic)
    check_kernel(kernel)
    value: Tensor = _MMD2.apply(  # type: ignore[no-untyped-call]  # PyTorch's
        *_leaves(clouds.x), *_leaves(clouds.y), kernel, clouds.unbiased
    )
    return answer(value)


def energy_distance(
    x: PointsT,
    y: PointsT,
    *,
    r: float = 1.0,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    """Energy distance by brute force, in the statisticians' convention 2E‖X−Y‖^r − E‖X−X′‖^r − E‖Y−Y′‖^r.

    This is **twice** `mmd2` with the kernel `Riesz(r)`. SciPy's `energy_distance` (one dimension) is the square root of this
    one with r = 1 and statistic "V".

    Args:
        x: as in `mmd2`.
        y: as in `mmd2`.
        r: exponent, in the open interval (0, 2).
        statistic: as in `mmd2`.
        x_weights: as in `mmd2`.
        y_weights: as in `mmd2`.

    Returns:
        As `mmd2`.

    Raises:
        InputError (a ValueError): r out of range.
        InputError, InputTypeError, DerivativeError: as `mmd2`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> energy_distance(x, y).item()
        10.0

    Source: Székely and Rizzo, Energy statistics, J. Statist. Plann. Inference 143 (2013).
    """
    return mmd2(x, y, kernel=Riesz(r), statistic=statistic, x_weights=x_weights, y_weights=y_weights)


@isolated_numerics
def mmd2_gradient(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    """Gradient of `mmd2` by x, by brute force and without autograd.

    ∂/∂x_i D² = a_i [Σ_k a_k ∇₁K(x_i, x_k)/n − Σ_j b_j ∇₁K(x_i, y_j)], with n = 1 for the V-statistic and n = 1 − Σ a_k² for the
    U-statistic. Points in one place do not move each other.

    Args:
        x: as in `mmd2`.
        y: as in `mmd2`.
        kernel: as in `mmd2`.
        statistic: as in `mmd2`.
        x_weights: as in `mmd2`.
        y_weights: as in `mmd2`.

    Returns:
        The gradient, shape and dtype of x, detached. If x and y are arrays it is one, too.

    Raises:
        InputError, InputTypeError: as `mmd2`.

    Example:
        >>> mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]])).tolist()
        [[2.0]]
    """
    clouds, answer = validate.clouds(x, y, x_weights, y_weights, statistic)
    check_kernel(kernel)
    _, (gradient, *_) = evaluate(clouds, kernel, Need(x=True))
    assert gradient is not None
    return answer(gradient.to(clouds.x.points.dtype))


def evaluate(clouds: Pair, kernel: Kernel, need: Need) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return D² and its derivatives by x, its weights, y and its weights, in float64; None for those not needed."""
    clouds = clouds.detached()
    if energy.suits(clouds, kernel):
        return energy.evaluate(clouds, need)
    mine, other, unit = prepared(clouds, kernel)
    value, slopes = None, []
    if need.value:
        self_x, self_y = (self_energy(m, unit, clouds.unbiased) for m in (mine, other))
        cross = (mine.weights * potential(mine.points, other, unit)).sum(-1)
        value = unit.value(self_x + self_y - 2 * cross)
    for points, weights, one, two in ((need.x, need.a, mine, other), (need.y, need.b, other, mine)):
        by_points = unit.slope(2 * one.weights.unsqueeze(-1) * _by_points(one, two, unit, clouds.unbiased)) if points else None
        slopes += [by_points, unit.value(_by_weights(one, two, unit, clouds.unbiased)) if weights else None]
    return value, slopes


def _leaves(cloud: Cloud) -> tuple[Tensor, Tensor | None]:
    """Points, and weights (..., N): what derivatives are taken by. A weight vector shared by a batch is expanded outside of
    `_MMD2`, so that autograd sums its derivatives.
    """

    def kept(t: Tensor) -> Tensor:
        # What was made in inference mode cannot be kept for a derivative; its copy can.
        return t.clone() if t.is_inference() and not torch.is_inference_mode_enabled() else t

    x, w = cloud.points, cloud.weights
    return kept(x), None if w is None else kept(w).expand(x.shape[:-1])


class _MMD2(torch.autograd.Function):
    # `ctx` is PyTorch's, which takes any attribute.

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor | None, y: Tensor, b: Tensor | None, kernel: Kernel, unbiased: bool) -> Tensor:
        by_x, by_a, by_y, by_b = ctx.needs_input_grad[:4]
        value, slopes = evaluate(Pair(Cloud(x, a), Cloud(y, b), unbiased), kernel, Need(True, by_x, by_y, by_a, by_b))
        ctx.save_for_backward(x, a, y, b, *slopes)
        assert value is not None
        return value.to(x.dtype)

    @staticmethod
    @isolated_numerics
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, a, y, b, *slopes = ctx.saved_tensors
        factor = upstream.detach().double().unsqueeze(-1)
        found: list[Tensor | None] = []
        for by_points, by_weights in (slopes[:2], slopes[2:]):
            found.append(None if by_points is None else (factor.unsqueeze(-1) * by_points).to(x.dtype))
            found.append(None if by_weights is None else (factor * by_weights).to(x.dtype))
        return *once("mmd2, energy_distance", found, (x, a, y, b, upstream)), None, None


def _by_points(mine: Measure, other: Measure, unit: Unit, unbiased: bool) -> Tensor:
    """The derivative of D² by the points of `mine`, over their weights: (..., N, d), to be scaled back by `Unit.slope`."""
    slope = pull(mine.points, mine, unit, own=True)
    if unbiased:
        slope /= distinct(mine.weights)[..., None, None]
    slope -= pull(mine.points, other, unit)
    return slope


def _by_weights(mine: Measure, other: Measure, unit: Unit, unbiased: bool) -> Tensor:
    """The derivative of D² by the weights of `mine`: (..., N), to be scaled back by `Unit.value`."""
    w = mine.weights
    own = potential(mine.points, mine, unit, own=True)
    if unbiased:
        # S/n, S = Σ_{i≠k} w_i w_k K_ik, n = 1 − Σw²: quotient rule.
        n = distinct(w).unsqueeze(-1)
        S = (w * own).sum(-1, keepdim=True) / n
        own = (own + S * w) / n
    else:
        own = own + w * unit.at_zero(w)
    return 2 * (own - potential(mine.points, other, unit))
