"""Brute force, O(NM) time and O(N·d) memory: the reference that everything else is tested against.

Everything is made of two sums over the points of one cloud, taken in chunks and in float64 whatever the input's dtype:
the potential Σ_j b_j K(x, y_j) and its gradient by x. The autograd rules are the analytic ones, so no graph over N × M
pairs is ever kept and derivatives at coincident points are finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._surroundings import plain
from rieszflow.engines._scale import times_power_of_two, two_to
from rieszflow.errors import DerivativeError
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["energy_distance", "mmd2", "mmd2_gradient"]

_PAIRS = 1 << 22  # pairs of points in one chunk: 32 MB of float64 an array
_CLOSE = 1e-4  # squared distances below this share of ‖x‖² + ‖y‖² are taken from differences
_ORDINARY = 100  # numbers from 2^−100 to 2^100 are squared as they are
_LARGE = 400  # extreme ones are brought near 2^400, where squares and sums are far from the end of float64's range
_TINY = 2.0**-900  # squares below have lost digits


@plain
def mmd2(
    x: Any, y: Any, *, kernel: Kernel = Riesz(1.0), statistic: str = "V", x_weights: Any = None, y_weights: Any = None
) -> Any:
    """Squared MMD in the paper's convention, D² = ½ ∬ K d(μ − ν) d(μ − ν), by brute force.

    For the Riesz kernel −‖x − y‖^r this is E‖X−Y‖^r − ½E‖X−X′‖^r − ½E‖Y−Y′‖^r: **half** the statisticians' energy
    distance (`energy_distance`). For the other kernels it is likewise half of the usual E K(X,X′) + E K(Y,Y′) − 2E K(X,Y).

    Args:
        x: points (N, d), or (..., N, d) with the same batch dimensions as y; float32 or float64; tensor or NumPy array.
        y: points (M, d) or (..., M, d), same dtype and device.
        kernel: one of `Riesz`, `Gaussian`, `Laplace`, `InverseMultiquadric`, `Matern`.
        statistic: "V" (weights 1/N² on all pairs, never negative but for rounding) or "U" (unbiased: pairs i ≠ k only).
        x_weights: non-negative weights of x that sum to one, (N,) or (..., N); None for 1/N.
        y_weights: likewise for y.

    Returns:
        The value, 0-dimensional or of the batch's shape; differentiable once by x, y and the weights. NumPy for NumPy input.
        Unit: that of the kernel (length^r for Riesz). Sums are taken in float64: relative error about 1e-12 of
        E|K(X, Y)|, before rounding to the input's dtype. Points may be as large or small as numbers get; infinity comes out
        where the result is beyond the dtype's range.

    Raises:
        TypeError: wrong type or dtype. ValueError: wrong shape, empty, NaN or infinity, unknown statistic, bad weights.
        RuntimeError: a second derivative, on the way back.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> mmd2(x, y).item()
        5.0

    Source: paper, section 2 (its D_K²).
    """
    x, y, answer = _validate.pair(x, y)
    check_kernel(kernel)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    _validate.statistic(statistic, ("x", x, a), ("y", y, b))
    # What was made in inference mode cannot be kept for a derivative; its copy can.
    if not torch.is_inference_mode_enabled():
        x, y, a, b = (t.clone() if t is not None and t.is_inference() else t for t in (x, y, a, b))
    a, b = (None if w is None else w.expand(t.shape[:-1]) for w, t in ((a, x), (b, y)))
    return answer(_MMD2.apply(x, y, a, b, kernel, statistic == "U"))


def energy_distance(
    x: Any, y: Any, *, r: float = 1.0, statistic: str = "V", x_weights: Any = None, y_weights: Any = None
) -> Any:
    """Energy distance in the statisticians' convention, 2E‖X−Y‖^r − E‖X−X′‖^r − E‖Y−Y′‖^r, by brute force.

    This is **twice** `mmd2` with the kernel `Riesz(r)`. Arguments, errors and differentiability as there. SciPy's
    `energy_distance` (one dimension) is the square root of this with r = 1 and statistic "V".

    Args:
        r: exponent, in the open interval (0, 2).

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> energy_distance(x, y).item()
        10.0

    Source: Székely & Rizzo, Energy statistics, J. Statist. Plann. Inference 143 (2013).
    """
    return 2 * mmd2(x, y, kernel=Riesz(r), statistic=statistic, x_weights=x_weights, y_weights=y_weights)


@plain
def mmd2_gradient(x: Any, y: Any, *, kernel: Kernel = Riesz(1.0), x_weights: Any = None, y_weights: Any = None) -> Any:
    """Gradient of `mmd2` (V-statistic) with respect to x by brute force, without autograd.

    ∂/∂x_i D² = a_i [Σ_k a_k ∇₁K(x_i, x_k) − Σ_j b_j ∇₁K(x_i, y_j)]; coincident points exert no force on each other.

    Args, errors: as `mmd2`.

    Returns:
        Gradient, shape of x, detached; NumPy for NumPy input.

    Example:
        >>> mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]])).tolist()
        [[1.0]]
    """
    x, y, answer = _validate.pair(x, y)
    check_kernel(kernel)
    a, b = _validate.weights("x_weights", x_weights, x), _validate.weights("y_weights", y_weights, y)
    dtype = x.dtype
    a, b = (None if w is None else w.detach().expand(t.shape[:-1]) for w, t in ((a, x), (b, y)))
    x, y, a, b, shift = _prepared(x.detach(), y.detach(), a, b)
    gradient = a.unsqueeze(-1) * (_force(x, x, a, shift, kernel, True) - _force(x, y, b, shift, kernel))
    return answer(_in_own_unit(gradient, shift, kernel, 1).to(dtype))


class _MMD2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, a, b, kernel, unbiased):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, y, a, b)
        ctx.kernel, ctx.unbiased, dtype = kernel, unbiased, x.dtype
        x, y, a, b, shift = _prepared(x, y, a, b)
        self_x, self_y = (_self_energy(p, w, shift, kernel, unbiased) for p, w in ((x, a), (y, b)))
        cross = (a * _potential(x, y, b, shift, kernel)).sum(-1)
        value = 0.5 * self_x + 0.5 * self_y - cross
        return _in_own_unit(value, shift, kernel, 0).to(dtype)

    @staticmethod
    @plain
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        inputs = ctx.saved_tensors
        x, y, a, b, shift = _prepared(*(None if t is None else t.detach() for t in inputs))
        kernel, unbiased, dtype = ctx.kernel, ctx.unbiased, inputs[0].dtype
        upstream_ = upstream.detach().double().unsqueeze(-1)
        out: list[Tensor | None] = [None] * 4
        for points, other, w, v, index in ((x, y, a, b, 0), (y, x, b, a, 1)):
            pairs = _distinct(w).unsqueeze(-1) if unbiased else torch.ones_like(w[..., :1])
            if ctx.needs_input_grad[index]:
                force = _force(points, points, w, shift, kernel, True) / pairs.unsqueeze(-1)
                force -= _force(points, other, v, shift, kernel)
                gradient = upstream_.unsqueeze(-1) * w.unsqueeze(-1) * force
                out[index] = _in_own_unit(gradient, shift, kernel, 1).to(dtype)
            if ctx.needs_input_grad[index + 2]:
                own = _potential(points, points, w, shift, kernel, True)
                if unbiased:
                    # ½ S/n, S = Σ_{i≠k} w_i w_k K_ik, n = 1 − Σw²: quotient rule.
                    S = (w * own).sum(-1, keepdim=True) / pairs
                    own = (own + S * w) / pairs
                else:
                    own = own + w * _at_zero(kernel, w)
                slope = upstream_ * (own - _potential(points, other, v, shift, kernel))
                out[index + 2] = _in_own_unit(slope, shift, kernel, 0).to(dtype)
        return *once("mmd2, energy_distance", out, (*inputs, upstream)), None, None


def once(name: str, gradients: Sequence[Tensor | None], roots: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients, such that to differentiate them by what they depend on is an error.

    autograd's own marker `once_differentiable` says nothing where the upstream gradient is a constant: zeros would come out.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    given = [g for g in gradients if g is not None]
    marked = iter(_Once.apply(name, len(given), *given, *(t for t in roots if t is not None and t.requires_grad)))
    return [None if g is None else next(marked) for g in gradients]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, name, many, *tensors):  # type: ignore[no-untyped-def]
        ctx.name = name
        return tuple(t.detach() for t in tensors[:many])

    @staticmethod
    def backward(ctx, *upstream):  # type: ignore[no-untyped-def]
        raise DerivativeError(
            f"{ctx.name}: differentiable once, and a second derivative was asked for (by a gradient penalty or a Hessian, "
            "say); for few points write the sum over pairs in PyTorch"
        )


_Prepared = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _prepared(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> _Prepared:
    """Points times 2^shift and weights, in float64. The shift, (...), keeps squares of extreme numbers within range."""
    x, y, a, b = x.double(), y.double(), _or_equal(a, x), _or_equal(b, y)
    largest = torch.maximum(x.abs().amax((-2, -1)), y.abs().amax((-2, -1)))
    exponent = torch.frexp(largest).exponent.long()
    # Ordinary numbers stay as they are. Extreme ones become large, but not too large to be squared: so small ones among them
    # keep their digits, too.
    extreme = (exponent.abs() > _ORDINARY) & (largest > 0)
    shift = torch.where(extreme, (_LARGE - exponent).clamp(max=1000), 0)
    if extreme.any():
        x, y = (t * two_to(shift)[..., None, None] for t in (x, y))
    return x, y, a, b, shift


def _in_own_unit(v: Tensor, shift: Tensor, kernel: Kernel, order: int) -> Tensor:
    """What came out for the points times 2^shift for the points themselves; order 1: a derivative by them."""
    if kernel.degree is None:  # taken at the distances themselves
        return v / kernel.length if order else v
    if not shift.any():
        return v
    power = -shift.double() * (kernel.degree - order)
    return times_power_of_two(v, power.reshape(power.shape + (1,) * (v.ndim - power.ndim)))


def _self_energy(x: Tensor, w: Tensor, shift: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    # The pairs of a point with itself are left out and not subtracted: of a narrow kernel they are nearly everything.
    total = (w * _potential(x, x, w, shift, kernel, True)).sum(-1)
    return total / _distinct(w) if unbiased else total + _at_zero(kernel, w) * (w**2).sum(-1)


def _at_zero(kernel: Kernel, like: Tensor) -> Tensor:
    return kernel.value(torch.zeros((), dtype=like.dtype, device=like.device))


def _distinct(w: Tensor) -> Tensor:
    """Σ_{i≠k} w_i w_k, without cancellation where one point has nearly all the weight: (...)."""
    most, index = w.max(-1, keepdim=True)
    others = w.scatter(-1, index, 0)
    rest = others.sum(-1)
    return 2 * most.squeeze(-1) * rest + (rest**2 - (others**2).sum(-1))


def _potential(x: Tensor, y: Tensor, b: Tensor, shift: Tensor, kernel: Kernel, own: bool = False) -> Tensor:
    """Σ_j b_j K(x_i, y_j): (..., N). With `own`, y is x, and without j = i."""
    parts = []
    for chunk in _chunks(x, y):
        values = kernel.value(_distances(chunk.rho, shift, kernel)) * b.unsqueeze(-2)
        if own:
            values.diagonal(chunk.start, -2, -1).zero_()
        parts.append(values.sum(-1))
    return torch.cat(parts, -1)


def _force(x: Tensor, y: Tensor, b: Tensor, shift: Tensor, kernel: Kernel, own: bool = False) -> Tensor:
    """`kernel.length` · Σ_j b_j ∇₁K(x_i, y_j): (..., N, d). With `own`, y is x, and a point exerts none on itself."""
    parts = []
    for chunk in _chunks(x, y):
        w = kernel.derivative(_distances(chunk.rho, shift, kernel)) * b.unsqueeze(-2)
        w = torch.where(chunk.rho > 0, w / chunk.rho, 0)
        if own:
            w.diagonal(chunk.start, -2, -1).zero_()
        # Between close points w is great and the difference small: taken from the points, for a sum would cancel.
        near = []
        for pairs in chunk.close:
            near.append(w[pairs].unsqueeze(-1) * chunk.differences(pairs))
            w[pairs] = 0
        force = chunk.x * w.sum(-1, keepdim=True) - w @ chunk.y
        for pairs, pull in zip(chunk.close, near, strict=True):
            force.index_put_(pairs[:-1], pull, accumulate=True)
        parts.append(force)
    return torch.cat(parts, -2)


def _distances(rho: Tensor, shift: Tensor, kernel: Kernel) -> Tensor:
    """Distances as the kernel wants them: the points' own where it has a length, times 2^shift where it has none."""
    return rho if kernel.degree is not None else rho * two_to(-shift)[..., None, None]


@dataclass
class _Chunk:
    """Some rows of x against all of y. `close`: indices (..., i, j) of close pairs, in parts."""

    start: int
    x: Tensor  # centred, as y
    y: Tensor
    rho: Tensor
    close: list[tuple[Tensor, ...]]
    origin: tuple[Tensor, Tensor]  # the rows of x, and y, as they came

    def differences(self, pairs: tuple[Tensor, ...]) -> Tensor:
        *batch, i, j = pairs
        return self.origin[0][(*batch, i)] - self.origin[1][(*batch, j)]


def _chunks(x: Tensor, y: Tensor) -> Iterator[_Chunk]:
    # Distances do not change when both clouds move; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
    centre = y.mean(-2, keepdim=True)
    centred = y - centre
    y_norms = (centred**2).sum(-1).unsqueeze(-2)
    batch = max(1, x[..., 0, 0].numel())
    start = 0
    for rows in x.split(max(1, _PAIRS // (y.shape[-2] * batch)), dim=-2):
        part = rows - centre
        norms = (part**2).sum(-1).unsqueeze(-1) + y_norms
        rho = (norms - 2 * part @ centred.transpose(-1, -2)).clamp_(min=0)
        close = ((rho <= _CLOSE * norms) | (norms < _TINY)).nonzero()
        rho.sqrt_()
        parts = [p.unbind(-1) for p in close.split(max(1, _PAIRS // x.shape[-1]))] if len(close) else []
        chunk = _Chunk(start, part, centred, rho, parts, (rows, y))
        for pairs in parts:
            difference = chunk.differences(pairs)
            largest = difference.abs().amax(-1, keepdim=True)
            unit = torch.where(largest > 0, largest, 1)  # squares of the smallest numbers are zero
            rho[pairs] = ((difference / unit) ** 2).sum(-1).sqrt() * largest.squeeze(-1)
        yield chunk
        start += rows.shape[-2]


def _or_equal(w: Tensor | None, x: Tensor) -> Tensor:
    """Weights (..., N) in float64, equal ones for None."""
    if w is None:
        return torch.full(x.shape[:-1], 1 / x.shape[-2], dtype=torch.float64, device=x.device)
    return w.double()
