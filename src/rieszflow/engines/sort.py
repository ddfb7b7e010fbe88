"""The exact engine: both distribution functions of every slice at every point, by one sort of the joined projections.

Plain torch operations, O((N+M) log(N+M)); the derivative by x alone, on the CPU in float32, which is what a flow needs, has
its own loop with a radix sort, O(N+M).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._compiled import OPTIONS
from rieszflow._surroundings import plain
from rieszflow._threads import share
from rieszflow.directions import Directions
from rieszflow.engines._result import Result
from rieszflow.engines._scale import power_of_two, within_range
from rieszflow.errors import InputError
from rieszflow.kernels import Kernel, Riesz

__all__ = ["Profile", "evaluate", "gradient", "profile"]

_PROJECTIONS = 1 << 26  # projected numbers in one chunk of slices: 256 MB of float32


@plain
def evaluate(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    xi: Directions,
    kernel: Kernel,
    unbiased: bool,
    need: tuple[bool, ...],
) -> Result:
    """See `rieszflow.engines`."""
    if kernel != Riesz(1.0):
        raise InputError(f"kernel: {kernel!r} given; engine 'sort' accepts Riesz(1.0), engine 'bins' the others")
    need_value, need_x, need_y, need_a, need_b = need
    x, y = x.detach(), y.detach()
    # Nothing here changes under a common shift; near the origin the projections keep more digits. The median of some points,
    # for an outlier would pull the mean away from all the others.
    some = y[..., :31, :].sort(dim=-2).values
    middle = (some.shape[-2] - 1) // 2
    centre = some[..., middle : middle + 1, :]
    # A power of two, without rounding, keeps very small numbers from becoming denormal on the way.
    scale = power_of_two(within_range(max(_reach(x, centre), _reach(y, centre)), x.dtype), x.dtype)
    alpha, beta = _self_factor(a, x, unbiased), _self_factor(b, y, unbiased)
    grad_x: Tensor | None = None
    grad_y: Tensor | None = None
    grad_a, grad_b = torch.zeros_like(x[..., 0]) if need_a else None, torch.zeros_like(y[..., 0]) if need_b else None
    value = torch.zeros(x.shape[:-2], dtype=torch.float64, device=x.device) if need_value else None
    numbers = (x.numel() + y.numel()) // x.shape[-1]
    for part in xi.split(max(1, _PROJECTIONS // numbers)):
        if not (need_value or need_y or need_a or need_b):
            forces = gradient(part.project(x, centre, scale), part.project(y, centre, scale), a, b, alpha)
            grad_x = _sum(grad_x, part.adjoint(forces))
            continue
        s = profile(part.project(x, centre, scale), part.project(y, centre, scale), a, b)
        if value is not None:
            # E|X−Y| − ½αE|X−X′| − ½βE|Y−Y′| in every slice; α = β = 1 for the V-statistic.
            correction = (alpha[..., 0] - 1) * s.spread_x + (beta[..., 0] - 1) * s.spread_y
            value += (s.distance - correction).double().sum(-1)
        if need_x:
            grad_x = _sum(grad_x, part.adjoint(2 * s.G_x - 1 - alpha * (2 * s.F_x - 1)))
        if need_y:
            grad_y = _sum(grad_y, part.adjoint(2 * s.F_y - 1 - beta * (2 * s.G_y - 1)))
        if grad_a is not None:
            grad_a += _weights_gradient(s.potential_x, s.own_x, s.spread_x, a, alpha, unbiased)
        if grad_b is not None:
            grad_b += _weights_gradient(-s.potential_y, s.own_y, s.spread_y, b, beta, unbiased)
    c = kernel.basis_constant(xi.n) / xi.P
    return Result(
        None if value is None else c / scale * value,
        None if grad_x is None else grad_x.mul_(_per_point(c, x, a)),
        None if grad_y is None else grad_y.mul_(_per_point(c, y, b)),
        None if grad_a is None else c / scale * grad_a,
        None if grad_b is None else c / scale * grad_b,
    )


def _reach(x: Tensor, centre: Tensor) -> float:
    """The largest coordinate of x − centre, which is not formed."""
    ends = torch.cat([x.amax(-2, keepdim=True) - centre, centre - x.amin(-2, keepdim=True)])
    return ends.amax().item()


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _self_factor(w: Tensor | None, x: Tensor, unbiased: bool) -> Tensor:
    """1/(1 − Σw²), which turns E over all pairs into E over distinct ones; shape (..., 1, 1). 1 for the V-statistic."""
    if not unbiased:
        return x.new_ones(1, 1)
    if w is None:
        return x.new_full((1, 1), x.shape[-2] / (x.shape[-2] - 1))
    return 1 / (1 - (w.detach() ** 2).sum(-1))[..., None, None]


def _per_point(c: float, x: Tensor, w: Tensor | None) -> float | Tensor:
    return c / x.shape[-2] if w is None else c * w.detach().unsqueeze(-1)


def _weights_gradient(potential: Tensor, own: Tensor, spread: Tensor, w: Any, factor: Tensor, unbiased: bool) -> Tensor:
    """Derivative by the weights of one cloud, summed over slices: (..., N)."""
    if unbiased:
        potential = potential - (factor - 1) * own - (2 * factor**2 * spread.unsqueeze(-1)) * w.detach().unsqueeze(-2)
    return potential.sum(-2)


class Profile(NamedTuple):
    """A slice's two distribution functions F (of px) and G (of py), seen from the points and integrated.

    F_x, G_x: (..., P, N), F and G at px.  F_y, G_y: (..., P, M), F and G at py; all with mid-ranks at ties.
    distance: (..., P), ∫(F − G)² dt = D².  spread_x, spread_y: ∫F(1 − F) dt = ½E|X − X′|, ∫G(1 − G) dt = ½E|Y − Y′|.
    potential_x: (..., P, N), E|px − Y| − E|px − X|;  potential_y: (..., P, M), the same function at py.
    own_x: (..., P, N), E|px − X|;  own_y: (..., P, M), E|py − Y|.
    """

    F_x: Tensor
    G_x: Tensor
    F_y: Tensor
    G_y: Tensor
    distance: Tensor
    spread_x: Tensor
    spread_y: Tensor
    potential_x: Tensor
    potential_y: Tensor
    own_x: Tensor
    own_y: Tensor


def gradient(px: Tensor, py: Tensor, a: Tensor | None, b: Tensor | None, self_factor: Tensor) -> Tensor:
    """2G − 1 − self_factor(2F − 1) at px (..., P, N), the derivative of D² in every slice by px over the point's weight."""
    if px.device.type == "cpu" and px.dtype == torch.float32 and px.ndim == 2:
        return _gradient_cpu(px, py, a, b, self_factor.item())
    z, order = torch.cat([px, py], -1).sort(dim=-1)
    F, G = _distribution_functions(z, order, px.shape[-1], a, b)
    sorted_gradient = 2 * G.mid - 1 - self_factor * (2 * F.mid - 1)
    return _unsort(sorted_gradient, order)[..., : px.shape[-1]]


def profile(px: Tensor, py: Tensor, a: Tensor | None, b: Tensor | None) -> Profile:
    N = px.shape[-1]
    z, order = torch.cat([px, py], -1).sort(dim=-1)
    F, G = _distribution_functions(z, order, N, a, b)
    gaps = z.diff(dim=-1)
    difference = (G.upto - F.upto)[..., :-1]
    distance = (difference**2 * gaps).sum(-1)
    spread_x, spread_y = (((H.upto * (1 - H.upto).clamp(min=0))[..., :-1] * gaps).sum(-1) for H in (F, G))
    # E|t − Y| − E|t − X| has the slope 2(G − F) and left of all points the value E Y − E X = ∫(F − G) dt; E|t − X| has
    # the slope 2F − 1 and the value ∫(1 − F) dt there. Written so, a common shift cancels before it can round.
    potential = _integrate(-difference * gaps, 2 * difference * gaps)
    own_x, own_y = (_integrate((1 - H) * gaps, (2 * H - 1) * gaps) for H in (F.upto[..., :-1], G.upto[..., :-1]))
    F_mid, G_mid, potential, own_x, own_y = (_unsort(t, order) for t in (F.mid, G.mid, potential, own_x, own_y))
    return Profile(
        F_mid[..., :N], G_mid[..., :N], F_mid[..., N:], G_mid[..., N:], distance, spread_x, spread_y,
        potential[..., :N], potential[..., N:], own_x[..., :N], own_y[..., N:],
    )  # fmt: skip


def _integrate(start: Tensor, steps: Tensor) -> Tensor:
    """The function that begins with Σ start and grows by the steps: (..., K − 1) to (..., K)."""
    start = start.sum(-1, keepdim=True)
    return torch.cat([start, start + steps.cumsum(-1)], -1)


class _DistributionFunction(NamedTuple):
    upto: Tensor  # mass of the first k + 1 sorted points: the function's value right of the k-th, once a tie is complete
    mid: Tensor  # mid-rank value at the points themselves


def _distribution_functions(
    z: Tensor, order: Tensor, N: int, a: Tensor | None, b: Tensor | None
) -> tuple[_DistributionFunction, _DistributionFunction]:
    K = z.shape[-1]
    is_x = order < N
    own = torch.full_like(z, 1 / N) if a is None else _gather(a, order.clamp(max=N - 1))
    other = torch.full_like(z, 1 / (K - N)) if b is None else _gather(b, (order - N).clamp(min=0))
    mass_a, mass_b = torch.where(is_x, own, 0), torch.where(is_x, 0, other)
    # First and last index of every group of equal values.
    index = torch.arange(K, device=z.device).expand_as(z)
    edge = z.diff(dim=-1) > 0
    inside = torch.ones_like(edge[..., :1])
    first = torch.where(torch.cat([inside, edge], -1), index, 0).cummax(-1).values
    last = torch.where(torch.cat([edge, inside], -1), index, K - 1).flip(-1).cummin(-1).values.flip(-1)

    def function(mass: Tensor) -> _DistributionFunction:
        upto = mass.double().cumsum(-1)
        before = torch.cat([torch.zeros_like(upto[..., :1]), upto], -1)
        mid = 0.5 * (before.gather(-1, first) + upto.gather(-1, last))
        return _DistributionFunction(upto.to(z.dtype), mid.to(z.dtype))

    return function(mass_a), function(mass_b)


def _gather(w: Tensor, order: Tensor) -> Tensor:
    """Weights (..., N) of the points that `order` (..., P, K) names."""
    return w.detach().unsqueeze(-2).expand(*order.shape[:-1], w.shape[-1]).gather(-1, order)


def _unsort(values: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(-1, order, values)


def _gradient_cpu(px: Tensor, py: Tensor, a: Tensor | None, b: Tensor | None, self_factor: float) -> Tensor:
    out = torch.from_numpy(np.empty(px.shape, np.float32))
    none = np.empty(0, np.float32)
    wa, wb = (none if w is None else w.detach().contiguous().numpy() for w in (a, b))
    args = px.detach().numpy(), py.detach().numpy(), wa, wb, self_factor, out.numpy()
    share(_slices, len(px), 1, *args)
    return out


_BITS, _PASSES = 11, 3


@numba.njit(**OPTIONS)
def _slices(first, last, worker, step, px, py, a, b, self_factor, out):
    N, M = px.shape[1], py.shape[1]
    keys, other = np.empty(N + M, np.uint64), np.empty(N + M, np.uint64)
    counts = np.empty((_PASSES, 1 << _BITS), np.uint32)
    result = np.empty(N + 1, np.float32)
    for p in range(first, last):
        _pack(px[p], keys[:N], 0)
        _pack(py[p], keys[N:], N)
        _radix_sort(keys, other, counts)  # an odd number of passes: sorted keys are in `other`
        if a.shape[0] or b.shape[0] or _scan(other, N, M, self_factor, result):
            _scan_ties(other, a, b, N, M, self_factor, result)
        out[p] = result[:N]


@numba.njit(**OPTIONS)
def _pack(x, keys, start):
    """keys = order-preserving bits of the value (high half) and index (low half)."""
    bits = (x + np.float32(0)).view(np.uint32)  # −0 becomes +0: they are a tie
    for i in range(keys.shape[0]):
        u = bits[i]
        flip = np.uint32(0xFFFFFFFF) if u >> np.uint32(31) else np.uint32(0x80000000)
        keys[i] = (np.uint64(u ^ flip) << np.uint64(32)) | np.uint64(start + i)


@numba.njit(**OPTIONS)
def _radix_sort(keys, other, counts):
    """Sorts by the high halves, 11 bits a pass, least significant first: linear time whatever the values are."""
    mask = np.uint64((1 << _BITS) - 1)
    counts[:] = 0
    for i in range(keys.shape[0]):
        k = keys[i] >> np.uint64(32)
        for q in range(_PASSES):
            counts[q, np.uint32(k & mask)] += np.uint32(1)
            k >>= np.uint64(_BITS)
    source, target = keys, other
    for q in range(_PASSES):
        place = counts[q]
        start = np.uint32(0)
        for r in range(place.shape[0]):
            count = place[r]
            place[r] = start
            start += count
        shift = np.uint64(32 + q * _BITS)
        for i in range(keys.shape[0]):
            key = source[i]
            r = np.uint32((key >> shift) & mask)
            target[place[r]] = key
            place[r] += np.uint32(1)
        source, target = target, source


@numba.njit(**OPTIONS)
def _scan(keys, N, M, self_factor, out):
    """out[i] = 2G(x_i) − 1 − self_factor(2F(x_i) − 1) without branches, if there are no ties; says whether there are."""
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    tie = False
    seen = 0  # points of x so far
    before = np.uint64(0xFFFFFFFFFFFF)
    for i in range(keys.shape[0]):
        key = keys[i]
        tie |= key >> high == before
        before = key >> high
        index = np.uint32(key & low)
        # y's results all go to out[N], which nobody reads
        out[min(index, np.uint32(N))] = 2.0 * (i - seen) / M - 1 - self_factor * ((2.0 * seen + 1) / N - 1)
        seen += np.int64(index < N)
    return tie


@numba.njit(**OPTIONS)
def _scan_ties(keys, a, b, N, M, self_factor, out):
    """The same with mid-ranks at ties and with weights."""
    low = np.uint64(0xFFFFFFFF)
    scale_a = 1.0 if a.shape[0] else 1.0 / N
    scale_b = 1.0 if b.shape[0] else 1.0 / M
    F, G = 0.0, 0.0
    i, K = 0, keys.shape[0]
    while i < K:
        value = keys[i] >> np.uint64(32)
        mass_a, mass_b = 0.0, 0.0
        j = i
        while j < K and keys[j] >> np.uint64(32) == value:
            index = np.int64(keys[j] & low)
            if index < N:
                mass_a += a[index] if a.shape[0] else 1.0
            else:
                mass_b += b[index - N] if b.shape[0] else 1.0
            j += 1
        f, g = scale_a * (2 * F + mass_a) - 1, scale_b * (2 * G + mass_b) - 1
        for k in range(i, j):
            index = np.int64(keys[k] & low)
            if index < N:
                out[index] = g - self_factor * f
        F += mass_a
        G += mass_b
        i = j
