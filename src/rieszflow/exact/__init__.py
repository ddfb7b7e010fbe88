"""Functionals over all pairs of points, in O(NM) time: the reference against which everything else is tested."""

from __future__ import annotations

from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.autograd import with_derivatives
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import Need, Pair, Points, PointsT, Statistic
from rieszflow.exact import energy, pairs
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["evaluate", "mmd2", "mmd2_gradient"]


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
    r"""Compute the squared maximum mean discrepancy over all pairs of points.

    .. math::
        \mathrm{MMD}_K^2(\mu, \nu) = \mathbb{E} K(X, X') + \mathbb{E} K(Y, Y') - 2\, \mathbb{E} K(X, Y)

    with X, X' independent of the distribution μ of x, and Y, Y' of the distribution ν of y. For `Riesz(1.0)` it is the energy
    distance.

    Sums are in float64, with an error of about 1e-12 of E|K(X, Y)| before the result is rounded to the dtype of the points. For
    `Riesz(1.0)` with at least 64 float32 points in more than 8 dimensions on the CPU it is about 1e-7, because all but small
    distances are computed in float32. Points may have any magnitude; a result beyond the range of the dtype is infinity.

    Args:
        x: Points of shape (N, d), or (..., N, d) with batch dimensions; float32 or float64; tensor or NumPy array.
        y: Points of shape (M, d) or (..., M, d), with the batch dimensions, dtype and device of x.
        kernel: `Riesz`, `Gaussian`, `Laplace`, `InverseMultiquadric` or `Matern`.
        statistic: "V" for means over all pairs, which is non-negative up to rounding; "U" for means over the pairs i ≠ k, which
            is unbiased.
        x_weights, y_weights: Non-negative weights, shape (N,) or (..., N) and (M,) or (..., M), with sum one and the dtype of
            the points; None for equal weights.

    Returns:
        The value, in the kernel's unit (length^r for Riesz): a scalar, or of the shape of the batch. A tensor can be
        differentiated once, by x, y and the weights. If x and y are arrays, it is a NumPy number or array.

    Raises:
        InputTypeError (a TypeError): A wrong type or dtype.
        InputError (a ValueError): A wrong shape, no points, NaN or infinity, an unknown statistic, or weights that are negative
            or do not sum to one.
        DerivativeError (a RuntimeError): A second derivative, in the backward pass.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> mmd2(x, y).item()
        10.0

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012).
    """
    clouds, in_kind = validate.clouds(x, y, x_weights, y_weights, statistic)
    check_kernel(kernel)
    inputs = (clouds.x.points, clouds.y.points, clouds.x.weights, clouds.y.weights)
    need = Need(True, *(t is not None and t.requires_grad for t in inputs))
    value, (by_x, by_a, by_y, by_b) = evaluate(clouds, kernel, need)
    assert value is not None
    return in_kind(with_derivatives("mmd2", value.to(clouds.x.points.dtype), inputs, (by_x, by_y, by_a, by_b)))


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
    r"""Compute the gradient of `mmd2` by x, without autograd.

    .. math::
        \nabla_{x_i} \mathrm{MMD}_K^2
        = 2 a_i [ \frac{1}{n} \sum_k a_k \nabla_1 K(x_i, x_k) - \sum_j b_j \nabla_1 K(x_i, y_j) ]

    with weights a of x and b of y, n = 1 for the V-statistic and n = 1 − Σ a_k² for the U-statistic. Coincident points do not
    move each other.

    Args:
        x, y, kernel, statistic, x_weights, y_weights: As in `mmd2`.

    Returns:
        The gradient in the shape and dtype of x, detached; an array if x and y are arrays.

    Example:
        >>> import torch
        >>> mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]])).tolist()
        [[2.0]]
    """
    clouds, in_kind = validate.clouds(x, y, x_weights, y_weights, statistic)
    check_kernel(kernel)
    _, (gradient, *_) = evaluate(clouds, kernel, Need(x=True))
    assert gradient is not None
    return in_kind(gradient.to(clouds.x.points.dtype))


def evaluate(clouds: Pair, kernel: Kernel, need: Need) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return MMD² and its derivatives by x, its weights, y and its weights, in float64; None for those not needed."""
    clouds = clouds.detached()
    if not energy.supports(clouds, kernel):
        return pairs.evaluate(clouds, kernel, need)
    x, y = (pairs.Measure(cloud.points, pairs.weights_of(cloud)) for cloud in (clouds.x, clouds.y))
    return pairs.combine(x, y, energy.energy_sums, 0.0, clouds.unbiased, need)
