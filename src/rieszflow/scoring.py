"""The energy score of forecasts that are given by samples, and in one dimension the CRPS."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rieszflow import _score_loops
from rieszflow._infra import validate
from rieszflow._infra.autograd import once
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.jit import parallel_for
from rieszflow._infra.scaling import two_to
from rieszflow._types import Points, PointsT
from rieszflow.errors import DerivativeError, InputError, InputTypeError
from rieszflow.exact.pairs import distinct

__all__ = ["NanPolicy", "energy_score"]

NanPolicy = Literal["raise", "omit", "propagate"]

_PAIRS = 1 << 22  # distances in memory at a time
_FEW = 512  # members up to which all pairs are faster than sorting in one dimension
_SHARE = 1 << 15  # numbers that justify another thread


@isolated_numerics
def energy_score(
    samples: PointsT,
    y: PointsT,
    *,
    fair: bool = True,
    weights: Points | None = None,
    nan_policy: NanPolicy = "raise",
) -> PointsT:
    """Compute the energy score of ensemble forecasts, which in one dimension is the CRPS. Lower is better.

    The score is Σ_i w_i ‖x_i − y‖ − Σ_{i≠j} w_i w_j ‖x_i − x_j‖ / 2n, where n = 1, or n = 1 − Σ w_i² = Σ_{i≠j} w_i w_j for the
    fair score. Divided by that n, the second sum is an unbiased estimate of E‖X − X′‖ for independent members with any weights.
    With w_i = 1/m it is the mean over the m(m − 1) pairs.

    It is a strictly proper score: in the mean over many y it is lowest for samples of the distribution that y is drawn from. It
    is also D² between the samples and the one point y. Sums are in float64, and points may have any magnitude. Memory
    does not grow with the number of pairs.

    Args:
        samples: (..., m, d), m samples of every forecast; float32 or float64; tensor or NumPy array.
        y: (..., d), what came, in the dtype and on the device of `samples`.
        fair: E‖X − X′‖ over distinct pairs, which makes the mean score independent of m: an unbiased estimate. If not, over all
            pairs, the score of the m samples as a distribution of their own.
        weights: non-negative weights w of the members, (m,) or (..., m), with sum one and the dtype of `samples`; None for 1/m
            each. They have no derivative.
        nan_policy: "raise" refuses NaN. "omit" leaves out members with NaN and renormalises the other weights; a forecast with
            NaN in y or too few members left has the score NaN and zero derivatives. "propagate" gives every forecast with NaN
            the score NaN and NaN derivatives.

    Returns:
        The score of every forecast, of shape (...), in the data's unit. It can be differentiated once, by samples and y. If
        samples and y are arrays it is a NumPy number or array.

    Raises:
        InputError (a ValueError): shapes that do not fit, infinity, NaN with "raise", bad weights, or fewer than two members of
            positive weight with `fair`.
        InputTypeError (a TypeError): a wrong type or dtype.
        DerivativeError (a RuntimeError): a second derivative, in the backward pass, or weights that require a gradient.

    Example:
        >>> samples = torch.tensor([[0.0], [1.0]])
        >>> energy_score(samples, torch.tensor([0.5])).item(), energy_score(samples, torch.tensor([0.5]), fair=False).item()
        (0.0, 0.25)

    Source: Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation (2007), section 4.3; Ferro, Fair
    Scores for Ensemble Forecasts (2014), for `fair`.
    """
    X: Tensor = validate.points("samples", samples, check_finite=False)
    Y = validate.plain_tensor("y", y, "(..., d)")
    if isinstance(samples, Tensor) != isinstance(y, Tensor):
        raise InputTypeError(f"y: {type(y).__name__} given, samples is {type(samples).__name__}; equal kinds are accepted")
    wanted = (*X.shape[:-2], X.shape[-1])
    if Y.shape != wanted:
        raise InputError(f"y: shape {tuple(Y.shape)} given; {wanted} is accepted with samples of {tuple(X.shape)}")
    if Y.dtype != X.dtype or Y.device != X.device:
        raise InputTypeError(f"y: {Y.dtype} on {Y.device} given, samples is {X.dtype} on {X.device}; equal ones are accepted")
    if nan_policy not in ("raise", "omit", "propagate"):
        raise InputError(f'`nan_policy` must be "raise", "omit" or "propagate", got {nan_policy!r}')
    W = validate.weights("weights", weights, X)
    if W is not None and W.requires_grad:
        raise DerivativeError("`weights` must not require a gradient, got one that does; mmd2 has a derivative by weights")
    if fair and X.shape[-2] < 2:
        raise InputError("samples: one given for every forecast; fair=True needs two at least")
    if fair and W is not None and ((W > 0).sum(-1) < 2).any():
        raise InputError("`weights` must have two positive entries in every forecast with fair=True, got fewer")
    value: Tensor
    if torch.is_grad_enabled() and (X.requires_grad or Y.requires_grad):
        value = _Score.apply(X, Y, W, bool(fair), nan_policy)  # type: ignore[no-untyped-call]  # PyTorch's
    else:
        value, _ = _checked(X, Y, W, bool(fair), nan_policy, False)
    return value if isinstance(samples, Tensor) else value.numpy()[()]


class _Score(torch.autograd.Function):
    # `ctx` is PyTorch's, which takes any attribute.

    @staticmethod
    def forward(ctx: Any, X: Tensor, Y: Tensor, W: Tensor | None, fair: bool, nan_policy: NanPolicy) -> Tensor:
        score, gradient = _checked(X, Y, W, fair, nan_policy, True)
        assert gradient is not None
        ctx.save_for_backward(X, Y, gradient.reshape(X.shape).to(X.dtype))
        return score

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        X, Y, gradient = ctx.saved_tensors
        # What moves samples and y together changes nothing: the derivative by y is minus that by all samples.
        by_x = upstream[..., None, None] * gradient
        return *once("energy_score", [by_x, -by_x.sum(-2)], [X, Y, upstream]), None, None, None


def _checked(
    X: Tensor, Y: Tensor, W: Tensor | None, fair: bool, nan_policy: NanPolicy, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Check values and return scores in the requested shape and dtype, and gradients (B, m, d) in float64 if `wanted`."""
    m, d = X.shape[-2:]
    x, y = X.detach().reshape(-1, m, d).double().contiguous(), Y.detach().reshape(-1, d).double().contiguous()
    if W is None:
        w, n = x.new_full((1, m), 1 / m), x.new_full((1,), 1 - 1 / m if fair else 1)
    else:
        w = W.double().reshape(-1, m).contiguous()
        n = _mass_of_pairs(w, fair)
    if nan_policy == "raise":
        score, gradient = _evaluate(x, y, w, n, wanted)
        # Any value that is not finite makes its score not finite, and checking the scores is faster.
        if not math.isfinite(score.sum()):
            _refuse("contains NaN or infinity; only finite values are accepted", ~x.isfinite(), ~y.isfinite())
    else:
        _refuse("contains infinity; only finite values and NaN are accepted", x.isinf(), y.isinf())
        score, gradient = _despite_nan(x, y, w, fair, wanted, nan_policy == "omit")
    return score.view(X.shape[:-2]).to(X.dtype), gradient


def _refuse(why: str, in_samples: Tensor, in_y: Tensor) -> None:
    for name, found in (("samples", in_samples), ("y", in_y)):
        if found.any():
            raise InputError(f"{name}: {why}")


def _despite_nan(x: Tensor, y: Tensor, w: Tensor, fair: bool, wanted: bool, omit: bool) -> tuple[Tensor, Tensor | None]:
    """Call `_evaluate` without the members and forecasts that are NaN."""
    missing, unscored = x.isnan().any(-1), y.isnan().any(-1)
    if omit:
        w = torch.where(missing, 0, w)
        unscored |= (w > 0).sum(-1) < (2 if fair else 1)
        w = torch.where(unscored[:, None], 1 / w.shape[1], w / w.sum(-1, keepdim=True))
    else:
        unscored |= missing.any(-1)
    x = torch.where(missing[..., None], 0, x)
    score, gradient = _evaluate(x, y.nan_to_num(), w, _mass_of_pairs(w, fair), wanted)
    score[unscored] = torch.nan
    if gradient is not None:
        gradient[unscored] = 0 if omit else torch.nan
    return score, gradient


def _mass_of_pairs(w: Tensor, fair: bool) -> Tensor:
    """Return the n of `energy_score`."""
    return distinct(w) if fair else torch.ones_like(w[:, 0])


def _evaluate(x: Tensor, y: Tensor, w: Tensor, n: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return scores (B,), and gradients (B, m, d) if `wanted`, of x (B, m, d), y (B, d), w (B or 1, m) and n (B or 1,)."""
    m, d = x.shape[1:]
    if d > 1:
        return (_in_loops if x.device.type == "cpu" else _in_chunks)(x, y, w, n, wanted)
    way = _on_line if x.device.type == "cpu" and m <= _FEW else _sorted
    score, gradient = way(x[..., 0], y[:, 0], w, n, wanted)
    if not math.isfinite(score.sum()):  # differences may overflow although the score does not
        score = torch.where(score.isfinite(), score, 4 * way(x[..., 0] / 4, y[:, 0] / 4, w, n, False)[0])
    return score, None if gradient is None else gradient[..., None]


def _on_line(x: Tensor, y: Tensor, w: Tensor, n: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the scores of x (B, m) from all pairs."""
    B, m = x.shape
    score, gradient = np.empty(B), np.empty((B * wanted, m))
    parallel_for(_score_loops.on_line, B, 1 + _SHARE // m**2, x.numpy(), y.numpy(), w.numpy(), n.numpy(), score, gradient)
    return torch.from_numpy(score), torch.from_numpy(gradient) if wanted else None


def _sorted(x: Tensor, y: Tensor, w: Tensor, n: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the scores of x (B, m) by sorting, since Σ_{i<j} w_i w_j |x_i − x_j| = Σ_k W_k (W − W_k) (x_(k+1) − x_(k)).

    W_k is the total weight of the k smallest values, W that of all.
    """
    values, order = x.sort(1)
    w = w.expand_as(x)
    below = w.gather(1, order).cumsum(1)
    total = below[:, -1:]
    gaps = values.diff(dim=1)
    away = x - y[:, None]
    score = (w * away.abs()).sum(1) - (below[:, :-1] * (total - below[:, :-1]) * gaps).sum(1) / n
    if not wanted:
        return score, None
    # Samples in one place share the mean of their ranks: nothing pushes them apart.
    below = torch.nn.functional.pad(below, (1, 0))
    before = below.gather(1, torch.searchsorted(values, x.contiguous()))
    upto = below.gather(1, torch.searchsorted(values, x.contiguous(), right=True))
    return score, w * (away.sign() - (before + upto - total) / n[:, None])


def _in_loops(x: Tensor, y: Tensor, w: Tensor, n: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the scores of x (B, m, d) from all pairs, on the CPU."""
    B, m, d = x.shape
    moved, target, shift = np.empty((B, d, m)), np.empty((B, d)), np.empty(B, np.int64)
    parallel_for(_score_loops.scaled, B, 1 + _SHARE // (m * d), x.numpy(), y.numpy(), moved, target, shift)
    parts, gradient = np.empty((B, m)), np.empty((B * wanted, d, m))
    parallel_for(_score_loops.in_space, B * m, 1 + _SHARE // (m * d), moved, target, w.numpy(), n.numpy(), parts, gradient)
    score = np.ldexp(parts.sum(1), -shift)
    return torch.from_numpy(score), torch.from_numpy(gradient).transpose(1, 2) if wanted else None


def _in_chunks(x: Tensor, y: Tensor, w: Tensor, n: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the scores of x (B, m, d) from all pairs, on any device."""
    B, m, _ = x.shape
    exponent = torch.frexp(torch.maximum(x.abs().amax((1, 2)), y.abs().amax(1))).exponent
    unit = two_to((-exponent).clamp(-1000, 1000))
    x, y = x * unit[:, None, None], y * unit[:, None]
    w, n = w.expand(B, m), n.expand(B)
    score, gradient = torch.empty(B, dtype=x.dtype, device=x.device), torch.empty_like(x) if wanted else None
    at_once, rows = max(1, _PAIRS // m**2), max(1, min(m, _PAIRS // m))
    for first in range(0, B, at_once):
        these = slice(first, first + at_once)
        part, weight, pairs = x[these], w[these], n[these]
        away = part - y[these, None]
        far = away.norm(dim=2)
        total = (weight * far).sum(1)
        for row in range(0, m, rows):
            own = slice(row, row + rows)
            mine, share_of_mine = part[:, own], weight[:, own]
            apart = torch.cdist(mine, part, compute_mode="donot_use_mm_for_euclid_dist")
            total = total - (share_of_mine * (apart @ weight[..., None])[..., 0]).sum(1) / (2 * pairs)
            if gradient is not None:
                inverse = torch.where(apart > 0, weight[:, None] / apart, 0)
                pushed = mine * inverse.sum(2, keepdim=True) - inverse @ part
                pulled = away[:, own] * torch.where(far > 0, 1 / far, 0)[:, own, None]
                gradient[these, own] = share_of_mine[..., None] * (pulled - pushed / pairs[:, None, None])
        score[these] = total / unit[these]
    return score, gradient
