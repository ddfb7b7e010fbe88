"""The two distribution functions of every slice at every point, by one sort of the joined projections."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for
from rieszflow.engines.sort import loops

__all__ = ["Profile", "gradient", "profile"]


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


def _gradient_cpu(px: Tensor, py: Tensor, a: Tensor | None, b: Tensor | None, self_factor: float) -> Tensor:
    out = torch.from_numpy(np.empty(px.shape, np.float32))
    none = np.empty(0, np.float32)
    wa, wb = (none if w is None else w.detach().contiguous().numpy() for w in (a, b))
    args = px.detach().numpy(), py.detach().numpy(), wa, wb, self_factor, out.numpy()
    parallel_for(loops.gradient, len(px), 1, *args)
    return out


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
