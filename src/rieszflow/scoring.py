"""The energy score of forecasts that are given by samples, and in one dimension the CRPS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._autograd import once
from rieszflow._surroundings import plain
from rieszflow._types import PointsT
from rieszflow.errors import InputError, InputTypeError

__all__ = ["energy_score"]

_PAIRS = 1 << 22  # distances in memory at a time


@plain
def energy_score(samples: PointsT, y: PointsT, *, fair: bool = True) -> PointsT:
    """E‖X − y‖ − ½ E‖X − X′‖: how good samples X are as a forecast of what came, y. Lower is better.

    It is a strictly proper score: in the mean over many y it is lowest for samples of the distribution that y is drawn from. It
    is also D² between the samples and the one point y. In one dimension it is the continuous ranked probability score (CRPS),
    by sorting. Otherwise all pairs of an ensemble are looked at, some millions at a time: memory does not grow with their
    number. Sums are in float64.

    Args:
        samples: (..., m, d), m samples of every forecast; float32 or float64; tensor or NumPy array.
        y: (..., d), what came, in the dtype and on the device of `samples`.
        fair: E‖X − X′‖ over distinct pairs, which makes the mean score independent of m: an unbiased estimate. If not, over all
            pairs, the score of the m samples as a distribution of their own.

    Returns:
        The score of every forecast, of shape (...), in the data's unit. It can be differentiated once, by samples and y. If
        samples and y are arrays it is a NumPy number or array.

    Raises:
        InputError (a ValueError): shapes that do not fit, NaN or infinity, or one sample with `fair`.
        InputTypeError (a TypeError): a wrong type or dtype.
        DerivativeError (a RuntimeError): a second derivative, on the way back.

    Example:
        >>> samples = torch.tensor([[0.0], [1.0]])
        >>> energy_score(samples, torch.tensor([0.5])).item(), energy_score(samples, torch.tensor([0.5]), fair=False).item()
        (0.0, 0.25)

    Source: Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation (2007), section 4.3; Ferro, Fair
    Scores for Ensemble Forecasts (2014), for `fair`.
    """
    X: Tensor = _validate.points("samples", samples)
    Y = _validate.plain_tensor("y", y, "(..., d)")
    if isinstance(samples, Tensor) != isinstance(y, Tensor):
        raise InputTypeError(f"y: {type(y).__name__} given, samples is {type(samples).__name__}; equal kinds are accepted")
    wanted = (*X.shape[:-2], X.shape[-1])
    if Y.shape != wanted:
        raise InputError(f"y: shape {tuple(Y.shape)} given; {wanted} is accepted with samples of {tuple(X.shape)}")
    if Y.dtype != X.dtype or Y.device != X.device:
        raise InputTypeError(f"y: {Y.dtype} on {Y.device} given, samples is {X.dtype} on {X.device}; equal ones are accepted")
    if not torch.isfinite(Y.detach()).all():
        raise InputError("y: contains NaN or infinity; only finite values are accepted")
    if fair and X.shape[-2] < 2:
        raise InputError("samples: one given for every forecast; fair=True needs two at least")
    value: Tensor = _Score.apply(X, Y, bool(fair))  # type: ignore[no-untyped-call]  # PyTorch's
    return value if isinstance(samples, Tensor) else value.numpy()[()]


class _Score(torch.autograd.Function):
    # `ctx` is PyTorch's, which takes any attribute.

    @staticmethod
    def forward(ctx: Any, X: Tensor, Y: Tensor, fair: bool) -> Tensor:
        x = (X.detach() - Y.detach().unsqueeze(-2)).double().flatten(0, -3) if X.ndim > 2 else (X - Y).detach().double()[None]
        wanted = any(ctx.needs_input_grad[:2])
        m = X.shape[-2]
        pairs = m * (m - 1) if fair else m * m
        value, gradient = (_sorted if X.shape[-1] == 1 else _in_chunks)(x, pairs, wanted)
        if gradient is not None:
            ctx.save_for_backward(X, Y, gradient.view(X.shape).to(X.dtype))
        return value.view(X.shape[:-2]).to(X.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        X, Y, gradient = ctx.saved_tensors
        # What moves samples and y together changes nothing: the derivative by y is minus that by all samples.
        by_x = upstream[..., None, None] * gradient
        gx, gy = once("energy_score", [by_x, -by_x.sum(-2)], [X, Y, upstream])
        return gx, gy, None


def _sorted(x: Tensor, pairs: int, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Of x (B, m, 1), y taken off. Σ_ij |x_i − x_j| = 2 Σ_k (2k − m + 1) x_(k), k from 0."""
    m = x.shape[1]
    values, order = x[..., 0].sort(1)
    rank = 2.0 * torch.arange(m, dtype=x.dtype, device=x.device) - m + 1
    score = values.abs().mean(1) - (values * rank).sum(1) / pairs
    if not wanted:
        return score, None
    # Samples in one place share the mean of their ranks: nothing pushes them apart.
    below = torch.searchsorted(values, values)
    upto = torch.searchsorted(values, values, right=True)
    own = (below + upto).to(x.dtype) - m
    return score, torch.empty_like(x[..., 0]).scatter_(1, order, values.sign() / m - own / pairs).unsqueeze(2)


def _in_chunks(x: Tensor, pairs: int, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Of x (B, m, d), y taken off."""
    B, m, _ = x.shape
    score, gradient = torch.empty(B, dtype=x.dtype, device=x.device), torch.empty_like(x) if wanted else None
    at_once, rows = max(1, _PAIRS // m**2), max(1, min(m, _PAIRS // m))
    for first in range(0, B, at_once):
        part = x[first : first + at_once]
        away = part.norm(dim=2)
        total = away.mean(1)
        for row in range(0, m, rows):
            mine = part[:, row : row + rows]
            apart = torch.cdist(mine, part, compute_mode="donot_use_mm_for_euclid_dist")
            total = total - apart.sum((1, 2)) / (2 * pairs)
            if gradient is not None:
                inverse = torch.where(apart > 0, 1 / apart, 0)
                pushed = mine * inverse.sum(2, keepdim=True) - inverse @ part
                pulled = mine * torch.where(away > 0, 1 / away, 0)[:, row : row + rows, None]
                gradient[first : first + at_once, row : row + rows] = pulled / m - pushed / pairs
        score[first : first + at_once] = total
    return score, gradient
