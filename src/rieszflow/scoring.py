"""The energy score of ensemble forecasts, which in one dimension is the CRPS."""

from __future__ import annotations

import math
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.autograd import with_derivatives
from rieszflow._infra.jit import OPTIONS, SUMS, parallel_for
from rieszflow._infra.numerics import isolated_numerics, two_to
from rieszflow._types import Points, PointsT
from rieszflow.errors import DerivativeError, InputError, InputTypeError
from rieszflow.exact.pairs import Measure, distinct, pair_sums
from rieszflow.kernels import Riesz

__all__ = ["NanPolicy", "energy_score"]

NanPolicy = Literal["raise", "omit", "propagate"]

_FEW = 512  # members up to which all pairs are faster than sorting in one dimension
_SHARE = 1 << 15  # numbers that justify another thread
_LARGE = 400  # the largest coordinate of a forecast is scaled to about 2^400: see `exact.pairs`


@isolated_numerics
def energy_score(
    samples: PointsT, y: PointsT, *, fair: bool = True, weights: Points | None = None, nan_policy: NanPolicy = "raise"
) -> PointsT:
    r"""Compute the energy score of ensemble forecasts, which in one dimension is the CRPS. Lower is better.

    .. math::
        \sum_i w_i \|x_i - y\| - \frac{1}{2n} \sum_{i \ne j} w_i w_j \|x_i - x_j\|

    with n = 1, or :math:`n = 1 - \sum_i w_i^2` for the fair score, which makes the second sum an unbiased estimate of
    :math:`\mathbb{E}\|X - X'\|` for independent members with any weights.

    It is a strictly proper score: its mean over many y is lowest for samples of the distribution that y is drawn from. Points
    may have any magnitude, and memory does not grow with the number of pairs.

    Args:
        samples: Members of every forecast, shape (..., m, d); float32 or float64; tensor or NumPy array.
        y: Observations of shape (..., d), with the dtype and device of `samples`.
        fair: If True, E‖X − X'‖ is estimated without bias, so that the mean score does not depend on m. If False, the m samples
            are scored as a distribution of their own.
        weights: Non-negative weights of the members, shape (m,) or (..., m), with sum one and the dtype of `samples`; None for
            1/m each. They have no derivative.
        nan_policy: "raise" refuses NaN. "omit" leaves out members with NaN and renormalises the other weights; a forecast with
            NaN in y or too few members left has the score NaN and zero derivatives. "propagate" gives every forecast with NaN
            the score NaN and NaN derivatives.

    Returns:
        The score of every forecast, shape (...), in the unit of the data. It can be differentiated once, by samples and y. If
        both are arrays, it is a NumPy number or array.

    Raises:
        InputError, InputTypeError: Shapes or dtypes that do not fit, infinity, NaN with "raise", bad weights, or fewer than two
            members of positive weight with `fair`.
        DerivativeError: A second derivative, in the backward pass, or weights that require a gradient.

    Example:
        >>> samples = torch.tensor([[0.0], [1.0]])
        >>> energy_score(samples, torch.tensor([0.5])).item(), energy_score(samples, torch.tensor([0.5]), fair=False).item()
        (0.0, 0.25)

    References:
        Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation (2007), section 4.3.
        Ferro, Fair Scores for Ensemble Forecasts (2014), for `fair`.
    """
    X: Tensor = validate.points("samples", samples, check_finite=False)
    Y = validate.plain_tensor("y", y, "(..., d)")
    if isinstance(samples, Tensor) != isinstance(y, Tensor):
        raise InputTypeError(f"`y` must have the type of `samples`, {type(samples).__name__}, got {type(y).__name__}")
    if Y.shape != (shape := (*X.shape[:-2], X.shape[-1])):
        raise InputError(f"`y` must have shape {shape} for `samples` of shape {tuple(X.shape)}, got {tuple(Y.shape)}")
    if Y.dtype != X.dtype or Y.device != X.device:
        raise InputTypeError(f"`y` must be {X.dtype} on {X.device} as `samples` is, got {Y.dtype} on {Y.device}")
    if nan_policy not in ("raise", "omit", "propagate"):
        raise InputError(f'`nan_policy` must be "raise", "omit" or "propagate", got {nan_policy!r}')
    W = validate.weights("weights", weights, X)
    if W is not None and W.requires_grad:
        raise DerivativeError("`weights` must not require a gradient, got one that does; mmd2 has a derivative by weights")
    if fair and X.shape[-2] < 2:
        raise InputError("`samples` must have two members of every forecast or more with fair=True, got one")
    if fair and W is not None and ((W > 0).sum(-1) < 2).any():
        raise InputError("`weights` must have two positive entries in every forecast with fair=True, got fewer")
    grad = torch.is_grad_enabled() and (X.requires_grad or Y.requires_grad)
    value, gradient = _checked(X, Y, W, bool(fair), nan_policy, grad)
    if gradient is not None:
        by_x = gradient.reshape(X.shape).to(X.dtype)
        # The score is invariant to shifts, so the derivative by y is minus that by all samples.
        value = with_derivatives("energy_score", value, (X, Y), (by_x, -by_x.sum(-2)))
    return value if isinstance(samples, Tensor) else value.numpy()[()]


def _checked(
    X: Tensor, Y: Tensor, W: Tensor | None, fair: bool, nan_policy: NanPolicy, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Check values; return scores in the requested shape and dtype, and gradients (B, m, d) in float64 with `grad`."""
    m, d = X.shape[-2:]
    x, y = X.detach().reshape(-1, m, d).double().contiguous(), Y.detach().reshape(-1, d).double().contiguous()
    if W is None:
        w, n = x.new_full((1, m), 1 / m), x.new_full((1,), 1 - 1 / m if fair else 1)
    else:
        w = W.double().reshape(-1, m).contiguous()
        n = _pair_weight(w, fair)
    if nan_policy == "raise":
        score, gradient = _evaluate(x, y, w, n, grad)
        # Any value that is not finite makes its score not finite, and checking the scores is faster.
        if not math.isfinite(score.sum()):
            _refuse("finite, got NaN or infinity", ~x.isfinite(), ~y.isfinite())
    else:
        _refuse("finite or NaN, got infinity", x.isinf(), y.isinf())
        score, gradient = _evaluate_with_nan(x, y, w, fair, grad, nan_policy == "omit")
    return score.view(X.shape[:-2]).to(X.dtype), gradient


def _refuse(rule: str, in_samples: Tensor, in_y: Tensor) -> None:
    for name, found in (("samples", in_samples), ("y", in_y)):
        if found.any():
            raise InputError(f"`{name}` must be {rule}")


def _evaluate_with_nan(x: Tensor, y: Tensor, w: Tensor, fair: bool, grad: bool, omit: bool) -> tuple[Tensor, Tensor | None]:
    """Call `_evaluate` without the members and forecasts that are NaN."""
    missing, unscored = x.isnan().any(-1), y.isnan().any(-1)
    if omit:
        w = torch.where(missing, 0, w)
        unscored |= (w > 0).sum(-1) < (2 if fair else 1)
        w = torch.where(unscored[:, None], 1 / w.shape[1], w / w.sum(-1, keepdim=True))
    else:
        unscored |= missing.any(-1)
    x = torch.where(missing[..., None], 0, x)
    score, gradient = _evaluate(x, y.nan_to_num(), w, _pair_weight(w, fair), grad)
    score[unscored] = torch.nan
    if gradient is not None:
        gradient[unscored] = 0 if omit else torch.nan
    return score, gradient


def _pair_weight(w: Tensor, fair: bool) -> Tensor:
    """Return n, the total weight of the pairs, (B,)."""
    return distinct(w) if fair else torch.ones_like(w[:, 0])


def _evaluate(x: Tensor, y: Tensor, w: Tensor, n: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Return scores (B,), and gradients (B, m, d) if `grad`, of x (B, m, d), y (B, d), w (B or 1, m) and n (B or 1,)."""
    m, d = x.shape[1:]
    if d > 1:
        return (_compiled if x.device.type == "cpu" else _chunked)(x, y, w, n, grad)
    score_line = _all_pairs_on_line if x.device.type == "cpu" and m <= _FEW else _sorted
    score, gradient = score_line(x[..., 0], y[:, 0], w, n, grad)
    if not math.isfinite(score.sum()):  # differences may overflow although the score does not
        score = torch.where(score.isfinite(), score, 4 * score_line(x[..., 0] / 4, y[:, 0] / 4, w, n, False)[0])
    return score, None if gradient is None else gradient[..., None]


def _all_pairs_on_line(x: Tensor, y: Tensor, w: Tensor, n: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Score x (B, m) by all pairs, on the CPU."""
    B, m = x.shape
    score, gradient = np.empty(B), np.empty((B * grad, m))
    parallel_for(_line_loop, B, 1 + _SHARE // m**2, x.numpy(), y.numpy(), w.numpy(), n.numpy(), score, gradient)
    return torch.from_numpy(score), torch.from_numpy(gradient) if grad else None


def _sorted(x: Tensor, y: Tensor, w: Tensor, n: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Score x (B, m) by sorting: Σ_{i<j} w_i w_j |x_i − x_j| = Σ_k W_k (W − W_k) (x_(k+1) − x_(k)), W_k = w_(1) + … + w_(k)."""
    values, order = x.sort(1)
    w, away = w.expand_as(x), x - y[:, None]
    below = w.gather(1, order).cumsum(1)
    total = below[:, -1:]
    pairs = below[:, :-1] * (total - below[:, :-1]) * values.diff(dim=1)
    score = (w * away.abs()).sum(1) - pairs.sum(1) / n
    if not grad:
        return score, None
    # Coincident samples share the mean of their ranks, so that nothing pushes them apart.
    below = torch.nn.functional.pad(below, (1, 0))
    before = below.gather(1, torch.searchsorted(values, x.contiguous()))
    upto = below.gather(1, torch.searchsorted(values, x.contiguous(), right=True))
    return score, w * (away.sign() - (before + upto - total) / n[:, None])


def _compiled(x: Tensor, y: Tensor, w: Tensor, n: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Score x (B, m, d) by all pairs, on the CPU."""
    B, m, d = x.shape
    moved, target, shift = np.empty((B, d, m)), np.empty((B, d)), np.empty(B, np.int64)
    parallel_for(_scale_loop, B, 1 + _SHARE // (m * d), x.numpy(), y.numpy(), moved, target, shift)
    parts, gradient = np.empty((B, m)), np.empty((B * grad, d, m))
    parallel_for(_space_loop, B * m, 1 + _SHARE // (m * d), moved, target, w.numpy(), n.numpy(), parts, gradient)
    score = np.ldexp(parts.sum(1), -shift)
    return torch.from_numpy(score), torch.from_numpy(gradient).transpose(1, 2) if grad else None


def _chunked(x: Tensor, y: Tensor, w: Tensor, n: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Score x (B, m, d) by all pairs, on any device."""
    exponent = torch.frexp(torch.maximum(x.abs().amax((1, 2)), y.abs().amax(1))).exponent
    unit, w = two_to((-exponent).clamp(-1000, 1000)), w.expand(x.shape[:2])
    members = Measure(x * unit[:, None, None], w)
    observation = Measure((y * unit[:, None])[:, None], torch.ones_like(w[:, :1]))
    apart, push = pair_sums(Riesz(1.0), None, members, members, True, grad)
    away, pull = pair_sums(Riesz(1.0), None, members, observation, True, grad)
    score = ((w * apart).sum(1) / (2 * n) - (w * away).sum(1)) / unit
    return score, w[..., None] * (push / n[:, None, None] - pull) if grad else None


@numba.njit(**SUMS)
def _line_loop(first, last, worker, tile, x, y, w, distinct, score, gradient):
    """Score forecasts of x (B, m), y (B,), w (B or 1, m), distinct (B or 1,); write gradients (B, m) unless B = 0 there."""
    m = x.shape[1]
    for b in range(first, last):
        c = b if w.shape[0] > 1 else 0
        away, apart, yb = 0.0, 0.0, y[b]
        for i in range(m):
            xi, row = x[b, i], 0.0
            for j in range(i):
                row += w[c, j] * abs(xi - x[b, j])
            away += w[c, i] * abs(xi - yb)
            apart += w[c, i] * row
        score[b] = away - apart / distinct[c]
        if gradient.shape[0] > 0:
            for i in range(m):
                xi, row = x[b, i], 0.0
                for j in range(m):
                    row += (w[c, j] if xi > x[b, j] else 0.0) - (w[c, j] if xi < x[b, j] else 0.0)
                pulled = (1.0 if xi > yb else 0.0) - (1.0 if xi < yb else 0.0)
                gradient[b, i] = w[c, i] * (pulled - row / distinct[c])


@numba.njit(**OPTIONS)
def _scale_loop(first, last, worker, tile, x, y, x_out, y_out, shift):
    """Write x (B, m, d) · 2^shift to x_out (B, d, m) and y (B, d) · 2^shift to y_out; the largest becomes about 2^400."""
    _, m, d = x.shape
    for b in range(first, last):
        largest = 0.0
        for k in range(d):
            largest = max(largest, abs(y[b, k]))
            for i in range(m):
                largest = max(largest, abs(x[b, i, k]))
        shift[b] = min(1000, _LARGE - math.frexp(largest)[1]) if 0 < largest < np.inf else 0
        unit = math.ldexp(1.0, shift[b])
        for k in range(d):
            y_out[b, k] = y[b, k] * unit
            for i in range(m):
                x_out[b, k, i] = x[b, i, k] * unit


@numba.njit(**SUMS)
def _space_loop(first, last, worker, tile, x, y, w, distinct, parts, gradient):
    """Write the parts (B, m) of the scores due to members of x (B, d, m), and gradients (B, d, m) unless B = 0 there."""
    _, d, m = x.shape
    grad = gradient.shape[0] > 0
    rho = np.empty(m)
    for member in range(first, last):
        b, i = member // m, member % m
        c = b if w.shape[0] > 1 else 0
        others = m if grad else i  # without gradients every pair is seen once
        rho[:others] = 0.0
        square = 0.0
        for k in range(d):
            xi = x[b, k, i]
            square += (xi - y[b, k]) ** 2
            for j in range(others):
                rho[j] += (xi - x[b, k, j]) ** 2
        total = 0.0
        for j in range(others):
            rho[j] = math.sqrt(rho[j])
            total += w[c, j] * rho[j]
        away = math.sqrt(square)
        parts[b, i] = w[c, i] * (away - total / ((2 if grad else 1) * distinct[c]))
        if not grad:
            continue
        for j in range(m):
            rho[j] = w[c, j] / rho[j] if rho[j] > 0 else 0.0
        pulled = 1 / away if away > 0 else 0.0
        for k in range(d):
            xi, pushed = x[b, k, i], 0.0
            for j in range(m):
                pushed += rho[j] * (xi - x[b, k, j])
            gradient[b, k, i] = w[c, i] * (pulled * (xi - y[b, k]) - pushed / distinct[c])
