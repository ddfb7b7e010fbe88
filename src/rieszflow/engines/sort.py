"""The exact engine: both distribution functions of every slice at every point, by one sort of the joined projections.

It takes O((N + M) log(N + M)) per slice in PyTorch operations. For the derivative by x alone of float32 points on the CPU, as
flows need it, there are compiled loops with a radix sort, O(N + M).
"""

from __future__ import annotations

from typing import ClassVar

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.numerics import power_of_two, power_of_two_tensor, within_range
from rieszflow._types import Cloud, Need, Pair
from rieszflow.directions import Directions
from rieszflow.engines.base import Engine, Problem, Result
from rieszflow.kernels import Riesz

_PROJECTIONS = 1 << 26  # at a time: 256 MB of float32


class Sort(Engine):
    """MMD² for Riesz(1.0), exact on every slice, with derivatives by points and weights."""

    name: ClassVar[str] = "sort"

    def refusal(self, problem: Problem) -> str | None:
        if problem.group is not None:
            return "`engine` must be 'bins' or 'auto' with a process group, got 'sort'"
        if problem.kernel.degree != 1:
            return f"`kernel` must be Riesz(1.0) with engine 'sort', got {problem.kernel!r}; engine 'bins' accepts it"
        return None

    def evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        x, y = pair.x, pair.y
        # The origin is the median of some points, near which projections keep more digits than near 0.
        some = y.points[..., :31, :].sort(dim=-2).values
        centre = some[..., (some.shape[-2] - 1) // 2, None, :]
        # A power of two, without rounding, keeps very small numbers from becoming denormal on the way.
        ends = [(cloud.points.amax(-2, keepdim=True), cloud.points.amin(-2, keepdim=True)) for cloud in (x, y)]
        reach = torch.cat([t for high, low in ends for t in (high - centre, centre - low)]).amax()
        scale: float | Tensor = power_of_two_tensor(reach)
        if problem.need.value or reach.device.type == "cpu":  # derivatives do not wait for other devices
            scale = power_of_two(within_range(reach.item(), reach.dtype), reach.dtype)
        numbers = (x.points.numel() + y.points.numel()) // x.points.shape[-1]
        total = Result()
        for part in directions.split(max(1, _PROJECTIONS // numbers)):
            total += _on_part(part, pair, centre, scale, problem.need)
        c = 2 * Riesz(1.0).basis_constant(directions.n) / directions.P
        for sums in (total.value, total.a, total.b):
            if sums is not None:
                sums *= c / scale
        for gradient, cloud in ((total.x, x), (total.y, y)):
            if gradient is not None:
                w = cloud.weights
                gradient *= c / cloud.points.shape[-2] if w is None else c * w.unsqueeze(-1)
        return total


def _on_part(part: Directions, pair: Pair, centre: Tensor, scale: float | Tensor, need: Need) -> Result:
    """Return sums over a part of the slices, of scaled points."""
    x, y = pair.x, pair.y
    alpha, beta = (_self_factor(cloud, pair.unbiased) for cloud in (x, y))
    if need == Need(x=True) and x.points.device.type == "cpu" and x.points.dtype == torch.float32 and x.points.ndim == 2:
        out, none = np.empty((part.P, len(x.points)), np.float32), np.empty(0, np.float32)
        # In one expression, which frees the P × N projections as soon as it can.
        parallel_for(
            radix_gradient, part.P, 1, *(part.project(cloud.points, centre, scale).numpy() for cloud in (x, y)),
            *(none if cloud.weights is None else cloud.weights.contiguous().numpy() for cloud in (x, y)), alpha.item(), out,
        )  # fmt: skip
        return Result(x=part.adjoint(torch.from_numpy(out)))
    z, order = torch.cat([part.project(cloud.points, centre, scale) for cloud in (x, y)], -1).sort(dim=-1)
    N, result = x.points.shape[-2], Result()
    (F, F_mid), (G, G_mid) = _distribution_functions(z, order, N, x.weights, y.weights)
    F_mid, G_mid = _unsort(F_mid, order), _unsort(G_mid, order)
    if need.value or need.weights:
        gaps, difference = z.diff(dim=-1), (G - F)[..., :-1]
        spreads = [((H * (1 - H).clamp(min=0))[..., :-1] * gaps).sum(-1) for H in (F, G)]  # ∫H(1 − H) = ½E|Z − Z′|
    if need.value:
        correction = (alpha[..., 0] - 1) * spreads[0] + (beta[..., 0] - 1) * spreads[1]
        result.value = ((difference**2 * gaps).sum(-1) - correction).double().sum(-1)
    if need.x:
        result.x = part.adjoint((2 * G_mid - 1 - alpha * (2 * F_mid - 1))[..., :N])
    if need.y:
        result.y = part.adjoint((2 * F_mid - 1 - beta * (2 * G_mid - 1))[..., N:])
    if need.weights:
        # E|t − Y| − E|t − X| has the slope 2(G − F) and left of all points the value E Y − E X = ∫(F − G) dt; E|t − X| has
        # the slope 2F − 1 and the value ∫(1 − F) dt there. Written so, a common shift cancels before it can round.
        potential = _unsort(_integrate(-difference * gaps, 2 * difference * gaps), order)
        own_x, own_y = (_unsort(_integrate((1 - H) * gaps, (2 * H - 1) * gaps), order) for H in (F[..., :-1], G[..., :-1]))
        if need.a:
            result.a = _by_weights(potential[..., :N], own_x[..., :N], spreads[0], x, alpha, pair.unbiased)
        if need.b:
            result.b = _by_weights(-potential[..., N:], own_y[..., N:], spreads[1], y, beta, pair.unbiased)
    return result


def _self_factor(cloud: Cloud, unbiased: bool) -> Tensor:
    """Return 1/(1 − Σw²), (..., 1, 1), which turns a mean over all pairs into one over distinct pairs; 1 for V."""
    x, w = cloud.points, cloud.weights
    if not unbiased:
        return x.new_ones(1, 1)
    if w is None:
        return x.new_full((1, 1), x.shape[-2] / (x.shape[-2] - 1))
    return 1 / (1 - (w**2).sum(-1))[..., None, None]


def _by_weights(potential: Tensor, own: Tensor, spread: Tensor, cloud: Cloud, factor: Tensor, unbiased: bool) -> Tensor:
    """Return the derivative by the weights of a cloud, summed over slices: (..., N)."""
    if unbiased:
        assert cloud.weights is not None
        w = cloud.weights.unsqueeze(-2)
        potential = potential - (factor - 1) * own - (2 * factor**2 * spread.unsqueeze(-1)) * w
    return potential.sum(-2)


def _integrate(start: Tensor, steps: Tensor) -> Tensor:
    """Return the function that begins with Σ start and grows by the steps: (..., K − 1) to (..., K)."""
    start = start.sum(-1, keepdim=True)
    return torch.cat([start, start + steps.cumsum(-1)], -1)


def _distribution_functions(
    z: Tensor, order: Tensor, N: int, a: Tensor | None, b: Tensor | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return F and G at sorted points z, each right of the points, once a tie is complete, and at them, with mid-ranks."""
    K = z.shape[-1]
    is_x = order < N
    own = torch.full_like(z, 1 / N) if a is None else _gather(a, order.clamp(max=N - 1))
    other = torch.full_like(z, 1 / (K - N)) if b is None else _gather(b, (order - N).clamp(min=0))
    # First and last index of every group of equal values.
    index = torch.arange(K, device=z.device).expand_as(z)
    edge = z.diff(dim=-1) > 0
    inside = torch.ones_like(edge[..., :1])
    first = torch.where(torch.cat([inside, edge], -1), index, 0).cummax(-1).values
    last = torch.where(torch.cat([edge, inside], -1), index, K - 1).flip(-1).cummin(-1).values.flip(-1)

    def function(weights: Tensor) -> tuple[Tensor, Tensor]:
        upto = weights.double().cumsum(-1)
        before = torch.cat([torch.zeros_like(upto[..., :1]), upto], -1)
        mid = 0.5 * (before.gather(-1, first) + upto.gather(-1, last))
        return upto.to(z.dtype), mid.to(z.dtype)

    return function(torch.where(is_x, own, 0)), function(torch.where(is_x, 0, other))


def _gather(w: Tensor, order: Tensor) -> Tensor:
    """Return the weights (..., N) of the points with the indices `order` (..., P, K)."""
    return w.detach().unsqueeze(-2).expand(*order.shape[:-1], w.shape[-1]).gather(-1, order)


def _unsort(values: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(-1, order, values)


_BITS, _PASSES = 11, 3


@numba.njit(**OPTIONS)
def radix_gradient(first, last, worker, step, px, py, a, b, self_factor, out):
    """Write 2G − 1 − self_factor(2F − 1) at px (P, N): the derivative in every slice by px, over the point's weight."""
    N, M = px.shape[1], py.shape[1]
    keys, other = np.empty(N + M, np.uint64), np.empty(N + M, np.uint64)
    counts = np.empty((_PASSES, 1 << _BITS), np.uint32)
    result = np.empty(N + 1, np.float32)
    for p in range(first, last):
        pack(px[p], keys[:N], 0)
        pack(py[p], keys[N:], N)
        radix_sort(keys, other, counts)  # an odd number of passes: sorted keys are in `other`
        if a.shape[0] or b.shape[0] or scan(other, N, M, self_factor, result):
            scan_ties(other, a, b, N, M, self_factor, result)
        out[p] = result[:N]


@numba.njit(**OPTIONS)
def pack(x, keys, start):
    """Pack order-preserving bits of the values (high half) and indices (low half) into keys."""
    bits = (x + np.float32(0)).view(np.uint32)  # −0 becomes +0: they are a tie
    for i in range(keys.shape[0]):
        u = bits[i]
        flip = np.uint32(0xFFFFFFFF) if u >> np.uint32(31) else np.uint32(0x80000000)
        keys[i] = (np.uint64(u ^ flip) << np.uint64(32)) | np.uint64(start + i)


@numba.njit(**OPTIONS)
def radix_sort(keys, other, counts):
    """Sort by the high halves, 11 bits per pass, least significant first: linear time for any values."""
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
def scan(keys, N, M, self_factor, out):
    """out[i] = 2G(x_i) − 1 − self_factor(2F(x_i) − 1) without branches, if there are no ties. Return True if there are."""
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    tie = False
    seen = 0  # points of x so far
    before = np.uint64(0xFFFFFFFFFFFF)
    for i in range(keys.shape[0]):
        key = keys[i]
        tie |= key >> high == before
        before = key >> high
        index = np.uint32(key & low)
        # y's results all go to out[N], which is not read
        out[min(index, np.uint32(N))] = 2.0 * (i - seen) / M - 1 - self_factor * ((2.0 * seen + 1) / N - 1)
        seen += np.int64(index < N)
    return tie


@numba.njit(**OPTIONS)
def scan_ties(keys, a, b, N, M, self_factor, out):
    """Compute the same with mid-ranks at ties and with weights."""
    low = np.uint64(0xFFFFFFFF)
    scale_a = 1.0 if a.shape[0] else 1.0 / N
    scale_b = 1.0 if b.shape[0] else 1.0 / M
    F, G = 0.0, 0.0
    i, K = 0, keys.shape[0]
    while i < K:
        value = keys[i] >> np.uint64(32)
        weight_a, weight_b = 0.0, 0.0
        j = i
        while j < K and keys[j] >> np.uint64(32) == value:
            index = np.int64(keys[j] & low)
            if index < N:
                weight_a += a[index] if a.shape[0] else 1.0
            else:
                weight_b += b[index - N] if b.shape[0] else 1.0
            j += 1
        f, g = scale_a * (2 * F + weight_a) - 1, scale_b * (2 * G + weight_b) - 1
        for k in range(i, j):
            index = np.int64(keys[k] & low)
            if index < N:
                out[index] = g - self_factor * f
        F += weight_a
        G += weight_b
        i = j
